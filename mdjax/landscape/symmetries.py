"""An `apply` function → which axes of its weights may be reordered together without changing its outputs.

The function is traced, and every axis of every intermediate array is followed from the weights to the outputs. An
axis is written as the digits of a mixed-radix index; each digit belongs to a class of digits that must be reordered
by one and the same permutation for the operation to come out as before, only reordered. An elementwise sum puts two
digits into one class (residual connections tie layers), a contraction too (a layer's outputs and the next layer's
inputs); a flattened image is the digits (row, column, channel). Whatever depends on an index itself fixes the class:
inputs, outputs, windows, constants, and every operation not listed here. A class that nothing fixed is a group of
hidden units. A missing rule can thus cost permutations, never correctness.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import Jaxpr, Literal

from mdjax.landscape.digits import Digits, Value
from mdjax.models import Model

PyTree = Any


@dataclasses.dataclass(frozen=True)
class AxisGroups:
    """How one array is reordered: reshape to `shape`, reorder axis i by the permutation of group `groups[i]` where
    that is not None, reshape back."""

    shape: tuple[int, ...]
    groups: tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class Specification:
    """The permutation symmetries of a model: `sizes` of its groups of hidden units, in the order in which the network
    uses them, and the `axes` of each leaf of (params, state) with the groups that they go by."""

    sizes: tuple[int, ...]
    axes: tuple[AxisGroups, ...]


def specification(model: Model, params: PyTree, state: PyTree, inputs: Any) -> Specification:
    """The permutation symmetries of `model.apply`.

        model: its `apply` is traced.
        params, state: one model's arrays, or their shapes.
        inputs: an array of examples [b, ...], or its shape.

    Costs one trace and computes no numbers. Follows matrix products, ungrouped convolutions, pooling, elementwise
    functions, sums, look-ups, reshapes and the like; weights that reach an output through anything else (loops,
    sorting) keep their order. The result does not depend on how a convolution is written. So heads of attention go
    whole, with those of the keys that they share, and their inner units alike in all heads.
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, state, inputs))
    # A loop over layers would keep all of their units in order.
    closed = jax.make_jaxpr(getattr(model, "unrolled", model).apply)(*shapes)
    digits = Digits()
    weights = [digits.value(leaf.shape) for leaf in jax.tree.leaves(shapes[:2])]
    examples = [digits.value(leaf.shape, fixed=True) for leaf in jax.tree.leaves(shapes[2])]
    for output in _outputs(closed.jaxpr, [*weights, *examples], digits):
        digits.fix(*output)

    groups: dict[int, int] = {}
    resolved = [[digits.resolved(axis) for axis in value] for value in weights]
    for index in _order_of_use(closed.jaxpr, len(weights)):
        for axis in resolved[index]:
            for digit in axis:
                if not digits.fixed[digit]:
                    groups.setdefault(digit, len(groups))
    axes = []
    for value in resolved:
        flat = [digit for axis in value for digit in axis]
        axes.append(AxisGroups(tuple(digits.size[digit] for digit in flat), tuple(groups.get(digit) for digit in flat)))
    return Specification(tuple(digits.size[digit] for digit in groups), tuple(axes))


def _order_of_use(jaxpr: Jaxpr, num_weights: int) -> list[int]:
    """The indices of the weights in the order in which the network reads them, the unused ones last."""
    index = {variable: number for number, variable in enumerate(jaxpr.invars[:num_weights])}
    read = [variable for equation in jaxpr.eqns for variable in equation.invars if not isinstance(variable, Literal)]
    return list(dict.fromkeys([*(index[variable] for variable in read if variable in index), *range(num_weights)]))


Rule = Callable[[Digits, Any, list[Value]], list[Value]]
"""(digits, equation, values read) → values written. Unifies the digits that the operation walks together and fixes
those whose order it depends on."""


