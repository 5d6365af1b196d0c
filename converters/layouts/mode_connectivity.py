"""Runs of dnn-mode-connectivity: a folder each, with its command line and a checkpoint per so many epochs.

Layout and names: github.com/timgaripov/dnn-mode-connectivity (Garipov et al., "Loss surfaces, mode connectivity, and
fast ensembling of DNNs", NeurIPS 2018).
"""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from converters.layouts.contract import Candidate, known_facts, remembered
from converters.layouts.files import seed_in, without_seed
from converters.reports import Outcome

NAME = "mode-connectivity"
SUMMARY = "RUN/command.sh, RUN/checkpoint-EPOCH.pt"

_FILE = re.compile(r"checkpoint-(\d{1,9})\.pt")
_KNOWN = {"batch_size": int, "lr": float, "wd": float, "momentum": float}
_COLUMNS = {"lr": "learning_rate", "wd": "weight_decay"}
_DEFAULTS = {"batch_size": "128", "lr": "0.01", "wd": "1e-4", "momentum": "0.9", "seed": "1"}
"""What the training script takes where its command line names nothing."""

_MAX_BYTES = 2**16


def claim(path: Path, root: Path) -> Candidate | Outcome | None:
    """The model of one epoch of a run; its facts come from the run's command line, where that was kept.

    Without it, a seed is looked for in the folder's name, and else the run is a configuration of its own.
    """
    file = _FILE.fullmatch(path.name)
    if not file:
        return None
    run, epoch = path.parent, int(file[1])
    options = _options(run)
    seed = _number(options.get("seed"), int) if options else seed_in(run.name)
    known = {_COLUMNS.get(name, name): _number(options.get(name), kind) for name, kind in _KNOWN.items()}
    known |= {"epochs": epoch, "dataset": options.get("dataset", "").lower() or None}
    # Runs of one configuration differ by their seed, and lie in folders that are named at will.
    spelled = [f"{name}{options[name]}" for name in ("model", "dataset", *_KNOWN) if name in options]
    name = "-".join(spelled) if options else without_seed(run.name) or "runs"
    return Candidate(
        path=path,
        model_id=f"{run.parent.name}/{run.name}/e{epoch}",
        configuration=f"{run.parent.name}/{name}-e{epoch}",
        seed=0 if seed is None else int(seed),
        known=known_facts(known),
        facts={"input_shape": (32, 32, 3)} if options.get("dataset") in ("CIFAR10", "CIFAR100") else {},
        data="cifar10" if options.get("dataset") == "CIFAR10" else "",
    )


@remembered
def _options(run: Path) -> Mapping[str, str]:
    """The options of a run's command line, defaults included; empty where there is none."""
    path = run / "command.sh"
    try:
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            return {}
        words = shlex.split(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found = dict(_DEFAULTS)
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found[name] = value if equals or following.startswith("--") else following
    return found


def _number(text: str | None, kind: type) -> int | float | None:
    try:
        return kind(text)
    except (TypeError, ValueError):
        return None
