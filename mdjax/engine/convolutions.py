"""A traced program → the same one without the convolutions that XLA compiles wrongly for CPUs.

Inside a loop XLA (jaxlib 0.10.2) leaves a convolution in the order of axes in which it is written, and compiles any
order but examples, rows, columns, channels by itself. For one input and one output channel LLVM turns that code into
vector loads that begin before the array: with padding, `pad` rows and columns before its first number. What is read is
thrown away, but where no memory lies before the array, as for arrays large enough to be mapped on their own, the
process dies with a segmentation fault. With the usual order of axes the convolution is a call of a library.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

Operation = Any
"""One equation of a jaxpr."""


def with_safe_convolutions(program: ClosedJaxpr) -> ClosedJaxpr:
    """The program, each convolution of one channel to one channel in the order of axes that XLA hands to a library.

    The very same object where there is none. Cost: nothing at run time, since axes of size 1 move freely.
    """
    return _rewritten(program)


def is_unsafe(operation: Operation) -> bool:
    """Whether an operation is a convolution that can read outside of its arrays on a CPU."""
    if operation.primitive.name != "conv_general_dilated":
        return False
    numbers = operation.params["dimension_numbers"]
    images, kernel = (atom.aval.shape for atom in operation.invars)
    channels = images[numbers.lhs_spec[1]], kernel[numbers.rhs_spec[0]]
    # Where the spatial axes come right after that of the examples, the place of a single channel does not matter.
    order = numbers.lhs_spec[0], *numbers.lhs_spec[2:]
    return channels == (1, 1) and order != tuple(range(len(images) - 1))


def _rewritten(value: Any) -> Any:
    """A jaxpr, or whatever else an operation's parameters hold, with its unsafe convolutions replaced."""
    # From jax 0.11 on a program and its constants are one object, which is its own `jaxpr`.
    if isinstance(value, ClosedJaxpr) and value.jaxpr is not value:
        inner = _rewritten(value.jaxpr)
        return value if inner is value.jaxpr else ClosedJaxpr(inner, value.consts)
    if isinstance(value, Jaxpr):
        operations = [_replaced(operation) for operation in value.eqns]
        changed = any(new is not old for new, old in zip(operations, value.eqns, strict=True))
        return value.replace(eqns=operations) if changed else value
    if isinstance(value, tuple | list):
        items = [_rewritten(item) for item in value]
        changed = any(new is not old for new, old in zip(items, value, strict=True))
        return type(value)(items) if changed and type(value) in (tuple, list) else value
    return value


def _replaced(operation: Operation) -> Operation:
    if is_unsafe(operation):
        # A call of a function of the same operands and result stands in its place.
        shapes = [jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in operation.invars]
        (call,) = jax.make_jaxpr(jax.jit(_usual_order(operation.params)))(*shapes).eqns
        return operation.replace(primitive=call.primitive, params=call.params)
    params = {name: _rewritten(value) for name, value in operation.params.items()}
    changed = any(params[name] is not value for name, value in operation.params.items())
    return operation.replace(params=params) if changed else operation


def _usual_order(params: dict[str, Any]) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The convolution of these parameters by one with examples first, channels last."""
    numbers = params["dimension_numbers"]
    spatial = tuple(range(1, len(numbers.lhs_spec) - 1))
    images_order = numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1]
    kernel_order = *numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0]
    result_order = numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1]
    last = len(spatial) + 1
    usual = jax.lax.ConvDimensionNumbers(
        (0, last, *spatial), (last, last - 1, *[i - 1 for i in spatial]), (0, last, *spatial)
    )
    options = {name: value for name, value in params.items() if name in _OPTIONS}

    def convolution(images: jax.Array, kernel: jax.Array) -> jax.Array:
        found = jax.lax.conv_general_dilated(
            images.transpose(images_order), kernel.transpose(kernel_order), dimension_numbers=usual, **options
        )
        return found.transpose(_inverse(result_order))

    return convolution


_OPTIONS = (
    "window_strides",
    "padding",
    "lhs_dilation",
    "rhs_dilation",
    "feature_group_count",
    "batch_group_count",
    "precision",
    "preferred_element_type",
)


def _inverse(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(order.index(axis) for axis in range(len(order)))
