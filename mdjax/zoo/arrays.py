"""Arrays that a user gives → inputs and labels that are checked, or one sentence that says what is wrong with them.

One place for all ways to give them: an .npz, a tuple, a dictionary.
"""

import enum
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mdjax.errors import InputError, first_line

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
"""The arrays that make up data, in this order."""

LABELS = ("label", "labels", "y", "target")
"""What labels may be called, where they stand in a column or an entry beside the inputs."""

FACTS = ("num_classes", "layout")
"""What may stand beside them."""

_MOST_CLASSES = 100_000
_BLOCK = 2**20  # numbers that are looked at together
_IMAGES = "[n, height, width, channels], [n, height, width] or [n, features]"
_WORDS = "[n, length]"


class Layout(enum.StrEnum):
    """What the axes of inputs are: said by the user, never second-guessed."""

    NHWC = "nhwc"  # images, channels last; without their axis, of one channel
    NCHW = "nchw"  # images, channels first; without their axis, of one channel
    FEATURES = "features"  # numbers without an axis to add: [n, features], [n, length, features], [n, channels, length]
    TOKENS = "tokens"  # whole numbers from 0, kept as such

    @property
    def of_images(self) -> bool:
        """Whether it is one of images."""
        return self in (Layout.NHWC, Layout.NCHW)


class Assumption(enum.Enum):
    """What was taken for granted of inputs whose layout nobody gave and that could be something else, too."""

    GREY = enum.auto()  # three axes: images of one channel, not sequences
    PIXELS = enum.auto()  # bytes of two axes: flat pixels, not tokens
    TOKENS = enum.auto()  # whole numbers: tokens, not pixels


