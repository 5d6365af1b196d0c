"""Arrays that a user gives → inputs and labels that are checked, or one sentence that says what is wrong with them.

One place for all ways to give them: an .npz, a tuple, a dictionary.
"""

import enum
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from mdjax.errors import InputError, first_line
from mdjax.tasks import MOST_CLASSES, TASKS, Classification, MultiLabel, Regression, Task, task_of
from mdjax.zoo.draws import DRAWN

PyTree = Any

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
"""The arrays that make up data, in this order."""

LABELS = ("label", "labels", "y", "target")
"""What labels may be called, where they stand in a column or an entry beside the inputs."""

FACTS = ("num_classes", "layout", "task", "mean", "std")
"""What may stand beside them."""

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
    """Checked arrays: inputs with their channels last, whole numbers where they are tokens, bytes where pixels.

    Inputs given as a dictionary are one of arrays, as they are; targets are as the task takes them.
    """

    x_train: PyTree
    y_train: PyTree
    x_test: PyTree
    y_test: PyTree
    num_classes: int
    task: Task
    assumption: Assumption | None


def layout_of(value: Any) -> Layout | None:
    """The layout of that name; InputError for another one."""
    if value is None or isinstance(value, Layout):
        return value
    text = told_by(value)
    if not isinstance(text, str) or text.lower() not in list(Layout):
        raise InputError(f"layout is {text!r}. Choose one of {', '.join(Layout)}.")
    return Layout(text.lower())


def told_by(value: Any) -> Any:
    """The text that an entry beside the arrays says; anything else as it is."""
    if value is None or isinstance(value, str | Task):
        return value
    content = np.asarray(value)
    text = content.item() if content.size == 1 else value
    return text.decode("ascii", "replace") if isinstance(text, bytes) else text


def checked_arrays(where: str, given: Mapping[str, Any], layout: Layout | None, task: Task | None = None) -> Arrays:
    """The arrays of a file or mapping; InputError, which names the place and the array, for what is malformed.

    where: the place, as errors name it.
    given: `ARRAYS`, and maybe `FACTS`.
    layout: of the inputs; by default the one among the arrays, and without any what their types and shapes say.
    task: what a model is asked; by default the one among the arrays, and without any the class.
    """
    arrays = {name: _array(where, name, given) for name in ARRAYS}
    try:
        layout = layout_of(given.get("layout")) if layout is None else layout
        task = task_of(told_by(given.get("task"))) if task is None else task
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    x_train, x_test = (_inputs(where, name, arrays[name], layout) for name in ("x_train", "x_test"))
    is_guessed = layout is None and not isinstance(x_train, dict)
    assumption = _assumption(arrays["x_train"]) if is_guessed else None
    y_train, y_test = checked_targets(where, task, x_train, arrays["y_train"], x_test, arrays["y_test"])
    told = given.get("num_classes")
    if told is None and DRAWN in given and isinstance(task, Classification):
        # A class may be missing in what was drawn.
        largest = given[DRAWN].largest_label
        told = None if largest is None else largest + 1
    num_classes = _num_classes(where, told, task, y_train, y_test)
    for name, inputs in (("x_train", x_train), ("x_test", x_test)):
        check_finite(where, name, inputs)
    return Arrays(x_train, y_train, x_test, y_test, num_classes, task, assumption)


def checked_targets(
    where: str, task: Task, x_train: PyTree, y_train: PyTree, x_test: PyTree, y_test: PyTree
) -> tuple[PyTree, PyTree]:
    """The targets of both sets as the task takes them; InputError for what cannot be, and for inputs that differ."""
    check_alike(where, x_train, x_test)
    targets = []
    for split, inputs, given in (("train", x_train, y_train), ("test", x_test, y_test)):
        if isinstance(given, Mapping) and type(task) in map(type, TASKS.values()):
            raise InputError(
                f"{where}: y_{split} is a dictionary, but {task.name} takes one array. Give that, or a task of your "
                "own (task=)."
            )
        count = len(jax.tree.leaves(inputs)[0])
        if split == "test" and not count:
            targets.append(jax.tree.map(lambda leaf: leaf[:0], targets[0]))
            continue
        targets.append(task.checked_targets(where, f"y_{split}", given, count))
    first, other = ([leaf.shape[1:] for leaf in jax.tree.leaves(part)] for part in targets)
    if first != other:
        raise InputError(f"{where}: y_train is {form(targets[0])}, but y_test is {form(targets[1])}. Give both alike.")
    return targets[0], targets[1]


