"""A TOML file of settings → the list of models to train."""

import dataclasses
import itertools
import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdjax.columns import LIMITS, RECIPE
from mdjax.errors import InputError, brief, check_whole, first_line
from mdjax.inputs import read_text
from mdjax.models import GROWN
from mdjax.models.transformer_variants import parts_of
from mdjax.zoo.recipes import Recipe

_USUAL: dict[str, tuple[Any, ...]] = {
    "width": (4, 8, 16),
    "depth": (0,),
    "batch_size": (16, 64, 256),
    "data_share": (1.0,),
    "label_noise": (0.0,),
    "learning_rate": (0.05,),
    "momentum": (0.9,),
    "weight_decay": (5e-4,),
}
"""Axis → default values; types and limits are those of `mdjax.columns.LIMITS`, but that a depth of 0 is the usual one.
Every axis may be a number or a list of numbers."""

_VARIED = ("encoder", "decoder")

MOST_MODELS = 1_000_000
"""Most models of a grid: the list of their settings alone takes about 1 GB."""


def readable(value: float) -> str:
    """The shortest text that tells a number from every other one, without a trailing ".0"."""
    return repr(float(value)).removesuffix(".0")


@dataclasses.dataclass(frozen=True)
class Setting:
    """All that decides how one model is trained; `seed` alone tells the members of a configuration apart."""

    family: str
    width: int
    depth: int
    batch_size: int
    data_share: float
    label_noise: float
    learning_rate: float
    momentum: float
    weight_decay: float
    epochs: int
    seed: int
    recipe: Recipe = Recipe()
    variant: str = ""

    @property
    def configuration(self) -> str:
        """A readable name of everything but the seed, every digit of its numbers included."""
        network = f"{self.family}-w{self.width}" + (f"-depth{self.depth}" if self.depth else "")
        network = "-".join([network, *self.variant.split()])
        return (
            f"{network}-bs{self.batch_size}-data{readable(self.data_share)}"
            f"-noise{readable(self.label_noise)}-lr{readable(self.learning_rate)}-m{readable(self.momentum)}"
            f"-wd{readable(self.weight_decay)}-e{self.epochs}{self.recipe.text}"
        )

    @property
    def model_id(self) -> str:
        """The model's name in the zoo, from which its random numbers are derived too."""
        return f"{self.configuration}-s{self.seed}"