def _outputs(jaxpr: Jaxpr, inputs: Sequence[Value], digits: Digits) -> list[Value]:
    values: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Value:
        # Neither written by an operation nor an input: a constant.
        return values[atom] if not isinstance(atom, Literal) and atom in values else _constant(digits, atom)

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        results = _RULES.get(equation.primitive.name, _unknown)(digits, equation, operands)
        written: list[Any] = [output.aval for output in equation.outvars]
        if not all(digits.describe(value, aval.shape) for value, aval in zip(results, written, strict=True)):
            # The operation means more than its rule knows.
            results = _unknown(digits, equation, operands)
        values |= zip(equation.outvars, results, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _constant(digits: Digits, atom: Any) -> Value:
    return digits.value(atom.aval.shape, fixed=True)


def _unknown(digits: Digits, equation: Any, read: list[Value]) -> list[Value]:
    for value in read:
        digits.fix(*value)
    return [_constant(digits, output) for output in equation.outvars]


def _elementwise(digits: Digits, equation: Any, read: list[Value]) -> list[Value]:
    """Operands are of one shape, but for scalars and axes of size 1, which go with every entry whatever its order."""
    whole = [value for value in read if value]
    if len(set(map(len, whole))) > 1:
        return _unknown(digits, equation, read)
    axes = []
    for together in zip(*whole, strict=True):
        first, *others = [axis for axis in together if axis] or [()]
        for axis in others:
            digits.unify(first, axis)
        axes.append(first)
    return [tuple(axes) for _ in equation.outvars]


def _separately(digits: Digits, equation: Any, read: list[Value]) -> list[Value]:
    return read


def _call(digits: Digits, equation: Any, read: list[Value]) -> list[Value]:
    known = [equation.params[name] for name in ("jaxpr", "call_jaxpr", "fun_jaxpr") if name in equation.params]
    inner = [getattr(jaxpr, "jaxpr", jaxpr) for jaxpr in known]
    if not inner or len(inner[0].invars) != len(read):
        return _unknown(digits, equation, read)
    return _outputs(inner[0], read, digits)


def _reduction(digits: Digits, equation: Any, read: list[Value]) -> list[Value]:
    return [tuple(axis for index, axis in enumerate(read[0]) if index not in equation.params["axes"])]


def _lookup(digits: Digits, equation: Any, read: list[Value]) -> list[Value]:
    """Rows of a table, or other slices: axes that are taken whole pass through, the others depend on their order."""
    table, indices = read
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    if numbers.operand_batching_dims:
        return _unknown(digits, equation, read)
    whole = [size == full for size, full in zip(sizes, equation.invars[0].aval.shape)]
    gone = {*numbers.collapsed_slice_dims}
    digits.fix(*indices, *(axis for index, axis in enumerate(table) if index in gone or not whole[index]))
    shape = equation.outvars[0].aval.shape
    axes = list(digits.value(shape, fixed=True))
    kept = [index for index in range(len(table)) if index not in gone]
    for place, index in zip(numbers.offset_dims, kept, strict=True):
        axes[place] = table[index] if whole[index] else axes[place]
    return [tuple(axes)]


def _position(digits: Digits, equation: Any, read: list[Value]) -> list[Value]:
    digits.fix(*(read[0][index] for index in equation.params["axes"]))
    return _reduction(digits, equation, read)


def _cumulation(digits: Digits, equation: Any, read: list[Value]) -> list[Value]:
    digits.fix(read[0][equation.params["axis"]])
    return [read[0]]


def _reversal(digits: Digits, equation: Any, read: list[Value]) -> list[Value]:
    digits.fix(*(read[0][index] for index in equation.params["dimensions"]))
    return [read[0]]


def _broadcast(digits: Digits, equation: Any, read: list[Value]) -> list[Value]:
    shape = equation.params["shape"]
    # Copies may come in any order: a new axis is free.
    axes = list(digits.value(shape))
    for axis, size, index in zip(
        read[0], equation.invars[0].aval.shape, equation.params["broadcast_dimensions"], strict=True
    ):
        if size == shape[index]:
            axes[index] = axis
    return [tuple(axes)]


def _reshape(digits: Digits, equation: Any, read: list[Value]) -> list[Value]:
    if equation.params.get("dimensions") is not None:
        return _unknown(digits, equation, read)
    return [digits.reshaped(read[0], equation.outvars[0].aval.shape)]


def _squeeze(digits: Digits, equation: Any, read: list[Value]) -> list[Value]:
    return [tuple(axis for index, axis in enumerate(read[0]) if index not in equation.params["dimensions"])]


def _transpose(digits: Digits, equation: Any, read: list[Value]) -> list[Value]:
    return [tuple(read[0][index] for index in equation.params["permutation"])]


def _concatenation(digits: Digits, equation: Any, read: list[Value]) -> list[Value]:
    joined = equation.params["dimension"]
    for value in read[1:]:
        for index, axis in enumerate(value):
            if index != joined:
                digits.unify(read[0][index], axis)
    axes = list(read[0])
    sizes = {atom.aval.shape[joined] for atom in equation.invars}
    if len(sizes) == 1:
        # Pieces alike in size, as the patches of a convolution: (piece, index in the piece).
        for value in read[1:]:
            digits.unify(read[0][joined], value[joined])
        axes[joined] = (*digits.new(len(read), fixed=True), *read[0][joined])
    else:
        digits.fix(*(value[joined] for value in read))
        axes[joined] = digits.new(equation.outvars[0].aval.shape[joined], fixed=True)
    return [tuple(axes)]


def _stack(digits: Digits, equation: Any, read: list[Value]) -> list[Value]:
    for value in read[1:]:
        for first, other in zip(read[0], value, strict=True):
            digits.unify(first, other)
    axes = list(read[0])
    axes.insert(equation.params["axis"], digits.new(len(read), fixed=True))
    return [tuple(axes)]


def _window(digits: Digits, equation: Any, read: list[Value]) -> list[Value]:
    """Slices, padding, splits and pooling: axes that are not left whole depend on their order."""
    shape, params = equation.invars[0].aval.shape, equation.params
    if equation.primitive.name == "pad":
        whole = [padding == (0, 0, 0) for padding in params["padding_config"]]
    elif equation.primitive.name == "slice":
        steps = params["strides"] or [1] * len(shape)
        whole = [
            (start, limit, step) == (0, size, 1)
            for start, limit, step, size in zip(params["start_indices"], params["limit_indices"], steps, shape)
        ]
    elif equation.primitive.name == "split":
        whole = [index != params["axis"] for index in range(len(shape))]
    else:
        whole = [
            size == step == dilation == 1 and padding == (0, 0)
            for size, step, dilation, padding in zip(
                params["window_dimensions"], params["window_strides"], params["base_dilation"], params["padding"]
            )
        ]
    digits.fix(*(axis for axis, kept in zip(read[0], whole) if not kept))
    return [
        tuple(
            axis if kept else digits.new(size, fixed=True)
            for axis, kept, size in zip(read[0], whole, output.aval.shape, strict=True)
        )
        for output in equation.outvars
    ]


def _product(digits: Digits, equation: Any, read: list[Value]) -> list[Value]:
    (left, right), (contracted, batched) = read, equation.params["dimension_numbers"]
    for a, b in (*zip(*contracted), *zip(*batched)):
        digits.unify(left[a], right[b])
    axes = [left[index] for index in batched[0]]
    for value, used in zip((left, right), zip(contracted, batched)):
        axes += [axis for index, axis in enumerate(value) if index not in (*used[0], *used[1])]
    return [tuple(axes)]


def _convolution(digits: Digits, equation: Any, read: list[Value]) -> list[Value]:
    params = equation.params
    if params["feature_group_count"] > 1 or params["batch_group_count"] > 1:
        return _unknown(digits, equation, read)
    (images, kernel), numbers = read, params["dimension_numbers"]
    (batch, channels, *rows), (features, kernel_channels, *kernel_rows) = numbers.lhs_spec, numbers.rhs_spec
    digits.unify(images[channels], kernel[kernel_channels])
    digits.fix(*(images[index] for index in rows), *(kernel[index] for index in kernel_rows))
    axes = list(digits.value(equation.outvars[0].aval.shape, fixed=True))
    axes[numbers.out_spec[0]], axes[numbers.out_spec[1]] = images[batch], kernel[features]
    return [tuple(axes)]


_ELEMENTWISE = """
abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy copy_p cos cosh
digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log log1p logistic lt max
min mul ne neg nextafter not or pow reduce_precision rem round rsqrt select_n sign sin sinh sqrt square stop_gradient
sub tan tanh xor
"""
_RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(("optimization_barrier", "sharding_constraint"), _separately),
    **dict.fromkeys(
        (
            "jit",
            "pjit",
            "closed_call",
            "core_call",
            "custom_jvp_call",
            "custom_vjp_call",
            "remat",
            "remat2",
            "checkpoint",
        ),
        _call,
    ),
    **dict.fromkeys(
        ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "reduce_xor"), _reduction
    ),
    **dict.fromkeys(("argmax", "argmin"), _position),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), _cumulation),
    **dict.fromkeys(("pad", "slice", "split", "reduce_window_sum", "reduce_window_max", "reduce_window_min"), _window),
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenation,
    "conv_general_dilated": _convolution,
    "dot_general": _product,
    "gather": _lookup,
    "reshape": _reshape,
    "rev": _reversal,
    "squeeze": _squeeze,
    "stack": _stack,
    "transpose": _transpose,
}
"""Primitive → how it passes its operands' digits on."""
