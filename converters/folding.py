"""A state_dict as it was stored → the plain arrays of its network: prefixes off, reparametrisations folded."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from converters.errors import RefusedError
from converters.tensors import QUANTIZED, Unplain
from mdjax.memory import excess

PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What DataParallel, torch.compile and training frameworks put before every name."""

_LONGEST_NAME = 1000
_COUNTER = "n_averaged"
_CURVE = re.compile(r"(weight|bias)_\d+$")
_QUANTIZED = re.compile(r"(^|\.)_packed_params(\.|$)")
_PARAMETRIZED = re.compile(r"(?:(?P<layer>.*)\.)?parametrizations\.(?P<name>[^.]+)\.(?P<part>.+)$")


def fold(entries: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], bool]:
    """The arrays of a network from its state_dict of tensors, and whether float64 was narrowed.

    Arrays are views wherever nothing had to change, and entries that share their memory go on doing so. Prefixes that
    all names share are taken off, as often as they occur, and with the one of torch's AveragedModel its counter. Weight
    normalisation and pruning are multiplied out, in float64. Numbers of half and double precision become float32.
    Raises RefusedError for a quantized network, a curve, or an entry that is no dense tensor.
    """
    for name in entries:
        if len(str(name)) > _LONGEST_NAME:
            raise RefusedError(f"its entry {str(name)[:40]}... has a name of {len(str(name))} letters")
        if _QUANTIZED.search(str(name)):
            raise _quantized(name)
    _check_claims(entries)
    known: dict[Any, np.ndarray] = {}
    stored = {str(name): _array(name, value, known) for name, value in entries.items()}
    single = {name: _once(known, _single, name, array) for name, array in stored.items()}
    arrays = _strip(single)
    if any(_CURVE.search(name) for name in arrays):
        raise RefusedError("it holds a curve of networks (entries weight_0, weight_1, ...), not one network")
    narrowed = any(array.dtype == np.float64 for array in stored.values())
    return _fold_pruning(_fold_weight_norm(arrays, known), known), narrowed


def _quantized(name: object) -> RefusedError:
    return RefusedError(f"it is quantized (entry {name}), and a quantized network has no Hessian")


def _check_claims(entries: Mapping[str, Any]) -> None:
    """RefusedError where views of the same numbers take far more memory than there are numbers.

    Tied weights are such views; a file of many of them would be as many times larger once it is converted.
    """
    import torch

    claimed, stored = 0, dict[int, int]()
    for name, value in entries.items():
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value) if value.dtype.kind in "biuf" else None
        if not isinstance(value, torch.Tensor) or value.layout is not torch.strided or value.device.type == "meta":
            continue
        storage, size = value.untyped_storage(), value.numel() * value.element_size()
        if size > storage.nbytes():
            raise RefusedError(f"its entry {name} claims {value.numel()} numbers, more than are stored")
        claimed += value.numel() * max(4, value.element_size())  # short numbers become floats of four bytes
        stored[storage.data_ptr()] = storage.nbytes()
    if reason := excess(f"its {len(entries)} entries, many views of the same numbers,", claimed, sum(stored.values())):
        raise RefusedError(reason)


def _once(known: dict[Any, np.ndarray], function: Callable[..., np.ndarray], name: str, *arrays: np.ndarray) -> Any:
    """function(name, *arrays), computed once for arrays that are the same memory."""
    places = [(array.__array_interface__["data"][0], array.shape, array.strides, array.dtype) for array in arrays]
    key = (function.__name__, *places)
    if key not in known or not arrays[0].size:
        known[key] = function(name, *arrays)
    return known[key]


