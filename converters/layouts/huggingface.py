"""Networks that Hugging Face's `transformers` saved: a folder with a config.json beside the weights.

Layout and names: github.com/huggingface/transformers, `PreTrainedModel.save_pretrained` and `Trainer`.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from converters.layouts import files
from converters.layouts.contract import Candidate, remembered
from converters.reports import Outcome, OutcomeCode

NAME = "hugging-face"
SUMMARY = "config.json beside model.safetensors or pytorch_model.bin"

_MAX_BYTES = 2**22
_STATES = re.compile(r"(?:training_args|optimizer|scheduler|scaler|rng_state(?:_\d+)?)\.(?:bin|pt|pth)")
_HEADS = ("num_attention_heads", "n_head")
_LONG = ("id2label", "label2id")


def claim(path: Path, root: Path) -> Candidate | Outcome | None:
    """A model as any tree of files has it, with what the config.json beside it says of the network.

    Files with a trainer's state beside the weights are skipped.
    """
    config = _config(path.parent)
    if config is None:
        return None
    if _STATES.fullmatch(path.name):
        return Outcome(path, OutcomeCode.SKIPPED, "the state of a training, not weights")
    found = files.claim(path, root)
    if not isinstance(found, Candidate):
        return found
    facts: dict[str, Any] = {"config": {name: value for name, value in config.items() if name not in _LONG}}
    heads = [config[name] for name in _HEADS if name in config]
    facts |= {"heads": heads[0]} if heads else {}
    return dataclasses.replace(found, facts={**found.facts, **facts})


@remembered
def _config(folder: Path) -> dict[str, Any] | None:
    """What the folder's config.json says, where `transformers` wrote it."""
    path = folder / "config.json"
    try:
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            return None
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("model_type"), str) else None
