"""A function of arrays → floating-point operations of its products and convolutions, each loop as often as it runs.

Compilers' own counts take the body of a loop once, and some have none at all. Here a loop counts as often as it is
known to run: by its length, or by bounds that follow from numbers that are given. One that ends when a result is good
enough counts once, and of two branches the cheaper one counts: what comes out is less than what is done, never more.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from mdjax.models.examples_last import OPERATIONS

Number = np.ndarray | None
"""The value of a number of the program where it is known."""


class OperationCount:
    """Counts the floating-point operations of the products and convolutions of a function, at least.

    function: of arrays and random keys.
    arguments: their shapes, or arrays, of which shapes alone count.

    Costs a trace, and compiles nothing.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype), arguments)
        self._program = jax.make_jaxpr(function)(*shapes)

    def __call__(self, *arguments: Any) -> float:
        """Operations of one call. NumPy scalars among the arguments (`np.int32(7)`) count as what they are."""
        given = [np.asarray(leaf) if isinstance(leaf, np.generic) else None for leaf in jax.tree.leaves(arguments)]
        return _closed(self._program, given)[0]


def _closed(program: ClosedJaxpr, given: Sequence[Number]) -> tuple[float, list[Number]]:
    consts = [np.asarray(const) if _is_number(const) else None for const in program.consts]
    return _counted(program.jaxpr, [*consts, *given])


def _is_number(value: Any) -> bool:
    return np.shape(value) == () and not jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended)


def _counted(jaxpr: Jaxpr, given: Sequence[Number]) -> tuple[float, list[Number]]:
    """Operations of a program whose constants and inputs have these values, and the values of its outputs."""
    known: dict[Any, Number] = dict(zip((*jaxpr.constvars, *jaxpr.invars), given, strict=True))
    used = _used(jaxpr)

    def value(atom: Any) -> Number:
        if isinstance(atom, Literal):
            return np.asarray(atom.val) if np.shape(atom.val) == () else None
        return known.get(atom)

    total = 0.0
    for operation in jaxpr.eqns:
        if not any(variable in used for variable in operation.outvars):
            continue
        count, values = _operations(operation, [value(atom) for atom in operation.invars])
        total += count
        known.update(zip(operation.outvars, values))
    return total, [value(atom) for atom in jaxpr.outvars]


def _used(jaxpr: Jaxpr) -> set[Any]:
    """The variables that the program's outputs depend on; compilers leave out the others' operations."""
    used = {atom for atom in jaxpr.outvars if not isinstance(atom, Literal)}
    for operation in reversed(jaxpr.eqns):
        if any(variable in used for variable in operation.outvars):
            used.update(atom for atom in operation.invars if not isinstance(atom, Literal))
    return used


def _operations(operation: Any, values: Sequence[Number]) -> tuple[float, Sequence[Number]]:
    """What one operation counts, given the values of its operands, and the values of its results."""
    name, params = operation.primitive.name, operation.params
    unknown = [None] * len(operation.outvars)
    if name == "dot_general":
        ((contracted, _), _) = params["dimension_numbers"]
        terms = math.prod(operation.invars[0].aval.shape[axis] for axis in contracted)
        return 2.0 * terms * math.prod(operation.outvars[0].aval.shape), unknown
    if name == "conv_general_dilated":
        return _convolution(operation), unknown
    if name in OPERATIONS:
        return _examples_last(operation), unknown
    if name == "scan":
        num_consts, _ = scan_sizes(params)
        inputs = [*values[:num_consts], *[None] * (len(values) - num_consts)]
        return params["length"] * _closed(params["jaxpr"], inputs)[0], unknown
    if name == "while":
        return _while(params, values), unknown
    if name == "cond":
        return min(_closed(branch, values[1:])[0] for branch in params["branches"]), unknown
    inner = [param for param in params.values() if isinstance(param, Jaxpr | ClosedJaxpr)]
    if len(inner) == 1 and len(inner[0].in_avals) == len(values):
        return _closed(inner[0], values) if isinstance(inner[0], ClosedJaxpr) else _counted(inner[0], values)
    if inner:  # which of several runs, and on what, is not known
        return 0.0, unknown
    return 0.0, [_scalar(name, params, values)] if len(unknown) == 1 else unknown


