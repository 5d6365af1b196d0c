"""What the networks to be diagnosed are like: how smaller ones of their kind are made and trained."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import pandas as pd

from mdjax.columns import RECIPE, TRAINING
from mdjax.errors import InputError
from mdjax.models import Architecture, FunctionModel, Model, sequence, transformer_variants
from mdjax.models.architecture import FAMILIES
from mdjax.models.layers import Convolution
from mdjax.models.sequences import scaled
from mdjax.sweeps.facts import read_facts
from mdjax.zoo.data import Dataset
from mdjax.zoo.grids import Setting
from mdjax.zoo.recipes import Recipe
from mdjax.zoo.store import Zoo
from mdjax.zoo.training import Network

PyTree = Any
Build = Callable[[int], tuple[Any, Callable[[jax.Array], tuple[PyTree, PyTree]]]]
"""Width → (model, init): a `Model` or an apply function, and a function of a random key that gives (params, state)."""

VARIED = ("learning_rate", "batch_size")
_USUAL = {"batch_size": 64, "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 5e-4, "epochs": 30}
_USUAL_ADAMW = {"learning_rate": 0.003, "weight_decay": 0.01}
_FACTORS = {"learning_rate": (1 / 30, 1 / 10, 1 / 3, 1, 3, 10), "batch_size": (1 / 8, 1 / 4, 1 / 2, 1, 2, 4)}
_LEAST_BATCH, _LEAST_EXAMPLES = 4, 16
_WIDTHS, _SHARES = 6, 4
"""Most widths and fractions of the data to choose from, each half of the next."""


@dataclasses.dataclass(frozen=True)
class Built:
    """A network of the user's own at one width, as what is trained."""

    user_model: Model
    user_init: Callable[[jax.Array], tuple[PyTree, PyTree]]

    def model(self, convolution: Convolution) -> Model:
        return self.user_model

    def init(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        return self.user_init(key)


@dataclasses.dataclass(frozen=True)
class Target:
    """The networks to be diagnosed: their kind, size, data and recipe.

    `training` holds the numbers of `mdjax.columns.TRAINING`; `build` makes networks that are no family of mdjax's.
    """

    family: str
    width: int
    depth: int
    variant: str
    training: Mapping[str, Any]
    recipe: Recipe
    build: Build | None = None

    def network(self, width: int, dataset: Dataset) -> Network:
        """The network of this kind at another width."""
        if self.family == "sequence":
            return sequence(scaled(self.variant, width / self.width), dataset.input_shape)
        if self.build is None:
            variant = transformer_variants.scaled(self.variant, width / self.width) if self._has_parts else self.variant
            return Architecture(self.family, width, dataset.input_shape, dataset.num_classes, self.depth, variant)
        made = self.build(width)
        if not isinstance(made, tuple | list) or len(made) != 2 or not callable(made[1]):
            raise InputError(f"build({width}) gives {type(made).__name__!r}. Give (model, init) for each width.")
        model = made[0] if isinstance(made[0], Model) else FunctionModel(made[0])
        return Built(model, made[1])

    def widths(self) -> list[int]:
        """Widths to choose from, the target's own last: each half of the next, as far as it parts into the heads."""
        widths = {max(1, round(self.width / 2**k)) for k in range(_WIDTHS)}
        heads = transformer_variants.parts_of(self.variant).heads if self._has_parts else 0
        return sorted(width for width in widths if width % (heads or 1) == 0)

    @property
    def _has_parts(self) -> bool:
        return self.build is None and self.family in ("encoder", "decoder")

    def shares(self, dataset: Dataset) -> list[float]:
        """Fractions of the data to choose from, the target's own last, each half of the next.

        Raises InputError for data of which no part can be left out.
        """
        whole = float(self.training["data_share"])
        shares = [whole / 2**k for k in range(_SHARES)]
        least = max(_LEAST_EXAMPLES, 2 * int(self.training["batch_size"]))
        found = sorted(share for share in shares if dataset.subset_size(share) >= least)
        if len(found) < 2:
            raise InputError(
                f"{dataset.name} has {dataset.subset_size(whole)} training examples for them, too few to train "
                f"on half of them in batches of {self.training['batch_size']}. Give a smaller batch_size in the recipe."
            )
        return found

    def temperatures(self, vary: str, num_examples: int) -> list[float]:
        """The values of the learning rate, or batch size, around the target's own."""
        own = self.training[vary]
        values = [own * factor for factor in _FACTORS[vary]]
        if vary == "learning_rate":
            return [float(f"{value:.3g}") for value in values]
        return sorted({round(value) for value in values if _LEAST_BATCH <= round(value) <= num_examples})

    def settings(self, vary: str, value: float, width: int, share: float, seeds: int) -> list[Setting]:
        """The training of the seeds of one configuration."""
        own: dict[str, Any] = {name: self.training[name] for name in TRAINING} | {vary: value, "data_share": share}
        own |= {"family": self.family, "width": width, "depth": self.depth, "recipe": self.recipe}
        return [Setting(**own, seed=seed) for seed in range(seeds)]

    def facts(self) -> dict[str, Any]:
        """What tells this target from others, as plain values."""
        return {
            "family": self.family,
            "width": self.width,
            "depth": self.depth,
            "variant": self.variant,
            **{name: self.training[name] for name in TRAINING},
            **{name: getattr(self.recipe, name) for name in RECIPE},
        }


def target_of(
    like: Zoo | str | Path | Architecture | int, build: Build | None, recipe: Mapping[str, Any] | None
) -> Target:
    """The target that a zoo, an architecture or its name describes; `recipe` wins over what a zoo says.

    like: a zoo or its folder, an `Architecture`, a name such as "mlp-w64" or "resnet18-w16"; with `build`, the width of
        the networks to be diagnosed.
    build: makes networks of any width, see `Build`.
    recipe: of `mdjax.columns.TRAINING` and `RECIPE` by name.

    All layers of a sequence are scaled together, by the features of the first. Raises InputError for anything else.
    """
    given = _checked(recipe or {})
    if build is not None:
        if not isinstance(like, int) or isinstance(like, bool) or like < 2:
            raise InputError(
                f"like is {like!r}. With build=, give the width of your networks, a whole number from 2 on."
            )
        return _target("given", like, 0, "", {}, given, build)
    if isinstance(like, Architecture):
        return _named(like.family, like.width, like.depth, like.variant, {}, given)
    if not isinstance(like, Zoo) and (found := re.fullmatch(r"([a-z0-9_]+?)(?:-w(\d+))?(?:-depth(\d+))?", str(like))):
        family, width, depth = found.groups()
        if family in FAMILIES:
            if width is None:
                raise InputError(f"The width of the networks is not known. Say it: --like {family}-w64 (like=).")
            return _named(family, int(width), int(depth or 0), "", {}, given)
    zoo = like if isinstance(like, Zoo) else Zoo(str(like))
    if zoo.manifest.empty:
        raise InputError(f"{zoo.path} holds no model that can be read. Name an architecture, like mlp-w64.")
    return _of_manifest(zoo.manifest, given)


def _of_manifest(manifest: pd.DataFrame, given: Mapping[str, Any]) -> Target:
    kinds = manifest.groupby(["family", "depth", "variant"], sort=False).size()
    family, depth, variant = kinds.index[int(kinds.to_numpy().argmax())]  # pyright: ignore[reportGeneralTypeIssues]
    rows = manifest[(manifest["family"] == family) & (manifest["depth"] == depth) & (manifest["variant"] == variant)]
    told: dict[str, Any] = {}
    for name in (*TRAINING, *RECIPE):
        values = rows[name].dropna() if name in rows else pd.Series(dtype=object)
        if len(values):
            # The largest amount of data is the target's; of the rest what most networks have.
            told[name] = values.max() if name == "data_share" else values.mode().iloc[0]
    return _named(str(family), int(rows["width"].max()), int(depth), str(variant), told, given)


def _named(
    family: str, width: int, depth: int, variant: str, told: Mapping[str, Any], given: Mapping[str, Any]
) -> Target:
    if width < 2:
        raise InputError(f"The networks have width {width}, and there are none smaller. Calibrate on wider ones.")
    return _target(family, width, depth, variant, told, given, None)


def _target(
    family: str,
    width: int,
    depth: int,
    variant: str,
    told: Mapping[str, Any],
    given: Mapping[str, Any],
    build: Build | None,
) -> Target:
    values = {**told, **given}
    recipe = Recipe(**{name: values[name] for name in RECIPE if name in values})
    usual = _USUAL | (_USUAL_ADAMW if recipe.optimizer == "adamw" else {}) | {"data_share": 1.0, "label_noise": 0.0}
    training = {name: type(usual[name])(values.get(name, usual[name])) for name in TRAINING}
    return Target(family, width, depth, variant, training, recipe, build)


def _checked(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with its numbers as numbers; InputError for unknown names and for values that are none."""
    if unknown := sorted(recipe.keys() - {*TRAINING, *RECIPE}):
        raise InputError(f"A recipe has no {unknown[0]!r}. Give some of {', '.join((*TRAINING, *RECIPE))}.")
    training = read_facts({name: value for name, value in recipe.items() if name in TRAINING})
    for name in ("learning_rate", "epochs"):
        if training.get(name) == 0:
            raise InputError(f"recipe: {name} is 0, with which nothing is learnt. Give more.")
    kinds = {name: value for name, value in recipe.items() if name in RECIPE}
    if isinstance(kinds.get("warmup"), str):
        with contextlib.suppress(ValueError):  # told by Recipe
            kinds["warmup"] = float(kinds["warmup"])
    return {**training, **kinds}


def parse_recipe(text: str) -> dict[str, str]:
    """The parts of a text such as "optimizer=adamw,schedule=cosine,learning_rate=0.003"; InputError for any other."""
    found: dict[str, str] = {}
    for piece in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (part.strip() for part in piece.partition("="))
        if not equals or not value or name in found:
            raise InputError(f"Cannot read the recipe {text!r} at {piece!r}. Write name=value, with commas between.")
        found[name] = value
    return found
