"""The mean loss of a model over its examples → its curvature, as an operator and as quadratic forms."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mdjax.landscape.batches import LabelledExamples, all_batches, over_data
from mdjax.landscape.curvature import Contribution, CurvatureMatrix, Outputs, curvature_operator
from mdjax.landscape.losses import Loss, cross_entropy
from mdjax.landscape.quadratic_forms import QuadraticForms, quadratic_forms
from mdjax.linalg.operators import LinearOperator
from mdjax.models import Model

PyTree = Any

_BATCH_SIZE = 128
"""Examples in one pass where what is finite is looked for."""


def loss_curvature(
    model: Model,
    params: PyTree,
    state: PyTree,
    examples: LabelledExamples,
    *,
    batch_size: int,
    matrix: CurvatureMatrix = "hessian",
    loss: Loss = cross_entropy,
) -> LinearOperator:
    """The curvature of the mean loss over the examples, with stored statistics and without weight decay.

        model: its `apply` is used.
        params, state: one model's; the operator acts on the raveled params [p].
        examples: what the mean is taken over.
        batch_size: examples in one pass; more than four batches compute their residuals anew for every product.
        matrix: the Hessian or the Gauss–Newton matrix.
        loss: of each example: (logits[b, c], labels[b]) → [b].

    Cost of a product: see `mdjax.landscape.curvature.curvature_operator`.
    """
    return curvature_operator(*_mean_loss(model, params, state, examples, batch_size, loss), matrix=matrix)


def loss_quadratic_forms(
    model: Model,
    params: PyTree,
    state: PyTree,
    examples: LabelledExamples,
    *,
    batch_size: int,
    matrix: CurvatureMatrix = "hessian",
    loss: Loss = cross_entropy,
) -> QuadraticForms:
    """V[k, p] → the quadratic forms vᵢᵀ A vᵢ [k] of the matrix A of `loss_curvature`.

        model, params, state, examples, batch_size, matrix, loss: as for `loss_curvature`.

    Cost of a vector: half that of a product.
    """
    return quadratic_forms(*_mean_loss(model, params, state, examples, batch_size, loss), matrix=matrix)


class FiniteParts(NamedTuple):
    """Whether a model's mean loss is finite, and its gradient."""

    loss: bool
    gradient: bool


def finite_parts(
    model: Model, params: PyTree, state: PyTree, examples: LabelledExamples, *, loss: Loss = cross_entropy
) -> FiniteParts:
    """What of the mean loss over the examples is finite: asked where its curvature is not.

        model: its `apply` is used.
        params, state: one model's.
        examples: the mean is taken over them; their number must not be traced.
        loss: of each example: (logits[b, c], labels[b]) → [b].

    Not for tracing: one gradient, operation by operation.
    """
    inputs, labels, num_examples = examples
    params, is_finite = jax.tree.map(jnp.asarray, params), FiniteParts(True, True)

    def mean_loss(params: PyTree, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.mean(loss(model.apply(params, state, x), y))

    for start in range(0, int(num_examples), _BATCH_SIZE):
        batch = slice(start, min(start + _BATCH_SIZE, int(num_examples)))
        value, gradient = jax.value_and_grad(mean_loss)(params, inputs[batch], labels[batch])
        finite = [bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient)]
        is_finite = FiniteParts(is_finite.loss and bool(jnp.isfinite(value)), is_finite.gradient and all(finite))
    return is_finite


class _SummedLoss(NamedTuple):
    """A loss as `curvature_operator` and `quadratic_forms` take it."""

    outputs: Outputs
    loss: Contribution
    params: PyTree
    batches: PyTree


def _mean_loss(
    model: Model, params: PyTree, state: PyTree, examples: LabelledExamples, batch_size: int, loss: Loss
) -> _SummedLoss:
    """The mean loss over the examples as a sum over batches, of which the last is padded with weights of 0."""
    inputs, labels, num_examples = examples
    size = min(batch_size, len(inputs))
    x, weights = all_batches(inputs, num_examples, size)
    y, _ = all_batches(labels, num_examples, size)

    def outputs(params: PyTree, batch: PyTree) -> jax.Array:
        return model.apply(params, state, over_data(batch[0]))

    def contribution(logits: jax.Array, batch: PyTree) -> jax.Array:
        _, y, weights = batch
        return jnp.sum(weights * loss(logits, y)) / num_examples

    return _SummedLoss(outputs, contribution, params, (x, y, weights))
