"""What a layout is: a module that says of a file which model it holds, from names and configs alone."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from converters.reports import Outcome
from mdjax.columns import LIMITS, TRAINING

COLUMNS: Mapping[str, type] = {
    **{name: int if name in ("batch_size", "epochs") else float for name in TRAINING},
    "epoch": int,
    "schedule": str,
    "optimizer": str,
    "initialisation": str,
    "nonlinearity": str,
    "dropout": float,
    "dataset": str,
    "checkpoint": str,
    "logged_train_loss": float,
    "logged_train_acc": float,
    "logged_test_loss": float,
    "logged_test_acc": float,
}
"""Columns of a zoo's manifest that a layout may fill, with their types: a config's values are whatever was typed."""


_Found = TypeVar("_Found")
_remembered: list[Callable[[], None]] = []


def remembered(function: Callable[[Path], _Found]) -> Callable[[Path], _Found]:
    """Makes a function of a folder remember what it found, until the next search: it is asked for every file there."""
    cached = functools.lru_cache(maxsize=64)(function)
    _remembered.append(cached.cache_clear)
    return cached


def forget() -> None:
    """Read every folder anew: its files may have changed since the last search."""
    for clear in _remembered:
        clear()


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One model, as the names of its file and folders and the configs beside it describe it.

    `model_id`, `configuration` (everything but the seed) and `seed` are the model's names in the zoo; `known` its
    training facts (see `known_facts`). `facts` are what the weights do not tell of the network, as
    `converters.recognise` takes them. `width` is the network's where the layout says it, and the weights must agree;
    `data` is what the model was trained on, as `mdjax measure --data` would name it. Of several checkpoints of one
    model that of the lowest `rank` is taken.

    `by_folder`: the configuration is only the name of its folder, and `run` what tells the file's training run from
    the others there, whichever of the run's checkpoints it is. `counted`: its seed is an index among the files beside
    it, which no name tells.
    """

    path: Path
    model_id: str
    configuration: str
    seed: int
    known: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    width: int | None = None
    data: str = ""
    rank: int = 0
    by_folder: bool = False
    run: str = ""
    counted: bool = False

    def __post_init__(self) -> None:
        for name in ("model_id", "configuration"):
            object.__setattr__(self, name, _storable(getattr(self, name)))

    @property
    def row(self) -> dict[str, Any]:
        """The model's row of a zoo's manifest, as far as it is known before the weights are read."""
        names = {"model_id": self.model_id, "configuration": self.configuration, "seed": self.seed}
        return names | dict(self.known)


class Layout(Protocol):
    """One module per layout: its name for --format, one line for the help, and `claim`."""

    @property
    def NAME(self) -> str: ...  # noqa: N802

    @property
    def SUMMARY(self) -> str: ...  # noqa: N802

    def claim(self, path: Path, root: Path) -> Candidate | Outcome | None:
        """What the file `path` below `root` is: a model, a file to skip or refuse and why, or None: not mine.

        Reads no weights. Never raises for what a file or config holds.
        """
        ...


def known_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Those facts that have a column, in its type; a value that does not fit its column is left out."""
    found = {}
    for name, value in facts.items():
        kind = COLUMNS.get(name)
        if kind is None or (fitting := _fitting(kind, value)) is None:
            continue
        _, least, greatest = LIMITS.get(name, (kind, -math.inf, math.inf))
        # A zoo takes no others, and one odd config must not cost the models beside it.
        if kind is str or (least <= fitting <= greatest and (name, fitting) != ("data_share", 0)):
            found[name] = fitting
    return found


def _fitting(kind: type, value: Any) -> Any:
    if kind is str:
        return _storable(value) if isinstance(value, str) else None
    # A column has 64 bits; and a batch of 12.5 examples is no batch.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**62:
        return None
    return kind(value) if kind is float or value == int(value) else None


def _storable(text: str) -> str:
    """The text as UTF-8 can write it: JSON may spell half of a surrogate pair, which becomes a question mark."""
    return text.encode("utf-8", "replace").decode()
