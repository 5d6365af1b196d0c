"""One checkpoint file → its network: the architecture, the row of a manifest, the arrays."""

import dataclasses
import hashlib
import math
from typing import Any

from converters import families
from converters.errors import RefusedError
from converters.layouts.contract import known_facts
from converters.naming import Given, Override, overrides
from converters.own_modules import OwnModule
from converters.state_dicts import Reading, read_checkpoint
from mdjax.errors import first_line
from mdjax.models import Architecture
from mdjax.models.architecture import shape_text
from mdjax.models.sequences import NONLINEARITIES
from mdjax.zoo.store import open_shape

_LONGEST = 16
"""Characters of the longest variant that is spelled out in an architecture's label."""


@dataclasses.dataclass(frozen=True)
class Recognised:
    """One file's network: its architecture, its row of the manifest, and (params, state).

    `overridden` is what names, configs or the file tell otherwise than was given; `misnamed` what was given of the
    network otherwise than its weights are; `notes` say what reading changed or left out.
    """

    architecture: Architecture
    row: dict[str, Any]
    model: Any
    overridden: tuple[Override, ...]
    misnamed: tuple[Override, ...]
    notes: tuple[str, ...]


def recognised(
    given: Given, shape: tuple[int, ...] | None, reading: Reading, module: OwnModule | None = None
) -> Recognised:
    """The network of a file.

        given: the file, as its layout and the user describe it.
        shape: of an example of the data, where it is known.
        reading: how the file is read.
        module: the network's own code, where its family is not to be recognised.

    Raises RefusedError with the reason.
    """
    candidate = given.candidate
    facts = dict(candidate.facts)
    if shape is not None and "input_shape" not in given.facts:
        facts["input_shape"] = shape
    elif shape is not None and not same_inputs(facts["input_shape"], shape):
        said = shape_text(facts["input_shape"])
        raise RefusedError(f"its input_shape is given as {said}, but the data has inputs of {shape_text(shape)}")
    checkpoint = read_checkpoint(candidate.path, reading)
    try:
        arrays = checkpoint.arrays
        if module is None:
            architecture = families.recognise(arrays, facts)
        else:
            architecture, arrays = module.recognised(arrays, facts)
        if candidate.width not in (None, architecture.width):
            raise RefusedError(f"its width is {architecture.width}, but its folder says {candidate.width}")
        if "max_pool" in given.facts and not architecture.family.startswith("resnet"):
            said = str(given.facts["max_pool"]).lower()
            raise RefusedError(f"max_pool is {said}, but a {architecture.family} has no stem that a pool could follow")
        if "heads" in given.facts and architecture.family not in ("encoder", "decoder"):
            raise RefusedError(f"heads were given, but a {architecture.family} has none")
        words = architecture.variant.split()
        if "nonlinearity" in given.facts and architecture.family == "sequence" and not {*words} & NONLINEARITIES.keys():
            raise RefusedError("a nonlinearity was given, but its only layer is followed by none")
        model = families.to_flax(arrays, architecture)
    except RefusedError:
        raise
    except Exception as error:  # whatever a file holds, the others are converted
        raise RefusedError(f"its entries make no network: {first_line(error)}") from None
    row, found = candidate.row, known_facts(checkpoint.facts)
    row |= {name: value for name, value in found.items() if row.get(name) is None}
    if facts.get("input_shape") is None:
        row["input_shape"] = open_shape(architecture)
    # The seeds of a configuration are compared with each other: two kinds of network in a folder are two of them.
    if candidate.width is None:
        row["configuration"] = f"{candidate.configuration}-{label(architecture)}"
    weights = {name: getattr(architecture, name) for name in given.network}
    overridden = (*given.overrides, *overrides(given.columns, found))
    misnamed = tuple(overrides(given.network, weights))
    return Recognised(architecture, row, model, overridden, misnamed, tuple(checkpoint.notes))


def same_inputs(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two shapes of an example are one, or one is the other as a vector."""
    return one == other or (math.prod(one) == math.prod(other) and 1 in (len(one), len(other)))


def label(architecture: Architecture) -> str:
    """A short name that tells architectures apart but for their input, as in `resnet18-w4-d18-c10`."""
    parts = [architecture.family, f"w{architecture.width}", f"d{architecture.depth}", f"c{architecture.num_classes}"]
    variant = architecture.variant
    if len(variant) > _LONGEST:
        variant = hashlib.blake2b(variant.encode(), digest_size=3).hexdigest()
    return "-".join([*parts, variant] if variant else parts)
