"""A loss summed over batches → its Hessian or Gauss–Newton matrix as products with flat vectors."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from mdjax.errors import InputError

PyTree = Any
Matvec = Callable[[jax.Array], jax.Array]

Operator = Literal["hessian", "gauss_newton"]
"""The Hessian ∇²L, or the generalised Gauss–Newton matrix Σ Jᵀ (∇²ℓ) J, with J the Jacobian of the model's outputs."""


class Products(NamedTuple):
    """A symmetric matrix A known by its products.

    `matvec` v[p] → A v [p]; `block` V[k, p] → the k products A vᵢ [k, p], which share one linearisation;
    `forms` V[k, p] → the k quadratic forms vᵢᵀ A vᵢ [k]; `size` is p.
    """

    matvec: Matvec
    block: Matvec
    forms: Matvec
    size: int


def curvature_products(
    outputs: Callable[[PyTree, PyTree], jax.Array],
    loss: Callable[[jax.Array, PyTree], jax.Array],
    params: PyTree,
    batches: PyTree,
    *,
    operator: Operator = "hessian",
    max_bytes: float = 2**30,
    num_models: int = 1,
) -> Products:
    """Products with the curvature of Σ_b loss(outputs(params, batch_b), batch_b), on params raveled to p numbers.

    `batches` is a pytree with the batches on axis 0. `outputs(params, batch)` are the model's outputs (any shape) and
    `loss(outputs, batch)` is the batch's *contribution* to the total loss, so the batches' matrices add up. For the
    Hessian the split does not matter; Gauss–Newton drops the curvature of `outputs` and is positive semi-definite
    where `loss` is convex.

    Where the intermediates of all batches fit `max_bytes` / `num_models` (how many models are batched around this
    call), they are computed once and a product is one linear pass over them; else every product, or block of
    products, recomputes them batch by batch. Cost of a product, counted in matrix products per layer, where a
    gradient takes 3: Hessian 6, Gauss–Newton 4; 3 and 2 more where intermediates are recomputed, once per block.
    Raises InputError for an unknown operator.
    Sources: Pearlmutter, "Fast exact multiplication by the Hessian", 1994; Schraudolph, "Fast curvature
    matrix-vector products for second-order gradient descent", 2002.
    """
    if operator not in _LINEARIZED:
        raise InputError(f"Unknown operator {operator!r}. Choose one of {', '.join(_LINEARIZED)}.")
    flat, unravel = ravel_pytree(params)

    def linearized(batch: PyTree) -> Matvec:
        return _LINEARIZED[operator](
            lambda flat: outputs(unravel(flat), batch), lambda outputs: loss(outputs, batch), flat
        )

    matvec, block = _accumulated(linearized, batches, flat, max_bytes / num_models)
    return Products(matvec, block, lambda vectors: jnp.sum(vectors * block(vectors), axis=1), flat.size)


def hessian_matvec(
    loss: Callable[[PyTree, PyTree], jax.Array],
    params: PyTree,
    batches: PyTree,
    *,
    max_bytes: float = 2**30,
) -> tuple[Matvec, int]:
    """The product v[p] → Hv[p] with H = Σ_b ∇² loss(params, batch_b), and the dimension p; see `curvature_products`."""
    products = curvature_products(loss, lambda value, batch: value, params, batches, max_bytes=max_bytes)
    return products.matvec, products.size


class ParameterGroups(NamedTuple):
    """The top-level modules of a model: `names`, and for each of the p raveled parameters its place in them [p]."""

    names: tuple[str, ...]
    places: jax.Array


def parameter_groups(params: PyTree) -> ParameterGroups:
    """Groups of the raveled parameters by the outermost key of the pytree, in the order in which they are raveled."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = [jax.tree_util.keystr(path[:1], simple=True) for path, _ in leaves]
    unique = tuple(dict.fromkeys(names))
    sizes = [math.prod(jnp.shape(leaf)) for _, leaf in leaves]
    places = jnp.asarray([unique.index(name) for name in names], jnp.int32)
    return ParameterGroups(unique, jnp.repeat(places, jnp.asarray(sizes), total_repeat_length=sum(sizes)))


def restricted(products: Products, mask: jax.Array) -> Products:
    """A's diagonal block of the parameters in mask[p], as a matrix of unchanged size that is zero elsewhere.

    `restricted(products, groups.places == i)` is the block of group i; i may be traced, so that one program serves
    all groups. Cost: that of `products`.
    """
    mask = mask.astype(jnp.float32)
    return Products(
        lambda vector: mask * products.matvec(mask * vector),
        lambda vectors: mask * products.block(mask * vectors),
        lambda vectors: products.forms(mask * vectors),
        products.size,
    )


def _linearized_hessian(outputs: Callable, loss: Callable, flat: jax.Array) -> Matvec:
    return jax.linearize(jax.grad(lambda flat: loss(outputs(flat))), flat)[1]


def _linearized_gauss_newton(outputs: Callable, loss: Callable, flat: jax.Array) -> Matvec:
    values, forward = jax.linearize(outputs, flat)
    curvature = jax.linearize(jax.grad(loss), values)[1]

    def product(forward: Matvec, curvature: Matvec, vector: jax.Array) -> jax.Array:
        backward = jax.linear_transpose(forward, vector)
        return backward(curvature(forward(vector)))[0]

    return jax.tree_util.Partial(product, forward, curvature)


_LINEARIZED: dict[str, Callable[[Callable, Callable, jax.Array], Matvec]] = {
    "hessian": _linearized_hessian,
    "gauss_newton": _linearized_gauss_newton,
}


def _accumulated(
    linearized: Callable[[PyTree], Matvec], batches: PyTree, flat: jax.Array, max_bytes: float
) -> tuple[Matvec, Matvec]:
    """The sum over batches of linear maps, for one vector and for a block of them."""

    def all_linearized(batches: PyTree) -> list[Matvec]:
        # One linear map for each batch rather than a scan: its intermediates are then plain constants of the
        # loops over probes, which XLA need not carry through them.
        count = len(jax.tree.leaves(batches)[0])
        return [linearized(jax.tree.map(lambda leaf: leaf[i], batches)) for i in range(count)]

    residuals = jax.tree.leaves(jax.eval_shape(all_linearized, batches))
    if sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in residuals) <= max_bytes:
        parts = all_linearized(batches)

        def matvec(vector: jax.Array) -> jax.Array:
            return functools.reduce(jnp.add, [part(vector) for part in parts])

        return matvec, jax.vmap(matvec)

    def total(apply: Callable[[Matvec, jax.Array], jax.Array], vectors: jax.Array) -> jax.Array:
        def add_batch(total: jax.Array, batch: PyTree) -> tuple[jax.Array, None]:
            return total + apply(linearized(batch), vectors), None

        return jax.lax.scan(add_batch, jnp.zeros_like(vectors), batches)[0]

    return (
        functools.partial(total, lambda part, vector: part(vector)),
        functools.partial(total, lambda part, vectors: jax.vmap(part)(vectors)),
    )