@dataclasses.dataclass(frozen=True)
class Grid:
    """A full grid of settings: every combination of the axes, each with `seeds` seeds, `epochs` epochs each.

    `variant` (of an encoder or decoder alone, `mdjax.models.transformer_variants`), `optimizer`, `schedule`, `warmup`
    and `augmentation` (`mdjax.zoo.recipes.Recipe`) are those of all.
    """

    data: str = "digits"
    family: str = "mlp"
    variant: str = ""
    epochs: int = 50
    seeds: int = 5
    width: tuple[int, ...] = _USUAL["width"]
    depth: tuple[int, ...] = _USUAL["depth"]
    batch_size: tuple[int, ...] = _USUAL["batch_size"]
    data_share: tuple[float, ...] = _USUAL["data_share"]
    label_noise: tuple[float, ...] = _USUAL["label_noise"]
    learning_rate: tuple[float, ...] = _USUAL["learning_rate"]
    momentum: tuple[float, ...] = _USUAL["momentum"]
    weight_decay: tuple[float, ...] = _USUAL["weight_decay"]
    optimizer: str = "sgd"
    schedule: str = "constant"
    warmup: float = 0.0
    augmentation: str = "none"

    def __post_init__(self) -> None:
        if self.family not in GROWN:
            raise InputError(f"architecture is {self.family!r}. Choose one of {', '.join(GROWN)}.")
        if not isinstance(self.variant, str):
            raise InputError(f"variant is {brief(self.variant)}. Give it as text, like 'h4 rms rotary swiglu nobias'.")
        if self.variant and self.family not in _VARIED:
            raise InputError(
                f"variant is {brief(self.variant)}, but only {' and '.join(_VARIED)} have one here. Leave it out."
            )
        if self.family in _VARIED:
            object.__setattr__(self, "variant", parts_of(self.variant).text)
        if not isinstance(self.data, str) or "\0" in self.data:
            raise InputError(f"data is {brief(self.data)}. Give a name or a path as text.")
        check_whole("epochs", self.epochs, 1, LIMITS["epochs"][2])
        check_whole("seeds", self.seeds, 1, MOST_MODELS)
        for name in _USUAL:
            object.__setattr__(self, name, _axis(name, getattr(self, name)))
        if self.recipe.optimizer == "adamw" and self.momentum != _USUAL["momentum"]:
            raise InputError(f"momentum is {list(self.momentum)}, but adamw has none to set. Leave it out.")
        if len(self) > MOST_MODELS:
            raise InputError(f"The grid has {len(self):,} models, but at most {MOST_MODELS:,} are grown. Give fewer.")

    def __len__(self) -> int:
        """How many models it has."""
        return self.seeds * math.prod(len(getattr(self, name)) for name in _USUAL)

    @property
    def recipe(self) -> Recipe:
        """What all models of the grid share of their training; InputError for values that mean nothing."""
        return Recipe(*(getattr(self, name) for name in RECIPE))

    def settings(self) -> list[Setting]:
        """Every model of the grid, in a fixed order."""
        axes = [getattr(self, name) for name in _USUAL]
        shared: dict[str, Any] = {"family": self.family, "epochs": self.epochs, "recipe": self.recipe}
        shared["variant"] = self.variant
        return [
            Setting(**shared, seed=seed, **dict(zip(_USUAL, values, strict=True)))
            for values in itertools.product(*axes)
            for seed in range(self.seeds)
        ]


def _axis(name: str, values: Any) -> tuple[Any, ...]:
    kind, least, greatest = LIMITS[name]
    least = 0 if name == "depth" else least
    values = tuple(values) if isinstance(values, Sequence) and not isinstance(values, str) else (values,)
    if not values:
        raise InputError(f"{name} is an empty list. Give at least one value.")
    for value in values:
        wrong_type = isinstance(value, bool) or not isinstance(value, int | kind)
        # NaN is between no limits.
        if wrong_type or not least <= value <= greatest:
            noun = "a whole number" if kind is int else "a number"
            raise InputError(
                f"{name} holds {brief(value)}. Give {noun} of at least {least} and at most {greatest:,}, or a list of "
                "them."
            )
        if name == "data_share" and value == 0:
            raise InputError("data_share holds 0. Give a fraction above 0 and at most 1.")
    if len(set(values)) < len(values):
        raise InputError(f"{name} holds a value twice: {brief(list(values))}. Give each value once.")
    return tuple(kind(value) for value in values)


def load_grid(path: str | Path) -> Grid:
    """Read a grid from TOML; raises InputError for a missing file, bad TOML, an unknown key or a bad value.

    Keys: `data`, `architecture`, `variant`, `epochs`, `seeds`, and the axes, each a number or a list: `width`, `depth`,
    `batch_size`, `data_share`, `label_noise`, `learning_rate`, `momentum`, `weight_decay`; and `optimizer`, `schedule`,
    `warmup` and `augmentation`, each one value (`mdjax.zoo.recipes.Recipe`).
    """
    path = Path(path)
    try:
        content = tomllib.loads(read_text(path))
    except OSError as error:
        raise InputError(f"Cannot read the grid {path}: {first_line(error)}. Give the path of a TOML file.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not valid TOML: {first_line(error)}. See 'mdjax train --help' for an example."
        ) from None
    fields = {field.name for field in dataclasses.fields(Grid)}
    keys = {"family" if key == "architecture" else key: value for key, value in content.items()}
    unknown = sorted(set(keys) - fields)
    if unknown:
        known = ", ".join(sorted((fields - {"family"}) | {"architecture"}))
        raise InputError(f"{path} has the unknown key {brief(unknown[0])}. Known keys are {known}.")
    try:
        return Grid(**keys)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
