"""What the comparison with PyHessian and curvlinops takes as true, and how many products XTrace needs to come as near.

The trace's reference is computed in float64. These networks are affine in each array of their parameters, so the
Hessian's diagonal is that of Σᵢₖ pᵢₖ gᵢₖ gᵢₖᵀ/n, with gᵢₖ the gradient of example i's loss if its label were k: no
random numbers. Two checks stand in every row: PyTorch's own such sum over the first model's first examples
(`reference_against_torch`, relative difference), and that it is the Hessian's trace, by the probes of PyHessian's
estimator (`probe_deviation`, in standard errors).
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
from mdjax.landscape.batches import LabelledExamples
from mdjax.landscape.curvature import curvature_operator
from mdjax.landscape.loss_curvature import gauss_newton_traces
from mdjax.landscape.quadratic_forms import quadratic_forms
from mdjax.models import Architecture
from mdjax.tasks import cross_entropy

XTRACE_GRID = (16, 24, 32, 48, 64, 96)
"""Products at which XTrace is tried."""


def exact_trace(row: Row, index: int, count: int) -> float:
    """The trace of one model's Hessian over the row's first `count` examples, in float64."""
    with jax.enable_x64(True):
        given = jax.tree.map(lambda leaf: jnp.asarray(leaf[index], jnp.float64), (row.params, row.state))
        x, y = jnp.asarray(row.x[:count], jnp.float64), jnp.asarray(row.y[:count])
        return float(_exact_trace(row.architecture, *given, x, y))


@functools.partial(jax.jit, static_argnums=0)
def _exact_trace(architecture, params, state, x, y):
    model = architecture.model(default_plan().convolution)
    traces = gauss_newton_traces(model, params, state, LabelledExamples(x, y, len(x)))
    return sum(jax.tree.leaves(traces))


def torch_trace(network: torch.nn.Module, images: torch.Tensor) -> float:
    """The same of PyTorch's network, by PyTorch."""
    network = network.double()
    params, total = list(network.parameters()), 0.0
    for image in images.double():
        logits = network(image[None])[0]
        p = torch.softmax(logits.detach(), 0)
        for root, others in zip(p.sqrt(), torch.eye(len(p), dtype=p.dtype) - p):
            gradients = torch.autograd.grad(logits, params, root * others, retain_graph=True)
            total += sum(float((gradient**2).sum()) for gradient in gradients)
    return total / len(images)


def split(architecture: Architecture, state, count: int):
    """(outputs, loss) of `count` examples as curvature operators take them."""
    model = architecture.model(default_plan().convolution)
    return (
        lambda params, batch: model.apply(params, state, batch[0]),
        lambda logits, batch: jnp.sum(cross_entropy(logits, batch[1])) / count,
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
