"""state_dicts ↔ mdjax's own networks: which family a state_dict is of, and which of its entries is which array.

Each module here (`resnets`, `mode_connectivity`, `sequences`, `transformers`) knows some families: what their layers
are called in PyTorch, and which networks a state_dict may be (`guesses`). Every entry is used, or is a counter of
batches or another constant and dropped. Entries come as `read_state_dict` gives them: without prefixes, weight
normalisation multiplied out.
"""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from converters.errors import RefusedError, UnknownFamilyError
from converters.families import mode_connectivity, resnets, sequences, transformers
from converters.families.keys import Arrays, Facts, Schema, placed, problems_of, refuse_ties, schema_of, stored
from mdjax.errors import InputError
from mdjax.models import Architecture

__all__ = ["recognise", "to_flax", "to_state_dict", "to_torch"]

PyTree = Any

_NAMED = (resnets, mode_connectivity, sequences)
_GROUPS = (transformers, *_NAMED)
_LAYER_NAMES = {family: layer_names for group in _NAMED for family, layer_names in group.LAYER_NAMES.items()}

_FACTS = ("nonlinearity", "input_shape", "max_pool", "specification", "heads", "config")
_USUAL_WIDTHS = {
    "resnet18": 64,
    "resnet": 64,
    "resnet_cifar100": 64,
    "resnet_torchvision": 64,
    "vgg": 64,
    "preresnet": 16,
    "wideresnet": 10,
}


@functools.lru_cache(maxsize=256)
def _schema(architecture: Architecture) -> Schema:
    if architecture.family in transformers.FAMILIES:
        return transformers.schema_of(architecture)
    return schema_of(_LAYER_NAMES[architecture.family], architecture)


def recognise(arrays: Arrays, facts: Facts = MappingProxyType({})) -> Architecture:
    """The architecture that has exactly these entries.

    `facts` are what is known besides the weights, none of them needed where the weights tell:
    `nonlinearity` ("relu", "tanh", ...: the ModelZoos' CNNs and MLPs need it), `input_shape` (height, width, channels;
    default 28×28, 32×32 or 224×224 pixels by the family, and (n,) for an MLP of n inputs), `max_pool` (whether a 3×3
    stem is followed by one; default no), `specification` (the layers of a plain network, see
    `mdjax.models.sequences`), `heads` and `config` (of a transformer, the number of its heads, or what the config.json
    beside it says, as a dictionary).

    Raises InputError for facts of other names, and RefusedError where no family fits, naming the entries left over
    and the closest family, or where two parameters share their memory, as tied ones of one file do.
    """
    check_facts(facts)
    arrays = transformers.prepared(arrays)
    guesses = [
        architecture
        for group in ((sequences,) if facts.get("specification") is not None else _GROUPS)
        for architecture in _guesses(group, arrays, facts)
    ]
    candidates = [(problems_of(arrays, _schema(guess)), guess) for guess in guesses]
    for problems, guess in candidates:
        if not problems:
            refuse_ties(arrays, _schema(guess))
            return guess
    raise UnknownFamilyError(_reason(arrays, candidates))


def check_facts(facts: Facts) -> None:
    """Raise InputError where a fact is none of those that `recognise` reads, as a misspelled one."""
    if unknown := sorted(map(str, facts.keys() - set(_FACTS))):
        raise InputError(f"Unknown fact {unknown[0]!r}. Give some of {', '.join(_FACTS)}.")


def _guesses(group: Any, arrays: Arrays, facts: Facts) -> list[Architecture]:
    try:
        return group.guesses(arrays, facts)
    except RefusedError:
        raise
    except InputError as error:  # a family has no network of the depth or size that the weights suggest
        raise RefusedError(str(error).rstrip(".")) from None


def _reason(arrays: Arrays, candidates: list[tuple[list[str], Architecture]]) -> str:
    if candidates:
        problems, closest = min(candidates, key=lambda candidate: len(candidate[0]))
        return f"it is no {_described(closest)}, which is closest: {'; '.join(problems[:3])}"
    shared = {family: _shared(arrays, family) for family in _USUAL_WIDTHS}
    closest = max(shared, key=lambda family: shared[family])
    names = ", ".join(sorted(arrays)[:6]) + (", ..." if len(arrays) > 6 else "")
    if not arrays or shared[closest] < 0.2:
        return f"its {len(arrays)} entries ({names}) are those of no known family"
    return (
        f"its {len(arrays)} entries ({names}) are those of no known family; closest is {closest}, with "
        f"{shared[closest]:.0%} of the names in common"
    )


def _described(architecture: Architecture) -> str:
    variant = f", {architecture.variant}" if architecture.variant else ""
    return f"{architecture.family} of width {architecture.width} and depth {architecture.depth}{variant}"


def _shared(arrays: Arrays, family: str) -> float:
    """The fraction of names that a state_dict has in common with the family's usual network."""
    schema = _schema(Architecture(family, _USUAL_WIDTHS[family]))
    names = schema.names | schema.counters
    return len(names & arrays.keys()) / len(names | arrays.keys())


def to_flax(arrays: Arrays, architecture: Architecture) -> tuple[PyTree, PyTree]:
    """(params, state) of one model from its state_dict; every entry is used, or checked and dropped.

    Kernels go from OIHW to HWIO and from [out, in] to [in, out], most of them as views. Raises RefusedError for an
    entry that is missing or left over, or is not float32 of the expected shape.
    """
    if architecture.family in transformers.FAMILIES:
        arrays = transformers.prepared(arrays)
    return placed(arrays, _schema(architecture))


def to_state_dict(params: PyTree, state: PyTree, architecture: Architecture) -> dict[str, np.ndarray]:
    """The state_dict that `to_flax` turns into (params, state), equal bit for bit.

    Counters of batches, which no function depends on, are 0. Raises RefusedError where the trees do not fit the
    architecture.
    """
    arrays = stored(params, state, _schema(architecture))
    return transformers.restored(arrays) if architecture.family in transformers.FAMILIES else arrays


def to_torch(params: PyTree, state: PyTree, architecture: Architecture) -> Mapping[str, Any]:
    """`to_state_dict` with torch tensors, ready for `load_state_dict`. Raises InputError where torch is missing."""
    try:
        import torch
    except ImportError:
        raise InputError("Tensors need torch, which is not installed. Run pip install 'mdjax[torch]'.") from None
    return {name: torch.from_numpy(array) for name, array in to_state_dict(params, state, architecture).items()}