def _single(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype != np.float64:
        return array
    with np.errstate(over="ignore"):
        found = array.astype(np.float32)
    if not np.array_equal(np.isfinite(found), np.isfinite(array)):
        raise RefusedError(f"its entry {name} is float64 and holds numbers beyond float32")
    return found


def _array(name: object, value: Any, known: dict[Any, np.ndarray]) -> np.ndarray:
    import torch

    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        value = torch.from_numpy(value)
    if value is QUANTIZED or (isinstance(value, torch.Tensor) and value.is_quantized):
        raise _quantized(name)
    if isinstance(value, Unplain):
        raise RefusedError(f"its entry {name} is no plain array ({value.kind})")
    if not isinstance(value, torch.Tensor):
        raise RefusedError(f"its entry {name} is a {type(value).__name__}, not a tensor")
    try:
        if not value.is_floating_point() or value.element_size() >= 4:
            return value.detach().numpy()
        key = (value.data_ptr(), value.dtype, value.shape, value.stride())
        if key not in known or not value.numel():
            known[key] = value.detach().to(torch.float32).numpy()
        return known[key]
    except (TypeError, RuntimeError, NotImplementedError):
        kind = f"{value.dtype}, {value.layout}, on {value.device}".replace("torch.", "")
        raise RefusedError(f"its entry {name} is no plain array ({kind})") from None


def _strip(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    while True:
        names = arrays.keys() - {_COUNTER}
        prefix = next((text for text in PREFIXES if names and all(name.startswith(text) for name in names)), None)
        if prefix is None or prefix in names:
            return arrays
        # AveragedModel puts its network under "module."; beside another prefix, n_averaged is the network's own entry.
        if prefix != "module." and _COUNTER in arrays:
            return arrays
        arrays = {name.removeprefix(prefix): array for name, array in arrays.items() if name != _COUNTER}


def _fold_weight_norm(arrays: dict[str, np.ndarray], known: dict[Any, np.ndarray]) -> dict[str, np.ndarray]:
    """weight = g v / |v|, stored as weight_g and weight_v, or as parametrizations.weight.original0 and original1."""
    folded: dict[str, np.ndarray] = {}
    matches = {name: match for name in arrays if (match := _PARAMETRIZED.match(name))}
    parametrized: dict[str, list[str]] = {}
    for name, match in matches.items():
        parametrized.setdefault(name.removesuffix(match["part"]), []).append(match["part"])
    for name, array in arrays.items():
        if match := matches.get(name):
            stem = f"{match['layer']}.{match['name']}" if match["layer"] else match["name"]
            base = name.removesuffix(match["part"])
            if sorted(parametrized[base]) != ["original0", "original1"]:
                raise RefusedError(f"its entry {name} is parametrised by something other than weight normalisation")
            if stem not in folded:
                parts = (arrays[f"{base}original0"], arrays[f"{base}original1"])
                folded[stem] = _once(known, _normalised, name, *parts)
        elif name.endswith("_g") and (direction := arrays.get(f"{name[:-2]}_v")) is not None:
            folded[name[:-2]] = _once(known, _normalised, name, array, direction)
        elif not (name.endswith("_v") and f"{name[:-2]}_g" in arrays):
            folded[name] = array
    return folded


def _normalised(name: str, length: np.ndarray, direction: np.ndarray) -> np.ndarray:
    fits = length.ndim == 0 or (
        length.ndim == direction.ndim and all(a in (1, b) for a, b in zip(length.shape, direction.shape, strict=True))
    )
    if not fits:
        raise RefusedError(f"its entry {name} of shape {list(length.shape)} is no length of a normalised weight")
    axes = tuple(axis for axis in range(direction.ndim) if length.ndim == 0 or length.shape[axis] == 1)
    wide = direction.astype(np.float64)
    norm = np.sqrt(np.square(wide).sum(axes, keepdims=length.ndim > 0))
    with np.errstate(all="ignore"):  # 0 / 0 becomes NaN, which the zoo's manifest reports
        return (wide * (length / norm)).astype(direction.dtype)


def _fold_pruning(arrays: dict[str, np.ndarray], known: dict[Any, np.ndarray]) -> dict[str, np.ndarray]:
    """weight_orig · weight_mask, where there are both."""
    folded: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        stem = name.removesuffix("_orig").removesuffix("_mask")
        if stem == name or not {f"{stem}_orig", f"{stem}_mask"} <= arrays.keys():
            folded[name] = array
        elif stem not in folded:
            original, mask = arrays[f"{stem}_orig"], arrays[f"{stem}_mask"]
            if original.shape != mask.shape:
                raise RefusedError(f"its entry {stem}_mask has shape {list(mask.shape)}, not {list(original.shape)}")
            folded[stem] = _once(known, _pruned, stem, original, mask)
    return folded


def _pruned(name: str, original: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return (original * mask).astype(original.dtype)