def _array(where: str, name: str, given: Mapping[str, Any]) -> np.ndarray:
    if name not in given:
        found = ", ".join(map(str, given)) or "nothing"
        raise InputError(f"{where} has no array {name}; it holds {found}. Give {', '.join(ARRAYS)}.")
    return as_arrays(where, name, given[name])


def as_arrays(where: str, name: str, value: Any, *, inside: bool = False) -> PyTree:
    """The value as an array of numbers, or a dictionary of them as a dictionary."""
    if not isinstance(value, Mapping):
        return as_array(where, name, value, masks=inside)
    if not value:
        raise InputError(f"{where}: {name} is an empty dictionary. Give arrays.")
    return {str(key): as_arrays(where, f"{name}[{str(key)!r}]", entry, inside=True) for key, entry in value.items()}


def as_array(where: str, name: str, value: Any, *, masks: bool = False) -> np.ndarray:
    """The value as an array of numbers, or `masks`, itself where it is one; InputError for what makes none."""
    try:
        array = np.asarray(value)
    except Exception as error:  # a list of ragged rows, a tensor on an accelerator: anything
        raise InputError(f"{where}: {name} makes no array ({first_line(error)}). Give numpy arrays.") from None
    if array.dtype.kind not in ("fiub" if masks else "fiu"):
        raise InputError(f"{where}: {name} has type {array.dtype}. Give numbers.")
    return array


def _assumption(inputs: np.ndarray) -> Assumption | None:
    if inputs.dtype.kind in "iu" and inputs.dtype != np.uint8:
        return Assumption.TOKENS
    if inputs.ndim == 3:
        return Assumption.GREY
    return Assumption.PIXELS if inputs.dtype == np.uint8 and inputs.ndim == 2 else None


def _entries(where: str, name: str, entries: dict[str, Any], layout: Layout | None) -> dict[str, Any]:
    """Inputs of several arrays, as they are, in 32 bits: floats, or whole numbers."""
    if layout is not None:
        raise InputError(f"{where}: {name} is a dictionary, of which layout {layout} says nothing. Leave it out.")
    leaves = jax.tree.leaves(entries)
    shapes = {path: list(leaf.shape) for path, leaf in named(name, entries)}
    if any(leaf.ndim < 1 or len(leaf) != len(leaves[0]) for leaf in leaves) or not (len(leaves[0]) or name == "x_test"):
        raise InputError(f"{where}: {name} holds arrays of {shapes}. Give as many examples, as [n, ...], in each.")
    for path, leaf in named(name, entries):
        check_whole(where, path, leaf)
    kinds = {"f": np.float32, "b": np.bool_}
    return jax.tree.map(lambda leaf: leaf.astype(kinds.get(leaf.dtype.kind, np.int32), copy=False), entries)


