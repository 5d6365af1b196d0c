"""The tasks that can be named (`--task`, `task=`): classes, numbers, labels, and the next of a sequence's tokens."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mdjax.errors import InputError
from mdjax.tasks.contract import Factors, Guess, PyTree, Task, form_of

MOST_CLASSES = 100_000
"""Of labels: more are taken for numbers that are no classes."""


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy in nats of each example: logits[..., c], labels[...] → [...]; NaN for a label that is no class.

    The label's logit is a masked sum: a look-up is differentiated by a scatter, slow to compile and in a loop on CPU.
    """
    shifted = logits - jax.lax.stop_gradient(jnp.max(logits, -1, keepdims=True))
    is_label = labels[..., None] == jnp.arange(logits.shape[-1])
    own = jnp.sum(jnp.where(is_label, shifted, 0.0), -1)
    return jnp.log(jnp.sum(jnp.exp(shifted), -1)) - jnp.where(jnp.any(is_label, -1), own, jnp.nan)


@dataclasses.dataclass(frozen=True)
class Classification(Task):
    """One of c classes: logits[b, c], labels[b] from 0; cross-entropy in nats."""

    name: ClassVar[str] = "classification"
    unit: ClassVar[str] = "nats"

    def loss(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        return cross_entropy(outputs, targets)

    def error(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        return (jnp.argmax(outputs, -1) != targets).astype(outputs.dtype)

    def features(self, outputs: jax.Array) -> jax.Array:
        """The classes' probabilities."""
        return jax.nn.softmax(outputs)

    def curvature_factors(self, outputs: jax.Array, target: jax.Array) -> Factors:
        """The covariance of the classes, Σₖ pₖ(eₖ − p)(eₖ − p)ᵀ."""
        p = jax.nn.softmax(outputs)
        # 1 − pₖ as the sum of the others: near 1 the difference would be all rounding.
        others = jnp.where(jnp.eye(len(p), dtype=bool), 0.0, p)
        return Factors(p, jnp.diag(jnp.sum(others, axis=1)) - others)

    def checked_targets(self, where: str, name: str, targets: Any, num_examples: int) -> np.ndarray:
        """One whole number from 0 per example."""
        labels = targets
        if labels.ndim != 1:
            raise InputError(
                f"{where}: {name} has shape {list(labels.shape)}. Give one whole number per example, as [n], or say "
                f"what else the model is asked: --task {' or '.join(_OTHERS)} (task=)."
            )
        if labels.dtype.kind not in "iu":
            raise InputError(
                f"{where}: {name} has type {labels.dtype}. Give labels as whole numbers from 0, or say what else the "
                f"model is asked: --task {' or '.join(_OTHERS)} (task=)."
            )
        if len(labels) and labels.min() < 0:
            raise InputError(f"{where}: {name} holds {labels.min()}. Number the classes 0, 1, 2, ...")
        _check_number(where, name, labels, num_examples, "labels", "label")
        if len(labels) and labels.max() >= MOST_CLASSES:
            raise InputError(
                f"{where}: {name} holds {labels.max()}, so that the labels make {int(labels.max()) + 1} classes, but "
                f"2 to {MOST_CLASSES} are expected. Number the classes 0, 1, 2, ..."
            )
        return labels.astype(np.int32)

    def check_outputs(self, outputs: PyTree, targets: PyTree, told: str) -> None:
        if not _is_floats(outputs, 2):
            raise InputError(
                f"The model returns {form_of(outputs)} for {told}, but logits [2, classes] in floating point are "
                "expected. Wrap it so that apply returns one array of logits, or say what else it is asked: "
                f"--task {' or '.join(_OTHERS)} (task=)."
            )


@dataclasses.dataclass(frozen=True)
class Regression(Task):
    """Numbers: outputs[b] or [b, d] and targets of the same shape; the mean over d of squared differences.

    `variance`: of the training targets, the mean over d; taken from the data. As error stands what share of it a model
    leaves unexplained, 1 − R²: 0 for a perfect model, 1 for a constant guess, more for a worse one.
    """

    name: ClassVar[str] = "regression"
    unit: ClassVar[str] = "squared units"

    variance: float | None = None

    def loss(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        squares = jnp.square(outputs - targets.reshape(outputs.shape))
        return jnp.mean(squares.reshape(len(squares), -1), axis=1)

    def error(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        return self.loss(outputs, targets) / (jnp.nan if self.variance is None else self.variance)

    def constant_guess(self, targets: jax.Array, weights: jax.Array) -> Guess:
        """Of the mean."""
        flat = targets.reshape(len(targets), -1)
        mean = weights @ flat / jnp.sum(weights)
        loss = jnp.mean(weights @ jnp.square(flat - mean)) / jnp.sum(weights)
        return Guess(loss / (jnp.nan if self.variance is None else self.variance), loss)

    def curvature_factors(self, outputs: jax.Array, target: jax.Array) -> Factors:
        """2/d times the identity."""
        return Factors(jnp.full(outputs.size, 2 / outputs.size, outputs.dtype), jnp.eye(outputs.size))

    def fitted(self, targets: np.ndarray) -> "Regression":
        if self.variance is not None:
            return self
        variance = float(np.mean(np.var(targets, axis=0, dtype=np.float64)))
        if variance <= 0:
            raise InputError("The training targets are all the same. Give targets that there is something to learn of.")
        return dataclasses.replace(self, variance=variance)

    def checked_targets(self, where: str, name: str, targets: Any, num_examples: int) -> np.ndarray:
        """[n] or [n, d], finite."""
        if targets.ndim not in (1, 2) or targets.size == 0:
            raise InputError(f"{where}: {name} has shape {list(targets.shape)}. Give numbers, as [n] or [n, d].")
        _check_number(where, name, targets, num_examples, "targets", "target")
        with np.errstate(over="ignore"):
            found = targets.astype(np.float32, copy=False)
        if not np.isfinite(found).all():
            raise InputError(
                f"{where}: {name} holds {(~np.isfinite(found)).sum()} values that are NaN, infinite or beyond float32. "
                "Remove those examples."
            )
        return found

    def check_outputs(self, outputs: PyTree, targets: Any, told: str) -> None:
        wanted = tuple(targets.shape)
        alike = {wanted, wanted[:1]} if wanted[1:] == (1,) else {wanted, (*wanted, 1)} if len(wanted) == 1 else {wanted}
        if not _is_floats(outputs, None) or tuple(outputs.shape) not in alike:
            raise InputError(
                f"The model returns {form_of(outputs)} for {told}, but the targets are {list(wanted)}. Give data of as "
                "many targets as the model has outputs."
            )


@dataclasses.dataclass(frozen=True)
class MultiLabel(Task):
    """Any of c labels, or one yes or no: logits[b, c] or [b], targets of the same shape from 0 to 1.

    The mean over c of the binary cross-entropies, in nats; error is the share of labels on the wrong side of one half.
    """

    name: ClassVar[str] = "multi-label"
    unit: ClassVar[str] = "nats"

    def loss(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        targets = targets.reshape(outputs.shape).astype(outputs.dtype)
        # softplus(z) − tz, which no logit overflows.
        return _row_means(jnp.logaddexp(outputs, 0.0) - targets * outputs)

    def error(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        return _row_means(((outputs > 0) != (targets.reshape(outputs.shape) > 0.5)).astype(outputs.dtype))

    def features(self, outputs: jax.Array) -> jax.Array:
        """The labels' probabilities."""
        return jax.nn.sigmoid(outputs.reshape(len(outputs), -1))

    def constant_guess(self, targets: jax.Array, weights: jax.Array) -> Guess:
        """Of each label's frequency."""
        flat = targets.reshape(len(targets), -1).astype(weights.dtype)
        p = weights @ flat / jnp.sum(weights)
        entropy = -jax.scipy.special.xlogy(p, p) - jax.scipy.special.xlog1py(1 - p, -p)
        rare = weights @ (flat > 0.5) / jnp.sum(weights)
        return Guess(jnp.mean(jnp.minimum(rare, 1 - rare)), jnp.mean(entropy))

    def curvature_factors(self, outputs: jax.Array, target: jax.Array) -> Factors:
        """p(1 − p)/c on the diagonal."""
        z = outputs.ravel()
        return Factors(jax.nn.sigmoid(z) * jax.nn.sigmoid(-z) / z.size, jnp.eye(z.size))

    def checked_targets(self, where: str, name: str, targets: Any, num_examples: int) -> np.ndarray:
        """[n] or [n, c], from 0 to 1."""
        if targets.ndim not in (1, 2) or targets.size == 0:
            raise InputError(f"{where}: {name} has shape {list(targets.shape)}. Give 0 or 1, as [n] or [n, labels].")
        _check_number(where, name, targets, num_examples, "rows", "row")
        if not (np.isfinite(targets).all() and targets.min() >= 0 and targets.max() <= 1):
            raise InputError(f"{where}: {name} holds values outside 0 to 1. Give 1 where a label applies, else 0.")
        return targets.astype(np.float32, copy=False)

    def check_outputs(self, outputs: PyTree, targets: Any, told: str) -> None:
        Regression().check_outputs(outputs, targets, told)


@dataclasses.dataclass(frozen=True)
class NextToken(Task):
    """A token at each position: logits[b, t, v], targets[b, t] whole numbers, below 0 where a position does not count.

    Cross-entropy in nats, a mean over positions: an example counts by how many of its positions do. Targets are what
    each position is to say, so tokens shifted by one. Error is the share of positions whose likeliest token is wrong.
    """

    name: ClassVar[str] = "next-token"
    unit: ClassVar[str] = "nats"

    def loss(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        return self._mean(cross_entropy(outputs, jnp.maximum(targets, 0)), targets)

    def error(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        return self._mean((jnp.argmax(outputs, -1) != targets).astype(outputs.dtype), targets)

    def weights(self, targets: jax.Array) -> jax.Array:
        return jnp.sum(targets >= 0, axis=1).astype(jnp.float32)

    def features(self, outputs: jax.Array) -> jax.Array:
        """Each token's probability, the mean over positions [b, v]."""
        return jnp.mean(jax.nn.softmax(outputs), axis=1)

    def constant_guess(self, targets: jax.Array, weights: jax.Array) -> Guess:
        """Of the tokens' frequencies."""
        counts = weights[:, None] * (targets >= 0)
        ordered = jnp.sort(jnp.where(counts > 0, targets, -1).ravel())
        # Frequencies without a place for every token there may be: how often each of the sorted ones stands there.
        often = jnp.searchsorted(ordered, ordered, side="right") - jnp.searchsorted(ordered, ordered, side="left")
        own, total = ordered >= 0, jnp.maximum(jnp.sum(counts > 0), 1)
        loss = -jnp.sum(jnp.where(own, jnp.log(often / total), 0.0)) / total
        return Guess(1 - jnp.max(jnp.where(own, often, 0)) / total, loss)

    def checked_targets(self, where: str, name: str, targets: Any, num_examples: int) -> np.ndarray:
        """[n, t], whole numbers, some from 0 in each set."""
        if targets.ndim != 2 or targets.dtype.kind not in "iu" or targets.size == 0:
            raise InputError(
                f"{where}: {name} is {targets.dtype}{list(targets.shape)}. Give the token that each position is to "
                "say, as whole numbers [n, length], -100 where it does not count."
            )
        _check_number(where, name, targets, num_examples, "rows", "row")
        if targets.max() < 0:
            raise InputError(f"{where}: {name} holds no token from 0. Give the positions that count.")
        if targets.dtype == np.int32 and targets.min() >= -1:
            return targets
        return np.maximum(targets.astype(np.int64), -1).astype(np.int32)

    def check_outputs(self, outputs: PyTree, targets: Any, told: str) -> None:
        if not _is_floats(outputs, 3) or tuple(outputs.shape[:2]) != tuple(targets.shape):
            raise InputError(
                f"The model returns {form_of(outputs)} for {told}, but logits {[*targets.shape, 'tokens']} in floating "
                "point are expected, for each position of the targets. Give the data that it reads.".replace("'", "")
            )

    def _mean(self, values: jax.Array, targets: jax.Array) -> jax.Array:
        counts = targets >= 0
        return jnp.sum(jnp.where(counts, values, 0.0), axis=1) / jnp.maximum(jnp.sum(counts, axis=1), 1)


CLASSIFICATION = Classification()

TASKS: dict[str, Task] = {task.name: task for task in (CLASSIFICATION, Regression(), MultiLabel(), NextToken())}
"""Those that can be named."""

_OTHERS = [name for name in TASKS if name != "classification"]


def task_of(value: Task | str | None) -> Task:
    """The task of that name, itself, or classification for None; InputError for anything else."""
    if value is None:
        return CLASSIFICATION
    if isinstance(value, Task):
        try:
            hash(value)
        except TypeError as error:
            raise InputError(f"The task {value!r} cannot be hashed ({error}). Make it a frozen dataclass.") from None
        return value
    if not isinstance(value, str) or value not in TASKS:
        raise InputError(f"task is {value!r}. Choose one of {', '.join(TASKS)}, or give a mdjax.tasks.Task.")
    return TASKS[value]


def _row_means(values: jax.Array) -> jax.Array:
    return jnp.mean(values.reshape(len(values), -1), axis=1)


def _check_number(where: str, name: str, targets: Any, num_examples: int, many: str, one: str) -> None:
    if len(targets) != num_examples:
        inputs = name.replace("y_", "x_")
        raise InputError(
            f"{where}: {inputs} has {num_examples} examples, but {name} has {len(targets)} {many}. "
            f"Give one {one} per example."
        )


def _is_floats(outputs: PyTree, num_axes: int | None) -> bool:
    """Whether it is one array of floats, for two examples."""
    if not hasattr(outputs, "shape") or not hasattr(outputs, "dtype"):
        return False
    fits = num_axes is None or len(outputs.shape) == num_axes
    return bool(fits and outputs.shape[:1] == (2,) and jnp.issubdtype(outputs.dtype, jnp.floating))
