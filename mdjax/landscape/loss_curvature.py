"""The mean loss of a model over its examples → its curvature: an operator, quadratic forms, and its exact trace."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mdjax.landscape.affinity import is_affine_in_each
from mdjax.landscape.batches import (
    LabelledExamples,
    all_batches,
    over_data,
    over_data_multiple,
    slice_batch,
    splits_batches,
    summed_over_data,
    weighed,
)
from mdjax.landscape.curvature import Contribution, CurvatureMatrix, Outputs, curvature_operator
from mdjax.landscape.limits import current_limits
from mdjax.landscape.losses import bounded_batch
from mdjax.landscape.quadratic_forms import QuadraticForms, quadratic_forms
from mdjax.linalg.operators import LinearOperator
from mdjax.models import Model

PyTree = Any

_BATCH_SIZE = 128
"""Examples in one pass where what is finite is looked for."""

_MOST_OUTPUTS = 128
"""Of more outputs an exact trace, with a backward pass for each, costs more than one by random probes."""

_GRADIENT_FLOATS, _PASSES = 2**22, 512
"""What the gradients of examples taken together may hold, and backward passes: more leaves a CPU's caches."""


def loss_curvature(
    model: Model,
    params: PyTree,
    state: PyTree,
    examples: LabelledExamples,
    *,
    batch_size: int,
    matrix: CurvatureMatrix = "hessian",
) -> LinearOperator:
    """The curvature of the mean loss over the examples, with stored statistics and without weight decay.

        model: its `apply` is used.
        params, state: one model's; the operator acts on the raveled params [p].
        examples: what the mean is taken over, by their task.
        batch_size: examples in one pass where there are more than four batches, which compute their residuals anew for
            every product; up to four are one pass, if their residuals fit.
        matrix: the Hessian or the Gauss–Newton matrix.

    Cost of a product: see `mdjax.landscape.curvature.curvature_operator`.
    """
    summed = _mean_loss(model, params, state, examples, batch_size)
    return curvature_operator(*summed, matrix=matrix, mergeable=not splits_batches())


def loss_quadratic_forms(
    model: Model,
    params: PyTree,
    state: PyTree,
    examples: LabelledExamples,
    *,
    batch_size: int,
    matrix: CurvatureMatrix = "hessian",
) -> QuadraticForms:
    """V[k, p] → the quadratic forms vᵢᵀ A vᵢ [k] of the matrix A of `loss_curvature`.

        model, params, state, examples, batch_size, matrix: as for `loss_curvature`.

    Cost of a vector: half that of a product.
    """
    summed = _mean_loss(model, params, state, examples, batch_size)
    return quadratic_forms(*summed, matrix=matrix, mergeable=not splits_batches())


def has_exact_trace(
    model: Model,
    params: PyTree,
    state: PyTree,
    inputs: PyTree,
    *,
    matrix: CurvatureMatrix = "hessian",
) -> bool:
    """Whether the trace of `loss_curvature` is what `gauss_newton_traces` gives, whatever the loss.

        model, params, state: as for `loss_curvature`.
        inputs: examples, a pytree of arrays [n, ...]; only their shapes count.
        matrix: the Hessian or the Gauss–Newton matrix.

    So it is for the Gauss–Newton matrix, and for the Hessian of a network that is piecewise affine in each array of
    its parameters (`mdjax.landscape.affinity`): the Hessian is the Gauss–Newton matrix and Σₖ (∂ℓ/∂zₖ) ∇²zₖ, whose
    diagonal is then zero. Not for more than 128 outputs, where random probes cost less. Cost: tracing.
    """
    one = jax.tree.map(lambda leaf: leaf[:1], inputs)
    outputs = jax.eval_shape(model.apply, params, state, one)
    # Of outputs that are no single array it is not tried.
    if not hasattr(outputs, "size") or outputs.size > _MOST_OUTPUTS:
        return False
    # A loop over layers is one operation, curved as a whole.
    model = getattr(model, "unrolled", model)
    return matrix == "gauss_newton" or is_affine_in_each(model.apply, params, state, one)