class Arrays(NamedTuple):
    """Checked arrays: inputs with their channels last, whole numbers where they are tokens, bytes where pixels."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int
    assumption: Assumption | None


def layout_of(value: Any) -> Layout | None:
    """The layout of that name; InputError for another one."""
    if value is None or isinstance(value, Layout):
        return value
    content = np.asarray(value)
    text = content.item() if content.size == 1 else value
    text = text.decode("ascii", "replace") if isinstance(text, bytes) else text
    if not isinstance(text, str) or text.lower() not in list(Layout):
        raise InputError(f"layout is {text!r}. Choose one of {', '.join(Layout)}.")
    return Layout(text.lower())


def checked_arrays(where: str, given: Mapping[str, Any], layout: Layout | None) -> Arrays:
    """The arrays of a file or mapping; InputError, which names the place and the array, for what is malformed.

    where: the place, as errors name it.
    given: `ARRAYS`, and maybe `FACTS`.
    layout: of the inputs; by default the one among the arrays, and without any what their types and shapes say.
    """
    arrays = {name: _array(where, name, given) for name in ARRAYS}
    if layout is None:
        try:
            layout = layout_of(given.get("layout"))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    x_train, x_test = (_inputs(where, name, arrays[name], layout) for name in ("x_train", "x_test"))
    for split, inputs in (("train", x_train), ("test", x_test)):
        check_labels(where, f"y_{split}", arrays[f"y_{split}"], len(inputs))
    check_alike(where, x_train, x_test)
    num_classes = _num_classes(where, given.get("num_classes"), arrays)
    for name, inputs in (("x_train", x_train), ("x_test", x_test)):
        check_finite(where, name, inputs)
    assumption = None if layout is not None else _assumption(arrays["x_train"])
    y_train, y_test = arrays["y_train"].astype(np.int32), arrays["y_test"].astype(np.int32)
    return Arrays(x_train, y_train, x_test, y_test, num_classes, assumption)


def _array(where: str, name: str, given: Mapping[str, Any]) -> np.ndarray:
    if name not in given:
        found = ", ".join(map(str, given)) or "nothing"
        raise InputError(f"{where} has no array {name}; it holds {found}. Give {', '.join(ARRAYS)}.")
    return as_array(where, name, given[name])


def as_array(where: str, name: str, value: Any) -> np.ndarray:
    """The value as an array of numbers, itself where it is one; InputError for what makes none."""
    try:
        array = np.asarray(value)
    except Exception as error:  # a list of ragged rows, a tensor on an accelerator: anything
        raise InputError(f"{where}: {name} makes no array ({first_line(error)}). Give numpy arrays.") from None
    if array.dtype.kind not in "fiu":
        raise InputError(f"{where}: {name} has type {array.dtype}. Give numbers.")
    return array


def _assumption(inputs: np.ndarray) -> Assumption | None:
    if inputs.dtype.kind in "iu" and inputs.dtype != np.uint8:
        return Assumption.TOKENS
    if inputs.ndim == 3:
        return Assumption.GREY
    return Assumption.PIXELS if inputs.dtype == np.uint8 and inputs.ndim == 2 else None


def _inputs(where: str, name: str, inputs: np.ndarray, layout: Layout | None) -> np.ndarray:
    """Inputs with channels last; whole numbers as int32 where they are tokens, as bytes where they are pixels."""
    is_whole = inputs.dtype.kind in "iu"
    if layout is Layout.TOKENS or (layout is None and is_whole and inputs.dtype != np.uint8 and inputs.ndim == 2):
        return _tokens(where, name, inputs)
    if is_whole and inputs.dtype != np.uint8:
        raise InputError(
            f"{where}: {name} has type {inputs.dtype} and shape {list(inputs.shape)}. Give pixels of 0 to 255 as "
            "uint8, other numbers as floats as the network reads them, and tokens with layout tokens."
        )
    if layout is None:
        wanted, forms = (2, 3, 4), f"{_IMAGES}, or say layout features"
    elif layout.of_images:
        wanted, forms = (3, 4), f"images, or leave layout {layout} out"
    else:
        wanted, forms = range(2, 9), "[n, features] or [n, length, features]"
    if inputs.ndim not in wanted:
        raise InputError(f"{where}: {name} has shape {list(inputs.shape)}. Give it as {forms}.")
    _check_some(where, name, inputs)
    if layout is Layout.FEATURES:
        return inputs
    if inputs.ndim == 3:
        return inputs[..., np.newaxis]
    if layout is Layout.NCHW:
        return np.ascontiguousarray(np.moveaxis(inputs, 1, -1))
    if layout is None:
        _check_channels(where, name, inputs)
    return inputs


def _check_channels(where: str, name: str, inputs: np.ndarray) -> None:
    if inputs.ndim == 4 and inputs.shape[1] in (1, 3, 4) and inputs.shape[3] > 4 and inputs.shape[2] > inputs.shape[1]:
        raise InputError(
            f"{where}: {name} has shape {list(inputs.shape)}, which looks like channels first. Say what it is: layout "
            "nchw (channels first) or nhwc (channels last), by --layout, load(..., layout=) or an array layout "
            "beside it."
        )


def _tokens(where: str, name: str, inputs: np.ndarray) -> np.ndarray:
    if inputs.dtype.kind not in "iu":
        raise InputError(f"{where}: {name} has type {inputs.dtype}. Give tokens as whole numbers.")
    if inputs.ndim < 2:
        raise InputError(f"{where}: {name} has shape {list(inputs.shape)}. Give tokens as {_WORDS}.")
    _check_some(where, name, inputs)
    if inputs.min() < 0:
        # An index below zero counts from the end of an embedding, without a word.
        raise InputError(f"{where}: {name} holds {inputs.min()}. Number the tokens 0, 1, 2, ..., padding included.")
    check_whole(where, name, inputs)
    return inputs.astype(np.int32)


def _check_some(where: str, name: str, inputs: np.ndarray) -> None:
    if inputs.size == 0:
        raise InputError(f"{where}: {name} is empty, of shape {list(inputs.shape)}. Give at least one example.")


def check_whole(where: str, name: str, inputs: np.ndarray) -> None:
    """InputError for whole numbers that JAX's 32 bits do not hold."""
    if inputs.dtype.kind in "iu" and (inputs.max() >= 2**31 or inputs.min() < -(2**31)):
        worst = inputs.max() if inputs.max() >= 2**31 else inputs.min()
        raise InputError(f"{where}: {name} holds {worst}. Give whole numbers of 32 bits.")


