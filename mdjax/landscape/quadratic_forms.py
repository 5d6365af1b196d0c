"""A loss summed over batches → quadratic forms vᵀAv of its Hessian or Gauss–Newton matrix, at half a product's cost.

The Hessian's come from `second_derivative`, which takes a function's jaxpr apart and needs no backward pass for a
vector.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from mdjax.landscape.accumulation import VectorFunction, summed_over_batches
from mdjax.landscape.curvature import Contribution, CurvatureMatrix, Outputs, check_matrix, gauss_newton_factors
from mdjax.landscape.limits import ProductLimits
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
) -> QuadraticForms:
    """The function V[k, p] → the k quadratic forms vᵢᵀ A vᵢ [k] of the matrix of `curvature_operator`.

        outputs, loss, params, batches, matrix, limits: as for `curvature_operator`.

    Cost of a vector, half that of a product: 3 matrix products per layer for the Hessian, 2 for Gauss–Newton.
    Residuals are kept or computed anew as there; they are others than a product's, and where both are asked for only
    the compiler may share any. Raises InputError for an unknown matrix.
    """
    check_matrix(matrix)
    flat, unravel = ravel_pytree(params)
    form = _hessian_form if matrix == "hessian" else _gauss_newton_form
    linearized = functools.partial(form, outputs, loss, unravel, flat)
    return summed_over_batches(linearized, batches, limits)[1]


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
    operations: list[_Operation] = []

    def run(point: jax.Array, shifts: list[list[jax.Array]] | None) -> tuple[jax.Array, _Record]:
        """The function with `shifts` added to the results of its curved operations, and what those saw."""
        record = _Record([], [])
        operations.clear()

        def visit(operation: _Operation, inputs: list[jax.Array], results: list[jax.Array]) -> list[jax.Array]:
            key = id(operation.equation), operation.live
            if key not in is_curved:
                is_curved[key] = operation.is_curved(inputs)
            if not is_curved[key]:
                return results
            if shifts is not None:
                remaining = iter(shifts[len(operations)])
                results = [result + next(remaining) if _is_smooth(result) else result for result in results]
            operations.append(operation)
            record.inputs.append(inputs)
            record.results.append(list(filter(_is_smooth, results)))
            return results

        values = _evaluate(program.jaxpr, program.consts, [point], (True,), visit)[0]
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


class _Operation(NamedTuple):
    """One equation of a program, as a function of the variables that it reads, and which depend on the point."""

    equation: Any
    variables: tuple[Any, ...]
    live: tuple[bool, ...]

    def apply(self, inputs: Sequence[jax.Array]) -> list[jax.Array]:
        values = dict(zip(self.variables, inputs, strict=True))
        read = [
            atom.val if isinstance(atom, jax.extend.core.Literal) else values[atom] for atom in self.equation.invars
        ]
        primitive = self.equation.primitive
        results = primitive.bind(*read, **primitive.get_bind_params(self.equation.params))
        return list(results) if primitive.multiple_results else [results]

    def second(self, inputs: Sequence[jax.Array], tangents: Sequence[jax.Array]) -> list[jax.Array]:
        """f''[t, t] of the results in floating point, for the tangents of the live inputs."""

        def results(*varied: jax.Array) -> list[jax.Array]:
            remaining = iter(varied)
            values = [next(remaining) if live else x for x, live in zip(inputs, self.live)]
            return list(filter(_is_smooth, self.apply(values)))

        def directional(*varied: jax.Array) -> list[jax.Array]:
            return jax.jvp(results, varied, tuple(tangents))[1]

        varied = tuple(x for x, live in zip(inputs, self.live) if live)
        return jax.jvp(directional, varied, tuple(tangents))[1]

    def form(self, inputs: Sequence[jax.Array], tangents: Sequence[jax.Array], adjoints: Sequence[jax.Array]):
        return sum(map(jnp.vdot, adjoints, self.second(inputs, tangents)))

    def is_curved(self, inputs: Sequence[jax.Array]) -> bool:
        """Whether f'' depends on the tangents at all, read off the program that computes it."""
        tangents = [x for x, live in zip(inputs, self.live) if live]
        program = jax.make_jaxpr(functools.partial(self.second, inputs))(tangents).jaxpr
        dependent = set(program.invars)
        for equation in program.eqns:
            if any(not isinstance(var, jax.extend.core.Literal) and var in dependent for var in equation.invars):
                dependent.update(equation.outvars)
        return any(not isinstance(var, jax.extend.core.Literal) and var in dependent for var in program.outvars)


def _is_smooth(array: jax.Array) -> bool:
    return jnp.issubdtype(array.dtype, jnp.inexact)


def _live_inputs(operations: Sequence[_Operation], inputs: list[list[jax.Array]]) -> list[list[jax.Array]]:
    return [
        [x for x, live in zip(values, operation.live) if live]
        for operation, values in zip(operations, inputs, strict=True)
    ]


def _evaluate(
    program: Any,
    constants: Sequence[Any],
    inputs: Sequence[Any],
    live: Sequence[bool],
    visit: Callable[[_Operation, list[jax.Array], list[jax.Array]], list[jax.Array]],
) -> tuple[list[jax.Array], list[bool]]:
    """Run a jaxpr; operations on live inputs (those that depend on the point) pass their results through `visit`."""
    values = dict(zip(program.constvars, constants, strict=True)) | dict(zip(program.invars, inputs, strict=True))
    alive = {var for var, is_live in zip(program.invars, live, strict=True) if is_live}

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jax.extend.core.Literal) else values[atom]

    def is_alive(atom: Any) -> bool:
        return not isinstance(atom, jax.extend.core.Literal) and atom in alive

    for equation in program.eqns:
        if equation.primitive.name in ("jit", "pjit", "closed_call"):
            inner = equation.params.get("jaxpr") or equation.params["call_jaxpr"]
            arguments, arguments_live = list(map(read, equation.invars)), list(map(is_alive, equation.invars))
            results, results_live = _evaluate(inner.jaxpr, inner.consts, arguments, arguments_live, visit)
        else:
            # A variable may be read twice, and its tangent must then count twice.
            variables = [atom for atom in equation.invars if not isinstance(atom, jax.extend.core.Literal)]
            variables = list(dict.fromkeys(variables))
            operation = _Operation(equation, tuple(variables), tuple(map(is_alive, variables)))
            arguments = [values[var] for var in variables]
            results = operation.apply(arguments)
            results_live = [any(operation.live) and _is_smooth(result) for result in results]
            if any(results_live):
                results = visit(operation, arguments, results)
        values.update(zip(equation.outvars, results, strict=True))
        alive.update(var for var, is_live in zip(equation.outvars, results_live, strict=True) if is_live)
    return [read(atom) for atom in program.outvars], [is_alive(atom) for atom in program.outvars]
