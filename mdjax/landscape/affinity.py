"""A network → whether each array of its parameters, by itself, enters its outputs affinely."""

from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core

from mdjax.landscape.operations import Operation, called, is_smooth, variables_of

PyTree = Any


def is_affine_in_each(function: Callable[..., jax.Array], params: PyTree, *arguments: Any) -> bool:
    """Whether `function` is piecewise affine in every array of `params` while the others are held.

        function: (params, *arguments) → the outputs.
        params: arrays or their shapes.
        arguments: arrays or their shapes; what is asked does not depend on their values.

    So are networks of linear layers, convolutions, stored normalisation, ReLUs and pooling whose arrays are used once:
    layers multiply each other's weights, none its own. Then no output has a second derivative between two entries of
    one array, and the diagonal of a loss's Hessian is that of its Gauss–Newton matrix. Read off the function's jaxpr,
    operation by operation: an array counts as curved where an operation is curved in a value that depends on it, or
    in two together that both do. False may be wrong (tanh(w) − tanh(w)), True never is; a loop, a branch or a
    function with a derivative of its own is one operation. Cost: tracing, and nothing when the program runs.
    """
    program = jax.make_jaxpr(function)(params, *arguments)
    num_arrays = len(jax.tree.leaves(params))
    inputs = [frozenset([index]) for index in range(num_arrays)]
    inputs += [frozenset()] * (len(program.jaxpr.invars) - num_arrays)
    return _Walk().outputs(program.jaxpr, inputs) is not None


class _Walk:
    """Through a jaxpr with, for each variable, the numbers of the arrays that it depends on."""

    def __init__(self) -> None:
        self._known: dict[Any, bool] = {}

    def outputs(self, program: Any, inputs: list[frozenset[int]]) -> list[frozenset[int]] | None:
        """The arrays that each output depends on, or None as soon as one of them enters in a curve."""
        sources: dict[Any, frozenset[int]] = dict(zip(program.invars, inputs, strict=True))

        def of(atom: Any) -> frozenset[int]:
            return frozenset() if isinstance(atom, jax.extend.core.Literal) else sources.get(atom, frozenset())

        for equation in program.eqns:
            inner = called(equation)
            if inner is not None:
                results = self.outputs(inner.jaxpr, [of(atom) for atom in equation.invars])
                if results is None:
                    return None
            else:
                variables = variables_of(equation)
                if self._bends(equation, variables, [of(variable) for variable in variables]):
                    return None
                union = frozenset().union(*(of(variable) for variable in variables))
                results = [union if is_smooth(var.aval) else frozenset() for var in equation.outvars]
            sources.update(zip(equation.outvars, results, strict=True))
        return [of(atom) for atom in program.outvars]

    def _bends(self, equation: Any, variables: tuple[Any, ...], sources: list[frozenset[int]]) -> bool:
        live = [bool(source) for source in sources]
        if not any(live) or not any(is_smooth(var.aval) for var in equation.outvars):
            return False
        # Rules for the backward pass alone: whether they bend cannot be asked.
        if equation.primitive.name.startswith("custom_vjp"):
            return True
        if not self._is_curved(equation, variables, tuple(live)):
            return False
        numbers = [index for index, is_live in enumerate(live) if is_live]
        overlap = any(sources[i] & sources[j] for i in numbers for j in numbers if i < j)
        alone = (tuple(index == number for index in range(len(live))) for number in numbers)
        return overlap or any(self._is_curved(equation, variables, only) for only in alone)

    def _is_curved(self, equation: Any, variables: tuple[Any, ...], live: tuple[bool, ...]) -> bool:
        key = id(equation), live
        if key not in self._known:
            shapes = [jax.ShapeDtypeStruct(variable.aval.shape, variable.aval.dtype) for variable in variables]
            self._known[key] = Operation(equation, variables, live).is_curved(shapes)
        return self._known[key]