def gauss_newton_traces(model: Model, params: PyTree, state: PyTree, examples: LabelledExamples) -> PyTree:
    """The exact trace of the diagonal block of each array of `params` in the mean loss's Gauss–Newton matrix.

        model: its `apply` is used, on single examples.
        params, state: one model's.
        examples: what the mean is taken over, by their task.

    tr Σᵢ Jᵢᵀ (∇²ℓᵢ) Jᵢ / n = Σᵢₖ wᵢₖ ‖Jᵢᵀuᵢₖ‖² / n with wᵢₖ, uᵢₖ of `Task.curvature_factors`: squared norms of the
    gradients of single examples, so no random numbers and no error but rounding. Cost: a forward and c backward passes
    over the examples, each with its own gradients of the weights: about 5 gradients for 10 classes, where the passes of
    an example share its activations; memory c·p floats, or 16 MiB where that is more (more on accelerators).
    """
    model = getattr(model, "examples_first", model)
    task, given = examples.task, (examples.inputs, examples.targets)
    one = jax.tree.map(lambda leaf: leaf[:1], examples.inputs)
    num_outputs, total = jax.eval_shape(model.apply, params, state, one).size, examples.total_weight
    num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    limits = current_limits()
    floats = min(_GRADIENT_FLOATS * limits.vectors_at_once, limits.residual_bytes // 32)
    together = min(floats // num_params, _PASSES * limits.vectors_at_once) // num_outputs
    # On a mesh JAX (0.10) cannot batch strided convolutions over models, examples and outputs all at once.
    together = together if jax.sharding.get_abstract_mesh().empty else 1
    size = min(over_data_multiple(max(together, 1)), examples.capacity)

    constants = params, state, jnp.asarray(total, jnp.float32)

    def squares(constants: PyTree, example: PyTree) -> PyTree:
        (params, state, total), (x, y, weight) = constants, example
        x = jax.tree.map(lambda leaf: leaf[None], x)
        outputs, pullback = jax.vjp(lambda params: model.apply(params, state, x)[0], params)
        weights, vectors = task.curvature_factors(outputs, y)
        (gradients,) = jax.vmap(pullback)(vectors.reshape(num_outputs, *outputs.shape))
        weights = weights * weight / total
        return jax.tree.map(lambda leaf: weights @ jnp.sum(leaf.reshape(num_outputs, -1) ** 2, axis=1), gradients)

    def add(start: jax.Array, total: PyTree) -> PyTree:
        (x, y), mask = slice_batch(given, start * size, examples.num_examples, size)
        weights = weighed(examples.task, y, mask)
        if size == 1:
            x, y = jax.tree.map(lambda leaf: leaf[0], (x, y))
            return jax.tree.map(jnp.add, total, squares(constants, (x, y, weights[0])))
        if splits_batches() and size == over_data_multiple(1):
            found = summed_over_data(squares, constants, (x, y, weights))
            return jax.tree.map(jnp.add, total, found)
        found = jax.vmap(functools.partial(squares, constants))((x, y, weights))
        return jax.tree.map(lambda total, leaf: total + jnp.sum(leaf), total, found)

    zeros = jax.tree.map(lambda leaf: jnp.zeros((), leaf.dtype), params)
    return jax.lax.fori_loop(0, -(-examples.capacity // size), add, zeros)


class FiniteParts(NamedTuple):
    """Whether a model's mean loss is finite, and its gradient."""

    loss: bool
    gradient: bool


def finite_parts(model: Model, params: PyTree, state: PyTree, examples: LabelledExamples) -> FiniteParts:
    """What of the mean loss over the examples is finite: asked where its curvature is not.

        model: its `apply` is used.
        params, state: one model's.
        examples: the mean is taken over them, by their task; their number must not be traced.

    Not for tracing: one gradient, operation by operation.
    """
    params, is_finite = jax.tree.map(jnp.asarray, params), FiniteParts(True, True)
    number, given = int(examples.num_examples), (examples.inputs, examples.targets)

    def mean_loss(params: PyTree, x: PyTree, y: PyTree) -> jax.Array:
        return jnp.mean(examples.task.loss(model.apply(params, state, x), y))

    for start in range(0, number, _BATCH_SIZE):
        batch = jax.tree.map(lambda leaf, start=start: leaf[start : min(start + _BATCH_SIZE, number)], given)
        value, gradient = jax.value_and_grad(mean_loss)(params, *batch)
        finite = [bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient)]
        is_finite = FiniteParts(is_finite.loss and bool(jnp.isfinite(value)), is_finite.gradient and all(finite))
    return is_finite


class _SummedLoss(NamedTuple):
    """A loss as `curvature_operator` and `quadratic_forms` take it."""

    outputs: Outputs
    loss: Contribution
    params: PyTree
    batches: PyTree


def _mean_loss(model: Model, params: PyTree, state: PyTree, examples: LabelledExamples, batch_size: int) -> _SummedLoss:
    """The mean loss over the examples as a sum over batches, of which the last is padded with weights of 0."""
    size, total = bounded_batch(model, params, state, examples, batch_size), examples.total_weight
    (x, y), mask = all_batches((examples.inputs, examples.targets), examples.num_examples, size)

    def outputs(params: PyTree, batch: PyTree) -> PyTree:
        return model.apply(params, state, over_data(batch[0]))

    def contribution(found: PyTree, batch: PyTree) -> jax.Array:
        _, y, mask = batch
        return jnp.sum(weighed(examples.task, y, mask) * examples.task.loss(found, y)) / total

    return _SummedLoss(outputs, contribution, params, (x, y, mask))
