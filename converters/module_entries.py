"""Entries of a module's state_dict ↔ arrays of params and state: which they are, and what they must hold."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from converters.errors import RefusedError
from mdjax.errors import first_line

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Name:
    """An entry of a state_dict and the array that it becomes."""

    torch: str
    path: tuple[str, ...]  # in params or state
    is_param: bool
    shape: tuple[int, ...]
    outputs: int = 0  # the axis of outputs, in PyTorch
    is_floating: bool = True


def module_names(module: Any) -> tuple[Name, ...]:
    import torch

    parts = dict(module.named_modules())
    buffers = dict(module.named_buffers())
    saved = module.state_dict().keys()
    entries = []
    for is_param, named in ((True, module.named_parameters()), (False, buffers.items())):
        for name, value in named:
            owner, _, leaf = name.rpartition(".")
            if is_param and not value.is_floating_point():
                raise RefusedError(f"its parameter {name} is {value.dtype}, which has no derivatives")
            # Nothing depends on BatchNorm's counters of batches; what is not saved is the same in all checkpoints.
            counter = leaf == "num_batches_tracked" and name.removesuffix(leaf) + "running_mean" in buffers
            if not value.is_floating_point() and (counter or name not in saved):
                continue
            part = parts.get(owner)
            inputs_first = isinstance(part, torch.nn.modules.conv._ConvTransposeNd | torch.nn.Embedding)
            if is_param and leaf == "weight":
                leaf = "kernel" if value.ndim > 1 else "scale"
            path = (*owner.split("."), leaf) if owner else (leaf,)
            outputs = 1 if inputs_first and leaf == "kernel" else 0
            entries.append(Name(name, path, is_param, tuple(value.shape), outputs, value.is_floating_point()))
    paths = [(entry.is_param, entry.path) for entry in entries]
    if len(set(paths)) < len(paths):  # a module with both a weight and a kernel
        return tuple(dataclasses.replace(entry, path=tuple(entry.torch.split("."))) for entry in entries)
    return tuple(entries)


def representatives(module: Any) -> dict[str, str]:
    """The name of every place of a tensor in the module → the name that stands for all places of the same tensor.

    A part that occurs twice in a module is one place: torch.func.functional_call would leave it changed otherwise.
    """
    first: dict[int, str] = {}
    found = {}
    for owner, part in module.named_modules():
        for leaf, value in (*part._parameters.items(), *part._buffers.items()):
            if value is not None:
                name = f"{owner}.{leaf}" if owner else leaf
                found[name] = first.setdefault(id(value), name)
    return found


def key_path(name: Name) -> str:
    return jax.tree_util.keystr(tuple(jax.tree_util.DictKey(part) for part in name.path))


def plain_array(value: Any, name: str) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    try:
        value = value.detach().cpu()
        return (value.float() if value.is_floating_point() else value).numpy()
    except Exception as error:  # sparse, quantised, without data, no tensor at all
        raise RefusedError(f"its entry {name} is no plain array: {first_line(error)}") from None


def fitting(name: str, given: np.ndarray, expected: Any) -> np.ndarray:
    """An entry in the type of the module's own, as `load_state_dict` casts it; refused as `as_type` says."""
    import torch

    if given.shape != tuple(expected.shape):
        raise RefusedError(f"its entry {name} is of shape {list(given.shape)}, but {list(expected.shape)} was expected")
    if expected.is_floating_point():
        return as_type(name, given, np.dtype(np.float32))
    return as_type(name, given, torch.empty(0, dtype=expected.dtype).numpy().dtype)


def as_type(name: str, given: np.ndarray, kind: np.dtype) -> np.ndarray:
    """An entry as masks, whole numbers or floats, whichever `kind` is; floats are taken in any precision.

    Raises RefusedError where a number would become another one: a 2 as a mask, 0.5 as a whole number.
    """
    if given.dtype.kind == kind.kind and kind.kind in "fc":
        return given
    with np.errstate(all="ignore"):
        found = np.real(given).astype(kind)
        same = np.array_equal(found, given) and np.array_equal(found.astype(given.dtype), given)
    if not same:
        raise RefusedError(
            f"its entry {name} is of type {given.dtype}, but {kind} was expected, which cannot hold all of its "
            f"numbers. Save it as {kind}"
        )
    return found


def canonical(name: str, array: np.ndarray) -> np.ndarray:
    """As JAX holds it: float32, and whole numbers in 32 bits unless it is told otherwise."""
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    found = array.astype(jax.dtypes.canonicalize_dtype(array.dtype))
    if not np.array_equal(found, array):
        raise RefusedError(f"its entry {name} holds numbers beyond 32 bits, which JAX cuts off")
    return found


def nested(arrays: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Arrays by their paths as dicts of dicts."""
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = array
    return tree


def at_path(tree: PyTree, path: tuple[str, ...]) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def placed(names: tuple[Name, ...], values: Mapping[str, np.ndarray], *, params: bool) -> PyTree:
    """Params, or state, of arrays by their names in PyTorch; a weight's outputs become its last axis."""
    return nested(
        {
            name.path: np.moveaxis(values[name.torch], name.outputs, -1)
            if params and values[name.torch].ndim > 1
            else values[name.torch]
            for name in names
            if name.is_param == params
        }
    )


def found(names: tuple[Name, ...], tree: PyTree, *, params: bool) -> dict[str, Any]:
    """The inverse of `placed`."""
    leaves = {name: at_path(tree, name.path) for name in names if name.is_param == params}
    return {
        name.torch: jax.numpy.moveaxis(jax.numpy.asarray(leaf), -1, name.outputs)
        if params and leaf.ndim > 1
        else jax.numpy.asarray(leaf)
        for name, leaf in leaves.items()
    }