def check_alike(where: str, x_train: np.ndarray, x_test: np.ndarray) -> None:
    """InputError for test inputs of another shape or kind of number than the training inputs."""
    if x_train.shape[1:] != x_test.shape[1:] or x_train.dtype.kind != x_test.dtype.kind:
        raise InputError(
            f"{where}: x_train is {form(x_train)}, but x_test is {form(x_test)}. Give both in the same form and type."
        )


def check_labels(where: str, name: str, labels: np.ndarray, num_examples: int) -> None:
    """InputError for anything but one whole number from 0 per example."""
    if labels.ndim != 1:
        raise InputError(f"{where}: {name} has shape {list(labels.shape)}. Give one whole number per example, as [n].")
    if labels.dtype.kind not in "iu":
        raise InputError(f"{where}: {name} has type {labels.dtype}. Give labels as whole numbers from 0.")
    if len(labels) and labels.min() < 0:
        raise InputError(f"{where}: {name} holds {labels.min()}. Number the classes 0, 1, 2, ...")
    if len(labels) != num_examples:
        inputs = name.replace("y_", "x_")
        raise InputError(
            f"{where}: {inputs} has {num_examples} examples, but {name} has {len(labels)} labels. "
            "Give one label per example."
        )


def _num_classes(where: str, given: Any, arrays: Mapping[str, np.ndarray]) -> int:
    if given is None:
        num_classes = int(arrays["y_train"].max()) + 1
    else:
        given = np.asarray(given)
        if given.size != 1 or given.dtype.kind not in "iu":
            raise InputError(f"{where}: num_classes is {given.dtype}{list(given.shape)}. Give a single whole number.")
        num_classes = int(given.item())
    check_classes(where, num_classes, arrays)
    return num_classes


def check_classes(where: str, num_classes: int, arrays: Mapping[str, np.ndarray]) -> None:
    """InputError for a number of classes that is none, or that the labels of `arrays` exceed."""
    if not 2 <= num_classes <= _MOST_CLASSES:
        raise InputError(
            f"{where}: the labels make {num_classes} classes, but 2 to {_MOST_CLASSES} are expected. "
            "Number the classes 0, 1, 2, ..."
        )
    for name in ("y_train", "y_test"):
        if arrays[name].max() >= num_classes:
            raise InputError(
                f"{where}: {name} holds {arrays[name].max()}, but with {num_classes} classes the largest label is "
                f"{num_classes - 1}. Correct it, or give num_classes too."
            )


def check_finite(where: str, name: str, inputs: np.ndarray) -> None:
    """InputError for values that are NaN, infinite or beyond float32."""
    if inputs.dtype.kind != "f":
        return
    count, first = 0, -1
    step = max(1, _BLOCK // max(1, math.prod(inputs.shape[1:])))
    for start in range(0, len(inputs), step):  # a block at a time, so that nothing takes what the inputs take
        block = inputs[start : start + step]
        with np.errstate(over="ignore"):  # a value beyond float32 becomes inf
            broken = ~np.isfinite(block.astype(np.float32, copy=False))
        if broken.any():
            first = first if count else start + int(np.argmax(broken.reshape(len(block), -1).any(1)))
            count += int(broken.sum())
    if count:
        raise InputError(
            f"{where}: {name} holds {count} values that are NaN, infinite or beyond float32, the first in "
            f"example {first}. Remove those examples."
        )


def form(inputs: np.ndarray) -> str:
    """Type and shape of inputs as errors tell them: `float32[n, 8, 8, 1]`."""
    return f"{inputs.dtype}{['n', *inputs.shape[1:]]}".replace("'", "")
