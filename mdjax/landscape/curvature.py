"""A loss summed over batches → its Hessian or Gauss–Newton matrix, as a linear operator on flat vectors."""

import fnmatch
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from mdjax.errors import InputError
from mdjax.landscape.accumulation import summed_over_batches
from mdjax.landscape.limits import ProductLimits
from mdjax.landscape.split_vectors import raveled
from mdjax.linalg.operators import LinearOperator, Matvec

PyTree = Any

Outputs = Callable[[PyTree, PyTree], jax.Array]
"""(params, batch) → the model's outputs, of any shape."""

Contribution = Callable[[jax.Array, PyTree], jax.Array]
"""(outputs, batch) → the batch's contribution to the total loss: the sum over batches is the loss."""

CurvatureMatrix = Literal["hessian", "gauss_newton"]
"""The Hessian ∇²L, or the generalised Gauss–Newton matrix Σ Jᵀ (∇²ℓ) J, with J the Jacobian of the model's outputs."""


def curvature_operator(
    outputs: Outputs,
    loss: Contribution,
    params: PyTree,
    batches: PyTree,
    *,
    matrix: CurvatureMatrix = "hessian",
    limits: ProductLimits | None = None,
    mergeable: bool = False,
) -> LinearOperator:
    """The curvature of Σ_b loss(outputs(params, batch_b), batch_b) as an operator on the raveled params [p]
    (`mdjax.landscape.split_vectors.raveled`).

        outputs: (params, batch) → the model's outputs, of any shape.
        loss: (outputs, batch) → the batch's *contribution* to the total loss, so the batches' matrices add up.
        params: where the curvature is taken.
        batches: arrays with the batches on axis 0.
        matrix: which one. For the Hessian the split into outputs and loss does not matter; Gauss–Newton leaves out
            the curvature of `outputs` and is positive semi-definite where `loss` is convex.
        limits: of memory and of vectors multiplied at once, see `mdjax.landscape.accumulation`; by default the
            plan's, and 1 GiB and one at a time outside of it.
        mergeable: whether each contribution is a sum over the batch's examples, so that batches may be taken as one.

    Cost of a product, counted in matrix products per layer, where a gradient takes 3: Hessian 6, Gauss–Newton 4; 3
    and 2 more, once per `matmat`, where residuals are not kept. Raises InputError for an unknown matrix.
    Sources: Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 1994; Schraudolph, "Fast
    curvature matrix-vector products for second-order gradient descent", Neural Computation 2002.
    """
    check_matrix(matrix)
    flat, unravel, _, vectors = raveled(params)
    product = _hessian_product if matrix == "hessian" else _gauss_newton_product
    linearized = functools.partial(product, outputs, loss, unravel, flat)
    return LinearOperator(*summed_over_batches(linearized, batches, limits, mergeable=mergeable), vectors.size, vectors)


def check_matrix(matrix: str) -> None:
    """Raise InputError unless `matrix` is a `CurvatureMatrix`."""
    if matrix not in get_args(CurvatureMatrix):
        raise InputError(f"Unknown curvature matrix {matrix!r}. Choose one of {', '.join(get_args(CurvatureMatrix))}.")


class ParameterGroups(NamedTuple):
    """The top-level modules of a model: `names`, and for each of the p raveled parameters the index [p] of its name."""

    names: tuple[str, ...]
    indices: jax.Array


def layer_names(params: PyTree, layers: str = "*") -> list[str]:
    """The layer that each array of the parameters belongs to, in the order in which they are raveled.

    params: a pytree, or its shapes.
    layers: patterns of paths with slashes, joined by commas, such as "blocks/*" or "*/attention,*/mlp": an array
        belongs to the part of its path that the first fitting one matches, and to its outermost key where none does.
    """
    return [_matched(parts, layers) or (parts[0] if parts else "") for parts in _paths(params)]


def _paths(params: PyTree) -> list[list[str]]:
    return [
        [jax.tree_util.keystr((entry,), simple=True) for entry in path]
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]


def _matched(parts: list[str], layers: str) -> str:
    """The part of a path that the first fitting pattern matches; empty where none does."""
    for pattern in layers.split(","):
        wanted = pattern.strip().split("/")
        if len(parts) >= len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted)):
            return "/".join(parts[: len(wanted)])
    return ""


def parameter_groups(params: PyTree, layers: str = "*") -> ParameterGroups:
    """Groups of the raveled parameters by `layer_names`, in the order in which they are raveled.

    Raises InputError for patterns that match nothing.
    """
    names = layer_names(params, layers)
    unique = tuple(dict.fromkeys(names))
    if layers != "*" and not any(_matched(parts, layers) for parts in _paths(params)):
        raise InputError(f"No layer fits the pattern {layers!r}; outermost are {', '.join(unique)}. Give one of paths.")
    leaves, structure = jax.tree.flatten(params)
    indices = [jnp.full(jnp.shape(leaf), unique.index(name), jnp.int32) for leaf, name in zip(leaves, names)]
    return ParameterGroups(unique, raveled(jax.tree.unflatten(structure, indices)).flat)


def restricted(operator: LinearOperator, mask: jax.Array) -> LinearOperator:
    """A's diagonal block of the parameters in mask[p], as a matrix of unchanged size that is zero elsewhere.

    `restricted(operator, groups.indices == i)` is the block of group i; i may be traced, so that one program serves
    all groups. Cost: that of `operator`.
    """
    mask = mask.astype(jnp.float32)
    return LinearOperator(
        lambda vector: mask * operator.matvec(mask * vector),
        lambda vectors: mask * operator.matmat(mask * vectors),
        operator.size,
        operator.vectors,
    )


def gauss_newton_factors(
    outputs: Outputs, loss: Contribution, unravel: Callable[[jax.Array], PyTree], flat: jax.Array, batch: PyTree
) -> tuple[Matvec, Matvec]:
    """One batch's Gauss–Newton matrix Jᵀ (∇²ℓ) J as its factors: products with J, and with ∇²ℓ at the outputs.

        outputs, loss: as for `curvature_operator`.
        unravel: flat parameters [p] → params.
        flat: the parameters [p].
        batch: one batch.

    Cost: one forward pass; of a product with J another one.
    """
    values, jacobian = jax.linearize(lambda flat: outputs(unravel(flat), batch), flat)
    return jacobian, jax.linearize(jax.grad(lambda values: loss(values, batch)), values)[1]


def _hessian_product(outputs: Outputs, loss: Contribution, unravel: Callable, flat: jax.Array, batch: PyTree) -> Matvec:
    return jax.linearize(jax.grad(lambda flat: loss(outputs(unravel(flat), batch), batch)), flat)[1]


def _gauss_newton_product(
    outputs: Outputs, loss: Contribution, unravel: Callable, flat: jax.Array, batch: PyTree
) -> Matvec:
    def product(jacobian: Matvec, loss_hessian: Matvec, vector: jax.Array) -> jax.Array:
        transposed = jax.linear_transpose(jacobian, vector)
        return transposed(loss_hessian(jacobian(vector)))[0]

    return jax.tree_util.Partial(product, *gauss_newton_factors(outputs, loss, unravel, flat, batch))
