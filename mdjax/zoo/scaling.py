"""Pixels → floats as networks see them: scaled to [0, 1], and standardised by channel."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mdjax.errors import InputError
from mdjax.zoo.arrays import Arrays, as_array

PyTree = Any

_BLOCK = 2**24  # numbers that are squared together

Numbers = float | Sequence[float]
"""One number for all channels, or one per channel."""


class Scale(NamedTuple):
    """What pixels are standardised by; `is_told`: not by what the training examples at hand have themselves."""

    mean: Numbers
    std: Numbers
    is_told: bool


def scaled(
    where: str, given: Mapping[str, Any], found: Arrays, mean: Numbers | None, std: Numbers | None
) -> tuple[PyTree, PyTree, Scale | None]:
    """Training and test inputs as a network sees them: pixels standardised, floats in 32 bits, anything else as it is.

    where: the place, as errors name it.
    given: what stands beside the arrays, maybe `mean` and `std`, which are those of bytes.
    found: the arrays.
    mean, std: of pixels on the scale [0, 1]; by default what is given, else those of the training inputs.

    Raises InputError for numbers that cannot be, or that are told of inputs that are no bytes.
    """
    x_train, x_test = found.x_train, found.x_test
    if isinstance(x_train, dict):
        if mean is not None:
            raise InputError(f"{where}: mean and std were given, but the inputs are a dictionary. Leave them out.")
        return x_train, x_test, None
    if x_train.dtype == np.uint8:
        if mean is None and std is None:
            mean, std = (_told(where, name, given.get(name)) for name in ("mean", "std"))
            if (mean is None) != (std is None):
                raise InputError(f"{where} holds only one of mean and std. Give both or neither.")
        x_train, x_test = unit_scale(x_train), unit_scale(x_test)
        return x_train, x_test, standardise(x_train, x_test, mean, std)
    if mean is not None:
        raise InputError(
            f"{where}: mean and std were given, but x_train is {x_train.dtype}, which is taken as it is. "
            "Leave them out, or save the inputs as uint8."
        )
    if x_train.dtype.kind == "f":
        x_train, x_test = x_train.astype(np.float32, copy=False), x_test.astype(np.float32, copy=False)
    return x_train, x_test, None


def _told(where: str, name: str, value: Any) -> Numbers | None:
    """The mean or deviation that stands beside arrays; InputError for what is none."""
    if value is None:
        return None
    numbers = as_array(where, name, value)
    if numbers.ndim > 1 or not numbers.size:
        raise InputError(f"{where}: {name} has shape {list(numbers.shape)}. Give one number, or one for each channel.")
    return np.atleast_1d(numbers).astype(float).tolist()


def unit_scale(pixels: np.ndarray) -> np.ndarray:
    scaled = pixels.astype(np.float32)
    scaled /= 255
    return scaled


def standardise(x_train: np.ndarray, x_test: np.ndarray, mean: Numbers | None, std: Numbers | None) -> Scale:
    """Subtract the mean and divide by the deviation of each channel, in place: CIFAR-10 is 0.7 GB as floats."""
    channels = x_train.shape[-1] if x_train.ndim == 4 else 1
    axes = tuple(range(x_train.ndim - 1)) if x_train.ndim == 4 else None
    means = x_train.mean(axes, dtype=np.float64) if mean is None else _per_channel("mean", mean, channels)
    for inputs in (x_train, x_test):
        inputs -= means.astype(np.float32)
    if std is None:
        deviations = np.sqrt(np.atleast_1d(_mean_square(x_train, axes)))
        deviations[deviations < 1e-6] = 1  # a constant channel becomes 0, not rounding noise
    else:
        deviations = _per_channel("std", std, channels)
        if not (deviations > 0).all():
            raise InputError(f"std is {std}. Give numbers above 0.")
    for inputs in (x_train, x_test):
        inputs /= deviations.astype(np.float32)
    return Scale(np.atleast_1d(means).tolist(), deviations.tolist(), mean is not None)


def _mean_square(inputs: np.ndarray, axes: tuple[int, ...] | None) -> np.ndarray:
    """The mean of squares over axes, the first among them, in float64; a block of examples at a time."""
    step = max(1, _BLOCK // math.prod(inputs.shape[1:]))
    sums = [
        np.square(inputs[start : start + step]).sum(axes, dtype=np.float64) for start in range(0, len(inputs), step)
    ]
    return np.sum(sums, axis=0) / (inputs.size // sums[0].size)


def _per_channel(name: str, numbers: Numbers, channels: int) -> np.ndarray:
    values = np.atleast_1d(np.asarray(numbers, np.float64))
    if values.shape not in ((1,), (channels,)) or not np.isfinite(values).all():
        raise InputError(f"{name} is {numbers}. Give one number, or one for each of {channels} channels.")
    return values
