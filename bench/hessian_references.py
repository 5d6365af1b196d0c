"""What the comparison with PyHessian and curvlinops takes as true, and how many products XTrace needs to come as near.

The trace's reference is independent of mdjax: float64 gradients of single examples by PyTorch. These networks are
affine in each array of their parameters, so the Hessian's diagonal is that of Σᵢₖ pᵢₖ gᵢₖ gᵢₖᵀ/n, with gᵢₖ the gradient
of example i's loss if its label were k: no random numbers. That this is the Hessian's trace, the probes of PyHessian's
estimator check in every row (`probe_deviation`, in standard errors).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from hessian_peers import BATCH, TRACE, Row
from jax.flatten_util import ravel_pytree

from mdjax.engine.plan import default_plan
from mdjax.landscape import losses
from mdjax.landscape.curvature import curvature_operator
from mdjax.landscape.quadratic_forms import quadratic_forms
from mdjax.models import Architecture

XTRACE_GRID = (16, 24, 32, 48, 64, 96)
"""Products at which XTrace is tried."""


def exact_trace(network: torch.nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """The Hessian's trace over all examples, in float64."""
    network = network.double()
    params, total, count = list(network.parameters()), 0.0, 0
    for images, _ in batches:
        for image in images.double():
            logits = network(image[None])[0]
            p = torch.softmax(logits.detach(), 0)
            scores = p.sqrt()[:, None] * (torch.eye(len(p), dtype=p.dtype) - p)
            gradients = torch.autograd.grad(logits, params, scores, is_grads_batched=True)
            total += sum(float((gradient**2).sum()) for gradient in gradients)
            count += 1
    return total / count


def split(architecture: Architecture, state, count: int):
    """(outputs, loss) of `count` examples as curvature operators take them."""
    model = architecture.model(default_plan().convolution)
    return (
        lambda params, batch: model.apply(params, state, batch[0]),
        lambda logits, batch: jnp.sum(losses.cross_entropy(logits, batch[1])) / count,
    )


def single(row: Row, index: int):
    """One model's params and state, and the row's batches."""
    x, y = (jnp.asarray(a).reshape(-1, min(BATCH, len(a)), *a.shape[1:]) for a in (row.x, row.y))
    return *jax.tree.map(lambda leaf: leaf[index], (row.params, row.state)), x, y


def probes(row: Row, index: int, count: int) -> np.ndarray:
    """Quadratic forms of Rademacher probes: the samples of Hutchinson's estimator."""
    return np.asarray(_forms(row.architecture, *single(row, index), jax.random.key(index), count), np.float64)


@functools.partial(jax.jit, static_argnums=(0, 6))
def _forms(architecture, params, state, x, y, key, count):
    size = ravel_pytree(params)[0].size
    forms = quadratic_forms(*split(architecture, state, x.shape[0] * x.shape[1]), params, (x, y))
    with jax.default_matmul_precision("highest"):
        return forms(jax.random.rademacher(key, (count, size), jnp.float32))


@functools.partial(jax.jit, static_argnums=0)
def _products(architecture, params, state, x, y, vectors):
    outputs, loss = split(architecture, state, x.shape[0] * x.shape[1])
    with jax.default_matmul_precision("highest"):
        return curvature_operator(outputs, loss, params, (x, y)).matmat(vectors)


class XTraceNeed(NamedTuple):
    """The fewest products at which XTrace's root mean square error is as asked for, and that error.

    `reached` is False where the last of the grid was not enough: the products are then a lower bound.
    """

    products: int
    error: float
    reached: bool


def xtrace_need(row: Row, index: int, trace: float, scale: float, draws: int = 24) -> XTraceNeed:
    """From one set of random vectors and products, by curvlinops' formula on subsets of them.

        row, index: the model.
        trace, scale: the true trace, and what its error is relative to.
        draws: random subsets of each size.

    The subset's basis lies in that of all, so that its products are combinations of those that are there.
    """
    given, most = single(row, index), XTRACE_GRID[-1] // 2
    size = ravel_pytree(given[0])[0].size
    rng = np.random.default_rng(index)
    start = rng.choice([-1.0, 1.0], (most, size))

    def multiply(rows: np.ndarray) -> np.ndarray:
        return np.asarray(_products(row.architecture, *given, jnp.asarray(rows, jnp.float32)), np.float64)

    images = multiply(start)
    basis, triangle = np.linalg.qr(images.T)
    basis_images = multiply(basis.T)
    small = _Small(
        start @ basis, np.sum(start * images, axis=1), start @ basis_images.T, basis_images @ basis, triangle
    )
    for products in XTRACE_GRID:
        number = products // 2
        subsets = [rng.permutation(most)[:number] for _ in range(draws if number < most else 1)]
        errors = np.array([_xtrace(small, subset) for subset in subsets]) - trace
        error = float(np.sqrt(np.mean(errors**2)) / scale)
        if error <= TRACE:
            return XTraceNeed(products, error, True)
    return XTraceNeed(products, error, False)


class _Small(NamedTuple):
    """Ω Q [m, m], ωᵢᵀAωᵢ [m], Ωᵀ A Q [m, m], Qᵀ A Q [m, m] and R of A Ω = Q R: what XTrace takes of the vectors."""

    inside: np.ndarray
    forms: np.ndarray
    crossed: np.ndarray
    projected: np.ndarray
    triangle: np.ndarray


def _xtrace(small: _Small, subset: np.ndarray) -> float:
    """Epperly, Tropp & Webber 2024, as curvlinops 3 computes it, of a subset of the vectors."""
    turn, triangle = np.linalg.qr(small.triangle[:, subset])
    projected = turn.T @ small.projected @ turn
    left_out = np.linalg.inv(triangle).T
    left_out /= np.linalg.norm(left_out, axis=0)
    values = []
    for direction, i in zip(left_out.T, subset):
        inside = turn.T @ small.inside[i]
        weights = inside - direction * (direction @ inside)
        image = turn.T @ small.triangle[:, i] - projected @ weights
        image -= direction * (direction @ image)
        form = small.forms[i] - small.crossed[i] @ turn @ weights - inside @ image
        values.append(np.trace(projected) - direction @ projected @ direction + form)
    return float(np.mean(values))