def scan_sizes(params: dict[str, Any]) -> tuple[int, int]:
    """How many of a scan's operands are constants, which come first, and how many its carry, which comes next."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()  # since JAX 0.12
    return len(consts.vals), len(carry.vals)


def _while(params: dict[str, Any], values: Sequence[Number]) -> float:
    """A loop: as often as it runs where it counts from one known number to another, else once."""
    num_first = params["cond_nconsts"]
    num_body = params["body_nconsts"]
    start = values[num_first + num_body :]
    condition = params["cond_jaxpr"].jaxpr
    times = 1
    if len(condition.eqns) == 1 and condition.eqns[0].primitive.name == "lt" and num_first == 0:
        places = [condition.invars.index(atom) if atom in condition.invars else -1 for atom in condition.eqns[0].invars]
        first, last = (start[place] if place >= 0 else None for place in places)
        if first is not None and last is not None:
            times = max(0, int(last) - int(first))
    inputs = [*values[num_first : num_first + num_body], *[None] * len(start)]
    return times * _closed(params["body_jaxpr"], inputs)[0]


def _convolution(operation: Any) -> float:
    """Twice the products of a convolution that meet neither padding nor the zeros between dilated inputs."""
    params, (images, kernel) = operation.params, (atom.aval.shape for atom in operation.invars)
    numbers, outputs = params["dimension_numbers"], operation.outvars[0].aval.shape
    met = 1
    for axis, padding in enumerate(params["padding"]):
        size, taps = images[numbers.lhs_spec[axis + 2]], kernel[numbers.rhs_spec[axis + 2]]
        spread, stride = params["lhs_dilation"][axis], params["window_strides"][axis]
        starts = np.arange(outputs[numbers.out_spec[axis + 2]])[:, None] * stride - padding[0]
        places = starts + np.arange(taps) * params["rhs_dilation"][axis]
        met *= int(((places >= 0) & (places <= (size - 1) * spread) & (places % spread == 0)).sum())
    # The kernel's input features are those of one group; several groups of examples share out the images.
    images_each = images[numbers.lhs_spec[0]] // params["batch_group_count"]
    return 2.0 * met * images_each * kernel[numbers.rhs_spec[1]] * kernel[numbers.rhs_spec[0]]


def _examples_last(operation: Any) -> float:
    """The same of a convolution with examples last (`mdjax.models.examples_last`), or of one of its transposes."""
    params = operation.params
    shapes = [atom.aval.shape for atom in (*operation.invars, *operation.outvars)]
    # Images, outputs and kernel in some order: a kernel alone begins with two sizes of windows.
    kernel = shapes[2 if operation.primitive.name.endswith("_kernel") else 1]
    met = 1
    for side in params["sides"]:
        number = (side + 2 * params["padding"] - params["size"]) // params["stride"] + 1
        places = np.arange(number)[:, None] * params["stride"] - params["padding"] + np.arange(params["size"])
        met *= int(((places >= 0) & (places < side)).sum())
    return 2.0 * met * shapes[0][-1] * kernel[2] * kernel[3]


_SCALARS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "neg": np.negative,
    "sign": np.sign,
    "max": np.maximum,
    "min": np.minimum,
    "rem": np.fmod,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
    "select_n": lambda which, *cases: cases[int(which)],
}
"""What bounds of loops are made with, on whole numbers and truth values."""


def _scalar(name: str, params: dict[str, Any], values: Sequence[Number]) -> Number:
    """The result of an operation on known whole numbers, where it is one of the few that bounds are made with."""
    if not values or any(value is None or value.dtype.kind not in "iub" for value in values):
        return None
    if name == "convert_element_type":
        kind = np.dtype(params["new_dtype"])
        return values[0].astype(kind) if values[0] is not None and kind.kind in "iub" else None
    if name == "div":
        first, second = (int(value) for value in values if value is not None)
        return np.asarray(math.trunc(first / second)) if second else None
    if name in ("and", "or", "not") and any(value is not None and value.dtype != bool for value in values):
        return None
    return np.asarray(_SCALARS[name](*values)) if name in _SCALARS else None
