"""The published ResNet-18 zoo: where its files lie.

Layout: github.com/nsfzyzz/loss_landscape_taxonomy (Yang et al., "Taxonomizing local versus global
structure in neural network loss landscapes", NeurIPS 2021), reused by Zhou et al., ICML 2024.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converters.families import to_flax
from converters.state_dicts import RefusedError
from mdjax.errors import InputError
from mdjax.models import Architecture

DATA = "cifar10"
"""What all published models were trained on."""

LAYOUT = "different_knobs_KIND_NN/bs_B/SCHEDULE/ResNet18_wK/net_exp_SEED.pkl"

_FILE = re.compile(r"net_exp_(0|[1-9]\d*)(_early_stopped_model|_best|)\.pkl")
_CHECKPOINTS = {"_early_stopped_model": "early_stopped", "_best": "best", "": "last"}
"""File-name suffix → which checkpoint of a training run it is; the published analyses take the first there is."""

_FOLDERS = re.compile(
    r"different_knobs_(?P<kind>subset|subset_noisy|random_label)_(?P<number>10|0\d*)"
    r"/bs_(?P<batch_size>[1-9]\d*)/(?P<schedule>normal|lr_decay)/ResNet18_w(?P<width>[1-9]\d{0,3})"
)
_SUBSET_NOISE = 0.1
"""The label noise of `subset_noisy`: the only one the published scripts know."""


@dataclasses.dataclass(frozen=True, order=True)
class Checkpoint:
    """One model of the published zoo, as its folders and file name describe it."""

    width: int
    kind: str
    number: str
    schedule: str
    batch_size: int
    seed: int
    checkpoint: str
    path: Path

    @property
    def series(self) -> str:
        """The name of all models of one width, data and schedule, whatever their batch size and seed."""
        return f"resnet18-w{self.width}-{self.kind}_{self.number}-{self.schedule}"

    @property
    def configuration(self) -> str:
        """Everything but the seed. The folder's own name for the data is kept: `subset_noisy_10` and
        `random_label_01` are the same share and noise, but different training runs."""
        return f"resnet18-w{self.width}-bs{self.batch_size}-{self.kind}_{self.number}-{self.schedule}"

    @property
    def model_id(self) -> str:
        """The model's name in the zoo."""
        return f"{self.configuration}-s{self.seed}"

    @property
    def row(self) -> dict[str, Any]:
        """What is known of the model, as a row of a zoo's manifest.

        `seed` is the run's index: the published scripts set no seed. The learning rate and the number of epochs
        are stored nowhere, so they are None; momentum and weight decay are those of the published scripts.
        """
        share = _fraction(self.number)
        return {
            "model_id": self.model_id,
            "configuration": self.configuration,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "data_share": 1.0 if self.kind == "random_label" else share,
            "label_noise": {"subset": 0.0, "subset_noisy": _SUBSET_NOISE, "random_label": share}[self.kind],
            "learning_rate": None,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "epochs": None,
            "schedule": {"normal": "constant", "lr_decay": "one_decay"}[self.schedule],
            "checkpoint": self.checkpoint,
        }


def find(src: Path) -> Iterator[tuple[Path, Checkpoint | str]]:
    """Every checkpoint file under `src`, with what it is, or with the reason why that cannot be told.

    `src` is any folder of the published tree, from a parent of `checkpoint/` down to `ResNet18_wK`. Files in
    `metrics` folders are no checkpoints. Raises InputError where there is no such folder or no such file.
    """
    if not src.is_dir():
        raise InputError(f"There is no folder {src}. Give a folder that holds {LAYOUT}.")
    # The folders above `src` count too, so the path must be whole.
    paths = sorted(src.resolve().rglob("*.pkl"))
    paths = [path for path in paths if path.parent.name != "metrics" and path.is_file()]
    if not paths:
        raise InputError(f"There are no checkpoints in {src}. Give a folder that holds {LAYOUT}.")
    for path in paths:
        yield path, _checkpoint(path)


def _checkpoint(path: Path) -> Checkpoint | str:
    file = _FILE.fullmatch(path.name)
    if not file:
        return "its name is not net_exp_SEED.pkl, net_exp_SEED_best.pkl or net_exp_SEED_early_stopped_model.pkl"
    folders = _FOLDERS.fullmatch("/".join(path.parts[-5:-1]))
    if not folders:
        return f"its folders {'/'.join(path.parts[-5:-1])} are not named as in {LAYOUT}"
    if folders["kind"] != "random_label" and _fraction(folders["number"]) == 0:
        return f"its folder {path.parts[-5]} says that it was trained on no data"
    return Checkpoint(
        width=int(folders["width"]),
        kind=folders["kind"],
        number=folders["number"],
        schedule=folders["schedule"],
        batch_size=int(folders["batch_size"]),
        seed=int(file[1]),
        checkpoint=_CHECKPOINTS[file[2]],
        path=path,
    )


def preference(checkpoint: Checkpoint) -> int:
    """Sorts a model's checkpoints, the one to take first: early-stopped, best, last."""
    return list(_CHECKPOINTS.values()).index(checkpoint.checkpoint)


def _fraction(number: str) -> float:
    """The published shorthand: 10 → 1.0, 09 → 0.9, 025 → 0.25, 0 → 0.0."""
    return 1.0 if number == "10" else float(f"0.{number[1:]}0")


@functools.cache
def architecture_of(width: int) -> Architecture:
    """The paper's ResNet-18 of this width."""
    return Architecture("resnet18", width, input_shape=(32, 32, 3), num_classes=10)


def convert_arrays(arrays: Mapping[str, np.ndarray], architecture: Architecture) -> tuple[Any, Any]:
    """`converters.to_flax`, which names the folder where the width is not the folder's."""
    stem = arrays.get("conv1.weight")
    if stem is not None and stem.ndim == 4 and len(stem) != architecture.width:
        raise RefusedError(f"its width is {len(stem)} (rows of conv1.weight), but its folder says {architecture.width}")
    return to_flax(arrays, architecture)
