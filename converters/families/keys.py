"""Entries of a state_dict ↔ leaves of (params, state), one by one: names, shapes and the order of axes.

A family says what its layers are called in PyTorch (`LayerNames`); the rest is the same for all: kernels are OIHW or
[out, in] in PyTorch and HWIO or [in, out] here, BatchNorm's scale is called a weight there, and a layer that reads a
flattened image reads it channels first there and channels last here.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from converters.errors import RefusedError
from mdjax.models import Architecture

PyTree = Any
Arrays = Mapping[str, np.ndarray]
Facts = Mapping[str, Any]

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_COUNTER = "num_batches_tracked"
_MOST_WORK: Any = 10**6  # trials of whether two arrays share a number


@dataclasses.dataclass(frozen=True)
class LayerNames:
    """What the layers of one family are called in PyTorch, by their names in the Flax module.

    `layers` are those outside blocks. The layer NAME in block B of stage S, "layerS_B/NAME" in Flax, is
    `stage(S, B)`.`block[NAME]`. A family whose names or inputs depend on the architecture derives a class from this
    one, with a `torch_name` or `flattened` of its own.
    """

    layers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    block: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stage: Callable[[int, int], str] = lambda stage, block: f"layer{stage}.{block}"

    def torch_name(self, architecture: Architecture, layer: str) -> str:
        """The PyTorch module that the layer ("conv1", "layer2_0/conv1") corresponds to."""
        outer, _, inner = layer.partition("/")
        if not inner:
            return self.layers[outer]
        stage, block = outer.removeprefix("layer").split("_")
        return f"{self.stage(int(stage), int(block))}.{self.block[inner]}"

    def flattened(self, architecture: Architecture, layer: str) -> tuple[int, ...]:
        """The (height, width, channels) of the image that the layer reads as a vector; () for any other layer."""
        return ()

    def again(self, architecture: Architecture) -> Mapping[str, str]:
        """Other names of layers that are tied: PyTorch name → the `torch_name` of the same layer."""
        return {}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry of a state_dict and the leaf that it becomes."""

    name: str
    shape: tuple[int, ...]  # as stored by PyTorch
    image: tuple[int, ...]  # (height, width, channels) that its last stored axis runs over, or ()

    def leaf(self, array: np.ndarray) -> np.ndarray:
        """The stored array in Flax's order of axes: a view, but for what reads a flattened image."""
        if self.image:
            height, width, channels = self.image
            array = np.moveaxis(array.reshape(*array.shape[:-1], channels, height, width), -3, -1)
            array = array.reshape(self.shape)
        return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T

    def stored(self, leaf: np.ndarray) -> np.ndarray:
        """The inverse of `leaf`, in memory of its own."""
        array = leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf.T
        if self.image:
            array = np.moveaxis(array.reshape(*array.shape[:-1], *self.image), -1, -3)
        return np.array(array.reshape(self.shape), order="C")


@dataclasses.dataclass(frozen=True)
class Schema:
    """Which entries a state_dict of one architecture has, and where they go."""

    entries: tuple[Entry, ...]  # in the order of the leaves of (params, state)
    counters: frozenset[str]  # names of the entries that count batches in training, which nothing depends on
    aliases: Mapping[str, str]  # names of tied entries → the name of the same entry above
    structure: Any  # the pytree structure of (params, state)

    @functools.cached_property
    def names(self) -> frozenset[str]:
        return frozenset(entry.name for entry in self.entries)


