"""torchax's functions, with PyTorch's derivatives where a function has a kink or a pole.

At the exact zero of a norm or a root PyTorch's derivative is finite, as its formulas mask it or as a ReLU before it
does; JAX's is NaN. Values are those of torchax, bit for bit.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import torch
from torchax.ops import jaten
from torchax.ops.ops_registry import Operator
from torchax.tensor import Environment


@functools.cache
def environment() -> Environment:
    """The environment in which modules are computed; torchax's own is left as it is."""
    found = Environment()
    for operation, function in _RULES.items():
        found._ops[operation] = Operator(
            operation, function, is_jax_function=True, is_user_defined=True, needs_env=False, is_view_op=False
        )
    return found


def _real(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)


def _sqrt(x: Any) -> Any:
    """√x, whose derivatives at 0 are 0: what a mask before or after it leaves of PyTorch's."""
    if not _real(x):
        return jaten._aten_sqrt(x)
    zero = x == 0
    return jnp.where(zero, x, jnp.sqrt(jnp.where(zero, 1, x)))


def _abs(x: Any) -> Any:
    """|x|, whose derivative at 0 is 0."""
    return x * jax.lax.sign(x) if _real(x) else jaten._aten_abs(x)


def _pow(x: Any, exponent: Any) -> Any:
    """x to a power; where a derivative at 0 is infinite (powers below 2 but 0 and 1), it is 0."""
    result = jaten._aten_pow(x, exponent)
    whole = isinstance(exponent, int) or (isinstance(exponent, float) and exponent == int(exponent))
    if whole or not _real(x) or not _real(result):
        return result
    singular = (x == 0) & (exponent > 0) & (exponent < 2) & (exponent != 1)
    return jnp.where(singular, 0, jaten._aten_pow(jnp.where(singular, 1, x), exponent))


def _norm(x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    """The norms of vectors along axes; where one is 0, so are its derivatives."""
    order = 2.0 if ord == "fro" else float(ord) if isinstance(ord, int | float) else math.nan
    if not _real(x) or not x.ndim or math.isnan(order) or order == 0 or (order < 0 and math.isfinite(order)):
        return jaten._aten_linalg_vector_norm(x, ord, dim, keepdim, dtype)  # pyright: ignore[reportArgumentType]
    axes = tuple(dim) if isinstance(dim, list | tuple) and len(dim) else None if isinstance(dim, list | tuple) else dim
    if math.isinf(order):
        return (jnp.max if order > 0 else jnp.min)(_abs(x), axis=axes, keepdims=keepdim)
    total = functools.partial(jnp.sum, axis=axes, keepdims=keepdim)
    if order == 1:
        return total(_abs(x))
    return _sqrt(total(x * x)) if order == 2 else _pow(total(_pow(_abs(x), order)), 1 / order)


def _dist(first: Any, second: Any, p: Any = 2) -> Any:
    return _norm(jnp.subtract(first, second), p)


def _cdist_forward(x1: Any, x2: Any, p: float, compute_mode: Any = None) -> Any:
    return _norm(jnp.expand_dims(x1, -2) - jnp.expand_dims(x2, -3), p, -1)


def _cdist(x1: Any, x2: Any, p: float = 2.0, compute_mode: str = "use_mm_for_euclid_dist_if_necessary") -> Any:
    """Distances of all pairs; those of equal vectors have no slope."""
    large = max(x1.shape[-2], x2.shape[-2]) > 25
    by_products = compute_mode == "use_mm_for_euclid_dist" or (large and compute_mode.endswith("necessary"))
    if p != 2 or not by_products:
        return _cdist_forward(x1, x2, p)
    squares = [jnp.sum(x**2, axis=-1, keepdims=True) for x in (x1, x2)]
    squared = squares[0] + jnp.swapaxes(squares[1], -2, -1) - 2 * jnp.matmul(x1, jnp.swapaxes(x2, -2, -1))
    # As PyTorch: derivatives of what rounding made negative, or of equal vectors, are 0.
    return _sqrt(jnp.where(squared > 0, squared, 0))


def _pdist_forward(x: Any, p: float = 2.0) -> Any:
    rows, columns = jnp.triu_indices(x.shape[0], k=1)
    return _norm(x[rows] - x[columns], p, -1)


def _hypot(first: Any, second: Any) -> Any:
    """√(x² + y²), whose derivatives at 0 are 0."""
    zero = (first == 0) & (second == 0)
    return jnp.where(zero, 0, jaten._aten_hypot(jnp.where(zero, 1, first), second))


def _clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    """x within limits, with slope 1 at them as well."""
    if min is not None:
        x = jnp.where(x < min, min, x)
    return x if max is None else jnp.where(x > max, max, x)


def _clamp_max(x: Any, max: Any) -> Any:
    return _clamp(x, None, max)


def _hardtanh(x: Any, min_val: Any = -1, max_val: Any = 1, inplace: bool = False) -> Any:
    """x within limits, with slope 0 at them."""
    return jnp.where(x <= min_val, min_val, jnp.where(x >= max_val, max_val, x)).astype(x.dtype)


def _leaky_relu(x: Any, negative_slope: float = 0.01, inplace: bool = False) -> Any:
    """x or a fraction of it, with the slope of the fraction at 0."""
    return jnp.where(x > 0, x, negative_slope * x)


def _detach(x: Any) -> Any:
    return jax.lax.stop_gradient(x)


_ATEN = torch.ops.aten
_RULES = {
    _ATEN.detach: _detach,
    _ATEN.sqrt: _sqrt,
    _ATEN.abs: _abs,
    _ATEN.pow: _pow,
    _ATEN.hypot: _hypot,
    _ATEN.linalg_vector_norm: _norm,
    _ATEN.dist: _dist,
    _ATEN.cdist: _cdist,
    torch.cdist: _cdist,
    _ATEN._cdist_forward: _cdist_forward,
    _ATEN._pdist_forward: _pdist_forward,
    _ATEN.clamp.default: _clamp,
    _ATEN.clamp.Tensor: _clamp,
    _ATEN.clamp_min: _clamp,
    _ATEN.clamp_max: _clamp_max,
    _ATEN.hardtanh: _hardtanh,
    _ATEN.leaky_relu: _leaky_relu,
}
