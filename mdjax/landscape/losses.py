"""(model, params, examples) → loss and error by the examples' task, over as many of them as there are."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mdjax.landscape.batches import LabelledExamples, slice_batch, weighed
from mdjax.models import Model
from mdjax.tasks import Task

PyTree = Any

_MOST_FLOATS = 2**26
"""Of the outputs of examples that are taken together: logits of every token at every position soon fill a memory."""


def bounded_batch(model: Model, params: PyTree, state: PyTree, examples: LabelledExamples, batch_size: int) -> int:
    """How many examples go together: `batch_size`, all there are, or as many as whose outputs are 256 MiB."""
    return max(1, min(batch_size, examples.capacity, _fitting(model, params, state, examples.inputs)))


def fitting_batches(model: Model, params: PyTree, state: PyTree, batches: PyTree) -> PyTree:
    """Inputs [batches, batch, ...] in smaller batches, by whole parts of theirs, where outputs would exceed 256 MiB."""
    size = jax.tree.leaves(batches)[0].shape[1]
    most = _fitting(model, params, state, jax.tree.map(lambda leaf: leaf[0], batches))
    part = next(number for number in range(min(size, max(1, most)), 0, -1) if size % number == 0)
    if part == size:
        return batches
    return jax.tree.map(lambda leaf: leaf.reshape(-1, part, *leaf.shape[2:]), batches)


def _fitting(model: Model, params: PyTree, state: PyTree, inputs: PyTree) -> int:
    """Of how many examples like these the outputs are 256 MiB."""
    one = jax.tree.map(lambda leaf: leaf[:1], inputs)
    outputs = jax.tree.leaves(jax.eval_shape(model.apply, params, state, one))
    return _MOST_FLOATS // max(1, sum(leaf.size for leaf in outputs))


def mean_loss(task: Task, outputs: PyTree, targets: PyTree, mask: jax.Array) -> jax.Array:
    """The mean loss of a batch's outputs, each example weighed as the task says.

    task: whose loss it is.
    outputs, targets: of the batch [b, ...].
    mask: [b], 1, or 0 for padding.
    """
    weights = weighed(task, targets, mask)
    total = jnp.sum(weights)
    if task.weights(targets) is not None:
        total = jnp.where(total > 0, total, 1.0)  # a batch in which nothing counts has no gradient
    return jnp.sum(weights * task.loss(outputs, targets)) / total


def evaluate(
    model: Model, params: PyTree, state: PyTree, examples: LabelledExamples, *, batch_size: int = 512
) -> tuple[jax.Array, jax.Array]:
    """Mean loss and error (percent) over the examples by their task, with stored statistics.

        model: its `apply` is used.
        params, state: one model's.
        examples: what the means are taken over.
        batch_size: examples in one forward pass.

    Cost: one forward pass over the examples.
    """
    loss, wrong = loss_sums(model, params, state, examples, batch_size=batch_size)
    total = examples.total_weight
    return loss / total, 100 * wrong / total


def loss_sums(
    model: Model, params: PyTree, state: PyTree, examples: LabelledExamples, *, batch_size: int = 512
) -> tuple[jax.Array, ...]:
    """Loss and error (a fraction) summed over the examples by their weights; arguments and cost as of `evaluate`."""
    zeros = jnp.zeros(()), jnp.zeros(())
    sums = functools.partial(_loss_and_wrong, examples.task)
    return _sum_over_batches(model, params, state, examples, batch_size, sums, zeros)


class Spread(NamedTuple):
    """Standard errors of mean loss and error (percent), as those of samples."""

    loss_se: jax.Array
    error_se: jax.Array


def spread(model: Model, params: PyTree, state: PyTree, examples: LabelledExamples, *, batch_size: int = 512) -> Spread:
    """How far means over a random sample of examples lie from those of all, as one standard deviation.

    Arguments and cost are those of `evaluate`. For weights w and values v: √(Σ w² (v − v̄)²) / Σ w, that of a ratio of
    sums to first order. It lacks the correction for a sample that is much of the whole, and is too wide there.
    """

    def sums(outputs: PyTree, targets: PyTree, weights: jax.Array) -> tuple[jax.Array, ...]:
        values = jnp.stack([examples.task.loss(outputs, targets), examples.task.error(outputs, targets)])
        sums = (jnp.sum(part, 1) for part in (weights * values, weights**2 * values, (weights * values) ** 2))
        return *sums, jnp.sum(weights**2)

    zeros = jnp.zeros(2), jnp.zeros(2), jnp.zeros(2), jnp.zeros(())
    total, first, second, squares = _sum_over_batches(model, params, state, examples, batch_size, sums, zeros)
    mean = total / examples.total_weight
    variance = jnp.maximum(second - 2 * mean * first + mean**2 * squares, 0)
    return Spread(*(jnp.array([1.0, 100.0]) * jnp.sqrt(variance) / examples.total_weight))


MAX_CLASSES = 1024
"""Of a confusion matrix; of more classes those whose numbers agree modulo this one are counted together."""


class Evaluation(NamedTuple):
    """Mean cross-entropy in nats, error and expected calibration error in percent, and the confusion matrix."""

    loss: jax.Array
    error: jax.Array
    calibration_error: jax.Array
    confusion: jax.Array  # examples of each class that are taken for each, [labels, predictions] below MAX_CLASSES


class Sums(NamedTuple):
    """What makes an `Evaluation`, of some of the examples: those of all are the sums of these."""

    loss: jax.Array
    wrong: jax.Array
    excess: jax.Array  # accuracy less confidence, summed within each bin [num_bins]
    confusion: jax.Array


def class_sums(
    model: Model, params: PyTree, state: PyTree, examples: LabelledExamples, *, num_bins: int, batch_size: int = 512
) -> Sums:
    """The sums over examples that `evaluate_calibration` makes its means of; arguments and cost as there."""

    def sums(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, ...]:
        loss, wrong = _loss_and_wrong(examples.task, logits, labels, weights)
        confidence = jnp.max(jax.nn.softmax(logits), -1)
        right = jnp.argmax(logits, -1) == labels
        index = jnp.clip(jnp.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
        # A sum of masks rather than a scatter: on accelerators that would add in any order.
        excess = jnp.where(index[:, None] == jnp.arange(num_bins), (weights * (right - confidence))[:, None], 0.0)
        members = weights[:, None] * jax.nn.one_hot(labels % num_counted, num_counted)
        confusion = members.T @ jax.nn.one_hot(jnp.argmax(logits, -1) % num_counted, num_counted)
        return loss, wrong, jnp.where(jnp.isfinite(loss), jnp.sum(excess, 0), jnp.nan), confusion

    num_classes = jax.eval_shape(model.apply, params, state, examples.inputs[:1]).shape[-1]
    num_counted = min(num_classes, MAX_CLASSES)
    zeros = jnp.zeros(()), jnp.zeros(()), jnp.zeros(num_bins), jnp.zeros((num_counted, num_counted))
    return Sums(*_sum_over_batches(model, params, state, examples, batch_size, sums, zeros))


def evaluate_calibration(
    model: Model,
    params: PyTree,
    state: PyTree,
    examples: LabelledExamples,
    *,
    num_bins: int = 15,
    batch_size: int = 512,
) -> Evaluation:
    """As `evaluate`, with the expected calibration error and the confusion matrix, from the same forward pass.

    For classification alone.

        model, params, state, examples, batch_size: as for `evaluate`.
        num_bins: equal bins of confidence.

    The examples are put into the bins by the probability p of the predicted class, bin b holding
    (b/num_bins, (b+1)/num_bins]; the error is the mean over examples of their bin's |accuracy − mean p|, 0 to 100.
    An estimate with a positive bias of order √(num_bins/n) for a calibrated model.
    Source: Guo et al., "On calibration of modern neural networks", ICML 2017, eq. 3.
    """
    loss, wrong, excess, confusion = class_sums(
        model, params, state, examples, num_bins=num_bins, batch_size=batch_size
    )
    number = examples.num_examples
    return Evaluation(loss / number, 100 * wrong / number, 100 * jnp.sum(jnp.abs(excess)) / number, confusion)


def _loss_and_wrong(task: Task, outputs: PyTree, targets: PyTree, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A batch's summed loss and error."""
    loss = jnp.sum(weights * task.loss(outputs, targets))
    wrong = jnp.sum(weights * task.error(outputs, targets))
    # A model with NaN weights must not look right by chance: argmax of NaN is class 0.
    return loss, jnp.where(jnp.isfinite(loss), wrong, jnp.nan)


def _sum_over_batches(
    model: Model,
    params: PyTree,
    state: PyTree,
    examples: LabelledExamples,
    batch_size: int,
    sums: Callable[[PyTree, PyTree, jax.Array], tuple[jax.Array, ...]],
    zeros: tuple[jax.Array, ...],
) -> tuple[jax.Array, ...]:
    """`zeros` + Σ over batches of sums(outputs[b, ...], targets[b, ...], weights[b]), with stored statistics."""
    size = bounded_batch(model, params, state, examples, batch_size)
    num_examples = jnp.asarray(examples.num_examples)

    def add_batch(batch: jax.Array, total: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        (x, y), mask = slice_batch((examples.inputs, examples.targets), batch * size, num_examples, size)
        outputs = model.apply(params, state, x)
        return tuple(old + new for old, new in zip(total, sums(outputs, y, weighed(examples.task, y, mask))))

    return jax.lax.fori_loop(0, -(-num_examples // size), add_batch, zeros)