def schema_of(names: LayerNames, architecture: Architecture) -> Schema:
    """Which entry of a state_dict is which leaf of the architecture's (params, state)."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(architecture.abstract)
    # A path is (params or state, layers..., leaf).
    paths = ["/".join(str(key.key) for key in path[1:]).rpartition("/") for path, _ in leaves]
    weighted = {layer for layer, _, leaf in paths if leaf == "kernel"}
    entries = []
    for (layer, _, leaf), (_, abstract) in zip(paths, leaves, strict=True):
        order = (3, 2, 0, 1) if len(abstract.shape) == 4 else range(len(abstract.shape))[::-1]
        # In a layer with a kernel only the kernel runs over the inputs; without one (BatchNorm) every array does.
        image = names.flattened(architecture, layer) if leaf == "kernel" or layer not in weighted else ()
        name = f"{names.torch_name(architecture, layer)}.{_LEAVES[leaf]}"
        entries.append(Entry(name, tuple(abstract.shape[axis] for axis in order), image))
    means = [entry.name for entry in entries if entry.name.endswith("running_mean")]
    counters = frozenset(name.replace("running_mean", _COUNTER) for name in means)
    aliases = {
        f"{other}{entry.name.removeprefix(layer)}": entry.name
        for other, layer in names.again(architecture).items()
        for entry in entries
        if entry.name.rpartition(".")[0] == layer
    }
    return Schema(tuple(entries), counters, aliases, structure)


def problems_of(arrays: Arrays, schema: Schema) -> list[str]:
    """What keeps a state_dict from having this schema: entries that are missing, left over or of another form.

    Counters of batches may be missing all together: PyTorch before 0.4.1 wrote none.
    """
    counted = schema.counters
    if schema.names <= arrays.keys() and not counted & arrays.keys():
        counted = frozenset()
    expected = schema.names | counted
    problems = []
    if missing := expected - arrays.keys():
        problems.append(f"it lacks {len(missing)} of {len(expected)} entries, first {min(missing)}")
    if unknown := arrays.keys() - expected - schema.aliases.keys():
        problems.append(f"it has {len(unknown)} unknown entries, {listed(sorted(unknown))}")
    for name in sorted(counted & arrays.keys()):
        if arrays[name].shape != () or arrays[name].dtype.kind != "i":
            problems.append(f"its entry {name} is no whole number, but {_form(arrays[name])}")
    for name, kept in schema.aliases.items():
        # Files that keep one copy of what is tied leave the other names out.
        if name in arrays and kept in arrays and not np.array_equal(arrays[name], arrays[kept], equal_nan=True):
            problems.append(f"its entries {name} and {kept} differ, but are tied to each other")
    for entry in schema.entries:
        array = arrays.get(entry.name)
        if array is not None and (array.shape != entry.shape or array.dtype != np.float32):
            problems.append(f"its entry {entry.name} is {_form(array)}, but float32{list(entry.shape)} was expected")
    return problems


def tied(arrays: Arrays, names: Iterable[str]) -> list[str]:
    """The first two of these entries that share memory, if any: they are one parameter under two names."""
    ends = {name: np.lib.array_utils.byte_bounds(arrays[name]) for name in names if arrays[name].size}
    before: list[str] = []
    for name in sorted(ends, key=lambda name: ends[name]):
        before = [other for other in before if ends[other][1] > ends[name][0]]
        for other in before:
            try:
                found = np.shares_memory(arrays[other], arrays[name], max_work=_MOST_WORK)
            except np.exceptions.TooHardError:  # numbers that lie in each other as those of no layers do
                found = True
            if found:
                return [other, name]
        before.append(name)
    return []


def refuse_ties(arrays: Arrays, schema: Schema) -> None:
    """Raise RefusedError where parameters are tied that are two in the network."""
    names = [entry.name for entry in schema.entries if not entry.name.endswith(("running_mean", "running_var"))]
    if pair := tied(arrays, names):
        raise RefusedError(
            f"its entries {' and '.join(sorted(pair))} are one parameter, for which this network has two. "
            "Build the module in Python and give it to converters.from_module"
        )


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names in a sentence, the first `most` of them: "first a, b, c and 12 more"."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"first {', '.join(names[:most])}{rest}"


def placed(arrays: Arrays, schema: Schema) -> tuple[PyTree, PyTree]:
    """(params, state) of numpy arrays, most of them views; RefusedError where an entry is not as expected."""
    if problems := problems_of(arrays, schema):
        raise RefusedError(problems[0])
    refuse_ties(arrays, schema)
    leaves = [entry.leaf(arrays[entry.name]) for entry in schema.entries]
    return jax.tree.unflatten(schema.structure, leaves)


def stored(params: PyTree, state: PyTree, schema: Schema) -> dict[str, np.ndarray]:
    """The state_dict of (params, state), counters 0; RefusedError where the schema is not theirs."""
    leaves, structure = jax.tree.flatten((params, state))
    if structure != schema.structure:
        raise RefusedError(f"its parameters are {structure}, but {schema.structure} was expected")
    arrays = {}
    for entry, leaf in zip(schema.entries, map(np.asarray, leaves), strict=True):
        array = entry.stored(leaf) if leaf.size == np.prod(entry.shape, dtype=int) else leaf
        if array.shape != entry.shape or array.dtype != np.float32:
            raise RefusedError(
                f"its parameter for {entry.name} is {_form(leaf)}, which is not float32{list(entry.shape)} as stored"
            )
        arrays[entry.name] = array
        counter = entry.name.replace("running_var", _COUNTER)
        if counter in schema.counters:
            arrays[counter] = np.zeros((), np.int64)
    return arrays | {name: arrays[kept] for name, kept in schema.aliases.items()}


def _form(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"


# Reading facts.


def image_shape(facts: Facts, channels: int, side: int) -> tuple[int, ...]:
    """The facts' `input_shape`, or images of `side` pixels a side; RefusedError where it does not fit the weights."""
    shape = facts.get("input_shape")
    if shape is None:
        return side, side, channels
    shape = tuple(int(size) for size in shape)
    if len(shape) != 3 or shape[2] != channels:
        raise RefusedError(f"its first layer reads {channels} channels, but input_shape is {shape}")
    return shape


def nonlinearity(facts: Facts, known: Sequence[str]) -> str | None:
    """The facts' nonlinearity in mdjax's spelling, None where they give none; RefusedError if it is none of `known`."""
    given = facts.get("nonlinearity")
    if given is None:
        return None
    name = str(given).lower().replace("_", "").replace("-", "")
    name = {"swish": "silu"}.get(name, name)
    if name not in known:
        raise RefusedError(f"its nonlinearity is {given}, but one of {', '.join(known)} was expected")
    return name


def rows(arrays: Arrays, name: str, ndim: int) -> int:
    """How many outputs the entry `name` of `ndim` axes has; 0 where there is no such entry."""
    array = arrays.get(name)
    return 0 if array is None or array.ndim != ndim else array.shape[0]
