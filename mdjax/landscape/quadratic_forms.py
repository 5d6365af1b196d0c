"""A loss summed over batches → quadratic forms vᵀAv of its Hessian or Gauss–Newton matrix, at half a product's cost.

The Hessian's come from `second_derivative`, which takes a function's jaxpr apart and needs no backward pass for a
vector.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mdjax.landscape.accumulation import VectorFunction, summed_over_batches
from mdjax.landscape.curvature import Contribution, CurvatureMatrix, Outputs, check_matrix, gauss_newton_factors
from mdjax.landscape.limits import ProductLimits
from mdjax.landscape.operations import Operation, evaluate, is_smooth
from mdjax.landscape.split_vectors import raveled
from mdjax.linalg.operators import Matvec

PyTree = Any

QuadraticForms = Callable[[jax.Array], jax.Array]
"""V[k, p] → the k numbers vᵢᵀ A vᵢ [k]."""


def quadratic_forms(
    outputs: Outputs,
    loss: Contribution,
    params: PyTree,
    batches: PyTree,
    *,
    matrix: CurvatureMatrix = "hessian",
    limits: ProductLimits | None = None,
    mergeable: bool = False,
) -> QuadraticForms:
    """The function V[k, p] → the k quadratic forms vᵢᵀ A vᵢ [k] of the matrix of `curvature_operator`.

        outputs, loss, params, batches, matrix, limits, mergeable: as for `curvature_operator`.

    Cost of a vector, half that of a product: 3 matrix products per layer for the Hessian, 2 for Gauss–Newton.
    Residuals are kept or computed anew as there; they are others than a product's, and where both are asked for only
    the compiler may share any. Raises InputError for an unknown matrix.
    """
    check_matrix(matrix)
    flat, unravel, *_ = raveled(params)
    form = _hessian_form if matrix == "hessian" else _gauss_newton_form
    linearized = functools.partial(form, outputs, loss, unravel, flat)
    return summed_over_batches(linearized, batches, limits, mergeable=mergeable)[1]


def _hessian_form(
    outputs: Outputs, loss: Contribution, unravel: Callable, flat: jax.Array, batch: PyTree
) -> VectorFunction:
    return second_derivative(lambda flat: loss(outputs(unravel(flat), batch), batch), flat)


def _gauss_newton_form(
    outputs: Outputs, loss: Contribution, unravel: Callable, flat: jax.Array, batch: PyTree
) -> VectorFunction:
    def form(jacobian: Matvec, loss_hessian: Matvec, vector: jax.Array) -> jax.Array:
        tangent = jacobian(vector)
        return jnp.vdot(tangent, loss_hessian(tangent))

    return jax.tree_util.Partial(form, *gauss_newton_factors(outputs, loss, unravel, flat, batch))


def second_derivative(function: Callable[[jax.Array], jax.Array], point: jax.Array) -> VectorFunction:
    """v[p] → d²/dt² function(point + t v) at t = 0, for a scalar `function`, without a backward pass per vector.

    With z̄ₑ the adjoint of the result of elementary operation fₑ, the second derivative of the composition is
    Σₑ ⟨z̄ₑ, fₑ''[zₑ', zₑ']⟩, where zₑ' are the tangents of fₑ's inputs. Adjoints belong to the point alone, so a
    vector costs one forward pass of tangents and one evaluation of fₑ'' per operation that is not linear in its
    inputs (a "curved" one): for a layer 3 matrix products, as many as a gradient, where a Hessian-vector product
    takes 6. Calls are taken apart; loops, branches and functions with a derivative of their own (`scan`, `cond`,
    `custom_jvp`, ...) count as one operation each, which is right too, but saves nothing inside them.
    Source: the second-order chain rule (Griewank & Walther, Evaluating Derivatives, 2008, section 5).
    """
    program = jax.make_jaxpr(function)(point)
    is_curved: dict[tuple[int, tuple[bool, ...]], bool] = {}
    operations: list[Operation] = []

    def run(point: jax.Array, shifts: list[list[jax.Array]] | None) -> tuple[jax.Array, _Record]:
        """The function with `shifts` added to the results of its curved operations, and what those saw."""
        record = _Record([], [])
        operations.clear()

        def visit(operation: Operation, inputs: list[jax.Array], results: list[jax.Array]) -> list[jax.Array]:
            key = id(operation.equation), operation.live
            if key not in is_curved:
                is_curved[key] = operation.is_curved(inputs)
            if not is_curved[key]:
                return results
            if shifts is not None:
                remaining = iter(shifts[len(operations)])
                results = [result + next(remaining) if is_smooth(result) else result for result in results]
            operations.append(operation)
            record.inputs.append(inputs)
            record.results.append(list(filter(is_smooth, results)))
            return results

        values = evaluate(program.jaxpr, program.consts, [point], (True,), visit)[0]
        return values[0], record

    def seen(point: jax.Array) -> tuple[list, _Record]:
        record = run(point, None)[1]
        return _live_inputs(operations, record.inputs), record

    # The record comes from the differentiated run: operations with a derivative of their own compute otherwise there.
    _, tangents, record = jax.linearize(seen, point, has_aux=True)
    adjoints = jax.grad(lambda shifts: run(point, shifts)[0])(jax.tree.map(jnp.zeros_like, record.results))
    frozen = tuple(operations)

    def form(tangents: Callable[[jax.Array], list], inputs: list, adjoints: list, vector: jax.Array) -> jax.Array:
        total = jnp.zeros((), vector.dtype)
        for operation, *arrays in zip(frozen, inputs, tangents(vector), adjoints, strict=True):
            total += operation.form(*arrays)
        return total

    return jax.tree_util.Partial(form, tangents, record.inputs, adjoints)


class _Record(NamedTuple):
    """What the curved operations of a program were given and gave, in the order in which they ran."""

    inputs: list[list[jax.Array]]
    results: list[list[jax.Array]]


def _live_inputs(operations: Sequence[Operation], inputs: list[list[jax.Array]]) -> list[list[jax.Array]]:
    return [
        [x for x, live in zip(values, operation.live) if live]
        for operation, values in zip(operations, inputs, strict=True)
    ]