def named(name: str, inputs: PyTree) -> list[tuple[str, np.ndarray]]:
    """The arrays of inputs, each with what errors call it."""
    return [(name + jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(inputs)]


def _inputs(where: str, name: str, inputs: PyTree, layout: Layout | None) -> PyTree:
    """Inputs with channels last; whole numbers as int32 where they are tokens, as bytes where they are pixels."""
    if isinstance(inputs, dict):
        return _entries(where, name, inputs, layout)
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
    if inputs.size and inputs.min() < 0:
        # An index below zero counts from the end of an embedding, without a word.
        raise InputError(f"{where}: {name} holds {inputs.min()}. Number the tokens 0, 1, 2, ..., padding included.")
    check_whole(where, name, inputs)
    return inputs.astype(np.int32)


def _check_some(where: str, name: str, inputs: np.ndarray) -> None:
    # Without test data there are none to test on.
    if inputs.size == 0 and name != "x_test":
        raise InputError(f"{where}: {name} is empty, of shape {list(inputs.shape)}. Give at least one example.")


def check_whole(where: str, name: str, inputs: np.ndarray) -> None:
    """InputError for whole numbers that JAX's 32 bits do not hold."""
    if inputs.dtype.kind in "iu" and inputs.size and (inputs.max() >= 2**31 or inputs.min() < -(2**31)):
        worst = inputs.max() if inputs.max() >= 2**31 else inputs.min()
        raise InputError(f"{where}: {name} holds {worst}. Give whole numbers of 32 bits.")


def check_alike(where: str, x_train: PyTree, x_test: PyTree) -> None:
    """InputError for test inputs of another shape or kind of number than the training inputs."""
    if jax.tree.structure(x_train) != jax.tree.structure(x_test) or any(
        first.shape[1:] != other.shape[1:] or first.dtype.kind != other.dtype.kind
        for first, other in zip(jax.tree.leaves(x_train), jax.tree.leaves(x_test))
    ):
        raise InputError(
            f"{where}: x_train is {form(x_train)}, but x_test is {form(x_test)}. Give both in the same form and type."
        )


def num_outputs(task: Task, targets: PyTree) -> int:
    """How many outputs a network of this package needs for targets [n] or [n, d] of numbers; 0 where not known."""
    if not isinstance(targets, np.ndarray) or not isinstance(task, Regression | MultiLabel):
        return 0
    return int(targets[0].size)


def _num_classes(where: str, given: Any, task: Task, y_train: PyTree, y_test: PyTree) -> int:
    if not isinstance(task, Classification):
        known = num_outputs(task, y_train)
        told = known if given is None else _whole(where, given)
        if known and told != known:
            raise InputError(f"{where}: num_classes is {told}, but the targets are {known} numbers each. Leave it out.")
        return told
    arrays = {"y_train": y_train, "y_test": y_test}
    num_classes = int(arrays["y_train"].max()) + 1 if given is None else _whole(where, given)
    check_classes(where, num_classes, arrays)
    return num_classes


def _whole(where: str, given: Any) -> int:
    given = np.asarray(given)
    if given.size != 1 or given.dtype.kind not in "iu":
        raise InputError(f"{where}: num_classes is {given.dtype}{list(given.shape)}. Give a single whole number.")
    return int(given.item())


def check_classes(where: str, num_classes: int, arrays: Mapping[str, np.ndarray]) -> None:
    """InputError for a number of classes that is none, or that the labels of `arrays` exceed."""
    if not 2 <= num_classes <= MOST_CLASSES:
        raise InputError(
            f"{where}: the labels make {num_classes} classes, but 2 to {MOST_CLASSES} are expected. "
            "Number the classes 0, 1, 2, ..."
        )
    for name in ("y_train", "y_test"):
        if arrays[name].size and arrays[name].max() >= num_classes:
            raise InputError(
                f"{where}: {name} holds {arrays[name].max()}, but with {num_classes} classes the largest label is "
                f"{num_classes - 1}. Correct it, or give num_classes too."
            )


def check_finite(where: str, name: str, inputs: PyTree) -> None:
    """InputError for values that are NaN, infinite or beyond float32."""
    for path, leaf in named(name, inputs):
        _check_finite(where, path, leaf)


def _check_finite(where: str, name: str, inputs: np.ndarray) -> None:
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


def form(inputs: PyTree) -> str:
    """Type and shape of inputs as errors tell them: `float32[n, 8, 8, 1]`."""
    if isinstance(inputs, dict):
        return "{" + ", ".join(f"{key}: {form(entry)}" for key, entry in inputs.items()) + "}"
    return f"{inputs.dtype}{['n', *inputs.shape[1:]]}".replace("'", "")
