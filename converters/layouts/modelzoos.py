"""ModelZoos: Ray Tune trials, a folder each with its config, its log, and a checkpoint per epoch.

Layout and names: github.com/ModelZoos/ModelZooDataset (Schürholt et al., "Model zoos: a dataset of diverse populations
of neural network models", NeurIPS 2022) and github.com/ModelZoos/PhaseTransitionModelZoo.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.layouts.contract import Candidate, known_facts, remembered
from converters.reports import Outcome, OutcomeCode

NAME = "modelzoos"
SUMMARY = "TRIAL/params.json, TRIAL/result.json, TRIAL/checkpoint_N/checkpoints"

_FOLDER = re.compile(r"checkpoint_(\d{1,9})")
_MAX_BYTES = 2**26
"""Largest config or log that is read."""

_KNOWN = {
    "training::batchsize": "batch_size",
    "optim::lr": "learning_rate",
    "optim::wd": "weight_decay",
    "optim::momentum": "momentum",
    "optim::optimizer": "optimizer",
    "optim::scheduler": "schedule",
    "model::init_type": "initialisation",
    "model::nlin": "nonlinearity",
    "model::dropout": "dropout",
}
"""Key of a trial's config → column of the manifest."""

_NAMED = {
    "model::type": "",
    "model::width": "w",
    "training::batchsize": "bs",
    "optim::optimizer": "",
    "optim::lr": "lr",
    "optim::wd": "wd",
    "model::nlin": "",
    "model::dropout": "d",
    "model::init_type": "",
}
"""Keys that the name of a configuration spells out, and what stands before their values."""

_LONGEST = 32
"""Longest value that is spelled out."""

_DATA = {"cifar100": "cifar100", "cifar10": "cifar10", "tinyimagenet": "tinyimagenet", "fmnist": "fmnist"}
_DATA |= {"fashionmnist": "fmnist", "mnist": "mnist", "svhn": "svhn", "usps": "usps", "stl10": "stl10"}
"""What a path to the training data contains, without its punctuation → the data's usual name; longer ones first."""


def claim(path: Path, root: Path) -> Candidate | Outcome | None:
    """The model of one epoch of a trial. Its configuration is everything in the trial's config but the seed.

    `epochs` is the number of the checkpoint, 0 being the untrained network; `logged_…` are the trial's own figures
    of that epoch. The config comes from params.json, else from the log: a log's may be the one after the batch was
    split to fit a device.
    """
    folder = _FOLDER.fullmatch(path.parent.name)
    if path.name != "checkpoints" or not folder:
        return None
    trial, epoch = path.parent.parent, int(folder[1])
    config = _config(trial)
    if config is None:
        reason = f"its trial {trial.name} has neither a params.json nor a result.json with its config"
        return Outcome(path, OutcomeCode.REFUSED, reason)
    seed = config.get("seed")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**62:
        return Outcome(
            path, OutcomeCode.REFUSED, f"its trial's config has the seed {str(seed)[:40]!r}, not a whole number"
        )
    known = {name: config[key] for key, name in _KNOWN.items() if key in config}
    known |= {"epochs": epoch, "dataset": _dataset(config, trial)}
    known |= {f"logged_{name}": value for name, value in _logged(trial).get(epoch, {}).items()}
    return Candidate(
        path=path,
        model_id=f"{trial.parent.name}/{trial.name}/e{epoch}",
        configuration=f"{trial.parent.name}/{_name(config)}-e{epoch}",
        seed=seed,
        known=known_facts(known),
        facts=_facts(config),
    )


def _facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the weights do not tell of the network."""
    nonlinearity = config.get("model::nlin")
    return {"nonlinearity": nonlinearity} if isinstance(nonlinearity, str) else {}


def _name(config: Mapping[str, Any]) -> str:
    """Readable, and different for different configs: what is not spelled out is in a digest at the end."""
    named = {key: str(config[key]) for key in _NAMED if isinstance(config.get(key), str | int | float)}
    named = {key: text for key, text in named.items() if len(text) <= _LONGEST}
    parts = [f"{_NAMED[key]}{text}" for key, text in named.items()]
    kinds = ("model::", "optim::", "training::epochs_train", "training::loss", "dataset::seed")
    rest = {key: value for key, value in config.items() if key.startswith(kinds) and key not in named}
    text = json.dumps(rest, sort_keys=True, default=str)
    return "-".join([*parts, hashlib.blake2b(text.encode(), digest_size=3).hexdigest()]).replace(" ", "")


def _dataset(config: Mapping[str, Any], trial: Path) -> str | None:
    for text in (config.get("dataset::dump"), config.get("training::data_path"), str(trial)):
        squeezed = re.sub(r"[^a-z0-9/]", "", str(text).lower())
        if found := next((name for word, name in _DATA.items() if word in squeezed), None):
            return found
    return None


@remembered
def _config(trial: Path) -> dict[str, Any] | None:
    config = _parsed(_text(trial / "params.json"))
    if isinstance(config, dict):
        return config
    first = _parsed(_text(trial / "result.json").partition("\n")[0])
    config = first.get("config") if isinstance(first, dict) else None
    return config if isinstance(config, dict) else None


@remembered
def _logged(trial: Path) -> dict[int, dict[str, Any]]:
    """Epoch → its losses and accuracies, by the log's own count of iterations rather than by its lines.

    Whether the first line is that of the untrained network differs between zoos.
    """
    found: dict[int, dict[str, Any]] = {}
    for line in _text(trial / "result.json").splitlines():
        row = _parsed(line)
        if isinstance(row, dict) and isinstance(epoch := row.get("training_iteration"), int):
            names = ("train_loss", "train_acc", "test_loss", "test_acc")
            # -999 stands for what was not measured, at epoch 0.
            found[epoch] = {name: row[name] for name in names if row.get(name, -999) != -999}
    return found


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _text(path: Path) -> str:
    try:
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            return ""
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
