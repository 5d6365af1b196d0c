"""A function's jaxpr taken apart: its elementary operations, and which of them are curved.

An operation is curved in some of its inputs where its second derivative in them is not identically zero: a product of
two values is curved in both together and in neither alone, a ReLU or a maximum in none, a tanh always.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp


class Operation(NamedTuple):
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
            return list(filter(is_smooth, self.apply(values)))

        def directional(*varied: jax.Array) -> list[jax.Array]:
            return jax.jvp(results, varied, tuple(tangents))[1]

        varied = tuple(x for x, live in zip(inputs, self.live) if live)
        return jax.jvp(directional, varied, tuple(tangents))[1]

    def form(self, inputs: Sequence[jax.Array], tangents: Sequence[jax.Array], adjoints: Sequence[jax.Array]):
        return sum(map(jnp.vdot, adjoints, self.second(inputs, tangents)))

    def is_curved(self, inputs: Sequence[jax.Array | jax.ShapeDtypeStruct]) -> bool:
        """Whether f'' depends on the tangents at all, read off its program; shapes of inputs suffice."""
        tangents = [x for x, live in zip(inputs, self.live) if live]
        program = jax.make_jaxpr(self.second)(list(inputs), tangents).jaxpr
        dependent = set(program.invars[len(inputs) :])
        for equation in program.eqns:
            if any(not isinstance(var, jax.extend.core.Literal) and var in dependent for var in equation.invars):
                dependent.update(equation.outvars)
        return any(not isinstance(var, jax.extend.core.Literal) and var in dependent for var in program.outvars)


def is_smooth(array: jax.Array) -> bool:
    return jnp.issubdtype(array.dtype, jnp.inexact)


def called(equation: Any) -> Any:
    """The jaxpr that an equation merely calls, with its constants; None where it does something itself."""
    if equation.primitive.name not in ("jit", "pjit", "closed_call"):
        return None
    return equation.params.get("jaxpr") or equation.params["call_jaxpr"]


def variables_of(equation: Any) -> tuple[Any, ...]:
    """The variables that an equation reads, each once: a tangent of one that is read twice must count twice."""
    return tuple(dict.fromkeys(atom for atom in equation.invars if not isinstance(atom, jax.extend.core.Literal)))


def evaluate(
    program: Any,
    constants: Sequence[Any],
    inputs: Sequence[Any],
    live: Sequence[bool],
    visit: Callable[[Operation, list[jax.Array], list[jax.Array]], list[jax.Array]],
) -> tuple[list[jax.Array], list[bool]]:
    """Run a jaxpr; operations on live inputs (those that depend on the point) pass their results through `visit`."""
    values = dict(zip(program.constvars, constants, strict=True)) | dict(zip(program.invars, inputs, strict=True))
    alive = {var for var, is_live in zip(program.invars, live, strict=True) if is_live}

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jax.extend.core.Literal) else values[atom]

    def is_alive(atom: Any) -> bool:
        return not isinstance(atom, jax.extend.core.Literal) and atom in alive

    for equation in program.eqns:
        inner = called(equation)
        if inner is not None:
            arguments, arguments_live = list(map(read, equation.invars)), list(map(is_alive, equation.invars))
            results, results_live = evaluate(inner.jaxpr, inner.consts, arguments, arguments_live, visit)
        else:
            variables = variables_of(equation)
            operation = Operation(equation, variables, tuple(map(is_alive, variables)))
            arguments = [values[var] for var in variables]
            results = operation.apply(arguments)
            results_live = [any(operation.live) and is_smooth(result) for result in results]
            if any(results_live):
                results = visit(operation, arguments, results)
        values.update(zip(equation.outvars, results, strict=True))
        alive.update(var for var, is_live in zip(equation.outvars, results_live, strict=True) if is_live)
    return [read(atom) for atom in program.outvars], [is_alive(atom) for atom in program.outvars]
