"""(model, params, examples) → cross-entropy and error, over as many examples as there are."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mdjax.landscape.batches import LabelledExamples, slice_batch
from mdjax.models import Model

PyTree = Any

Loss = Callable[[jax.Array, jax.Array], jax.Array]
"""(logits[b, c], labels[b]) → the loss of each example [b]."""


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy in nats of each example: logits[b, c], labels[b] → [b]; NaN for a label that is no class.

    The label's logit is a masked sum: a look-up is differentiated by a scatter, slow to compile and in a loop on CPU.
    """
    shifted = logits - jax.lax.stop_gradient(jnp.max(logits, -1, keepdims=True))
    is_label = labels[:, None] == jnp.arange(logits.shape[-1])
    own = jnp.sum(jnp.where(is_label, shifted, 0.0), -1)
    return jnp.log(jnp.sum(jnp.exp(shifted), -1)) - jnp.where(jnp.any(is_label, -1), own, jnp.nan)


class Factors(NamedTuple):
    """A symmetric matrix Σₖ weights[k] uₖuₖᵀ with uₖ the k-th row of vectors[c, c]."""

    weights: jax.Array
    vectors: jax.Array


def curvature_factors(loss: Loss, logits: jax.Array, label: jax.Array) -> Factors:
    """The second derivative of an example's loss by its logits[c], in c rank-one terms.

        loss: of each example.
        logits: of one example [c].
        label: its label.

    Cross-entropy's is the covariance of the classes, Σₖ pₖ(eₖ − p)(eₖ − p)ᵀ; of any other loss it takes the
    eigenvectors, c³ flops.
    """
    if loss is cross_entropy:
        p = jax.nn.softmax(logits)
        # 1 − pₖ as the sum of the others: near 1 the difference would be all rounding.
        others = jnp.where(jnp.eye(len(p), dtype=bool), 0.0, p)
        return Factors(p, jnp.diag(jnp.sum(others, axis=1)) - others)
    weights, columns = jnp.linalg.eigh(jax.hessian(lambda logits: loss(logits[None], label[None])[0])(logits))
    return Factors(weights, columns.T)


def mean_cross_entropy(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted mean cross-entropy in nats of logits[b, c] and labels[b]; weights[b] are 1, or 0 for padding."""
    return jnp.sum(weights * cross_entropy(logits, labels)) / jnp.sum(weights)


def evaluate(
    model: Model, params: PyTree, state: PyTree, examples: LabelledExamples, *, batch_size: int = 512
) -> tuple[jax.Array, jax.Array]:
    """Mean cross-entropy (nats) and error (percent) over the examples, with stored statistics.

        model: its `apply` is used.
        params, state: one model's.
        examples: what the means are taken over.
        batch_size: examples in one forward pass.

    Cost: one forward pass over the examples.
    """
    zeros = jnp.zeros(()), jnp.zeros(())
    loss, wrong = _sum_over_batches(model, params, state, examples, batch_size, _loss_and_wrong, zeros)
    return loss / examples.num_examples, 100 * wrong / examples.num_examples


MAX_CLASSES = 1024
"""Of a confusion matrix; of more classes those whose numbers agree modulo this one are counted together."""


class Evaluation(NamedTuple):
    """Mean cross-entropy in nats, error and expected calibration error in percent, and the confusion matrix."""

    loss: jax.Array
    error: jax.Array
    calibration_error: jax.Array
    confusion: jax.Array  # examples of each class that are taken for each, [labels, predictions] below MAX_CLASSES


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

        model, params, state, examples, batch_size: as for `evaluate`.
        num_bins: equal bins of confidence.

    The examples are put into the bins by the probability p of the predicted class, bin b holding
    (b/num_bins, (b+1)/num_bins]; the error is the mean over examples of their bin's |accuracy − mean p|, 0 to 100.
    An estimate with a positive bias of order √(num_bins/n) for a calibrated model.
    Source: Guo et al., "On calibration of modern neural networks", ICML 2017, eq. 3.
    """

    def sums(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, ...]:
        loss, wrong = _loss_and_wrong(logits, labels, weights)
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
    loss, wrong, excess, confusion = _sum_over_batches(model, params, state, examples, batch_size, sums, zeros)
    number = examples.num_examples
    return Evaluation(loss / number, 100 * wrong / number, 100 * jnp.sum(jnp.abs(excess)) / number, confusion)


def _loss_and_wrong(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A batch's summed cross-entropy, and how many of its examples are misclassified."""
    loss = jnp.sum(weights * cross_entropy(logits, labels))
    wrong = jnp.sum(weights * (jnp.argmax(logits, -1) != labels))
    # A model with NaN weights must not look right by chance: argmax of NaN is class 0.
    return loss, jnp.where(jnp.isfinite(loss), wrong, jnp.nan)


def _sum_over_batches(
    model: Model,
    params: PyTree,
    state: PyTree,
    examples: LabelledExamples,
    batch_size: int,
    sums: Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, ...]],
    zeros: tuple[jax.Array, ...],
) -> tuple[jax.Array, ...]:
    """`zeros` + Σ over batches of sums(logits[b, c], labels[b], weights[b]), with stored statistics."""
    inputs, labels, num_examples = examples
    size = min(batch_size, inputs.shape[0])
    num_examples = jnp.asarray(num_examples)

    def add_batch(batch: jax.Array, total: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        x, weights = slice_batch(inputs, batch * size, num_examples, size)
        y, _ = slice_batch(labels, batch * size, num_examples, size)
        logits = model.apply(params, state, x)
        return tuple(old + new for old, new in zip(total, sums(logits, y, weights)))

    return jax.lax.fori_loop(0, -(-num_examples // size), add_batch, zeros)
