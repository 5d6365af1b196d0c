"""Arrays by their PyTorch names → the network they belong to, and its parameters and statistics in Flax."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from converters.errors import RefusedError
from mdjax.models import Architecture

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_TORCHVISION = {"downsample.": "shortcut.", "fc.": "linear."}
_NOTHING: Mapping[str, Any] = {}


def recognise(arrays: Mapping[str, np.ndarray], *, facts: Mapping[str, Any] = _NOTHING) -> Architecture:
    """The architecture of a network from the names and shapes of its arrays, and of `facts` what they do not tell.

    Raises RefusedError where no family has these names.
    """
    arrays = _renamed(arrays)
    stem, head = arrays.get("conv1.weight"), arrays.get("linear.weight")
    if stem is None or head is None or stem.ndim != 4 or head.ndim != 2 or "layer4.1.bn2.weight" not in arrays:
        raise RefusedError(f"it is no ResNet-18, the only known family; its first entries are {_first(arrays)}")
    shape = tuple(facts.get("input_shape", (32, 32, stem.shape[1])))
    return Architecture("resnet18", width=len(stem), input_shape=shape, num_classes=len(head))


def to_flax(arrays: Mapping[str, np.ndarray], architecture: Architecture) -> tuple[Any, Any]:
    """(params, state) of one model from its state_dict; every entry is used, or checked and dropped.

    Kernels go from OIHW to HWIO and from [out, in] to [in, out]. Raises RefusedError for a missing or unknown
    entry, or one of the wrong shape or type.
    """
    arrays = _renamed(arrays)
    leaves, structure = jax.tree_util.tree_flatten_with_path(architecture.abstract)
    # A path is (params or state, layers..., leaf).
    names = [_torch_name([entry.key for entry in path[1:]]) for path, _ in leaves]
    counters = [name.replace("running_mean", "num_batches_tracked") for name in names if "running_mean" in name]
    expected = {*names, *counters}
    if missing := expected - arrays.keys():
        raise RefusedError(f"it lacks {len(missing)} of {len(expected)} entries, first {min(missing)}")
    if unknown := arrays.keys() - expected:
        raise RefusedError(f"it has {len(unknown)} unknown entries, first {min(unknown)}")
    for name in counters:
        if arrays[name].shape != () or arrays[name].dtype.kind != "i":
            raise RefusedError(f"its entry {name} is no whole number, but {_form(arrays[name])}")
    converted = [_place(name, arrays[name], leaf.shape) for name, (_, leaf) in zip(names, leaves, strict=True)]
    return jax.tree.unflatten(structure, converted)


def _first(arrays: Mapping[str, np.ndarray]) -> str:
    return ", ".join(list(arrays)[:3])


def _renamed(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """torchvision's names for the same layers; its own network has another stem, but not that of CIFAR."""
    renamed = {}
    for name, array in arrays.items():
        for theirs, ours in _TORCHVISION.items():
            if name.startswith(theirs) or f".{theirs}" in name:
                name = name.replace(theirs, ours)
        renamed[name] = array
    return renamed


def _torch_name(keys: list[str]) -> str:
    """layer2_0, shortcut_bn, mean → layer2.0.shortcut.1.running_mean"""
    *layers, leaf = keys
    parts = {"shortcut_conv": "shortcut.0", "shortcut_bn": "shortcut.1"}
    return ".".join([parts.get(layer, layer.replace("_", ".")) for layer in layers] + [_LEAVES[leaf]])


def _place(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    placed = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    if placed.shape != shape or array.dtype != np.float32:
        stored = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]
        raise RefusedError(f"its entry {name} is {_form(array)}, but float32{list(stored)} was expected")
    return placed


def _form(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"
