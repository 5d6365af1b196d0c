"""A symmetric linear operator → its spectral density by stochastic Lanczos quadrature."""

from typing import NamedTuple

import jax
import numpy as np
import scipy.linalg
import scipy.special

from mdjax.linalg.krylov import Tridiagonal, lanczos
from mdjax.linalg.operators import LinearOperator


class Quadrature(NamedTuple):
    """Nodes[k, m] (eigenvalue estimates, ascending) and weights[k, m] of k runs; each run's weights sum to one."""

    nodes: np.ndarray
    weights: np.ndarray


class Density(NamedTuple):
    """A density over eigenvalues: density[n] per unit of eigenvalue at grid[n], averaged over runs, and its standard
    error over them (NaN for a single run)."""

    grid: np.ndarray
    density: np.ndarray
    standard_error: np.ndarray


def quadrature_runs(operator: LinearOperator, key: jax.Array, *, num_runs: int, num_steps: int) -> Tridiagonal:
    """Lanczos runs from random unit vectors, for `quadrature`.

        operator: A[p, p].
        key: for the vectors.
        num_runs: k, vectors that the density is averaged over.
        num_steps: m, products with each.

    The quadrature's moments of degree up to 2m − 1 are those of the run's vector exactly.
    Cost: m products with blocks of k; memory k·m·p floats.
    Source: Ubaru, Chen & Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature", SIAM J. Matrix Anal.
    Appl. 2017; Ghorbani, Krishnan & Xiao, "An investigation into neural net optimization via Hessian eigenvalue
    density", ICML 2019.
    """
    return lanczos(operator, operator.space.normal(key, num_runs), num_steps=num_steps)


def quadrature(alpha: np.ndarray, beta: np.ndarray) -> Quadrature:
    """Nodes and weights of runs alpha[k, m], beta[k, m], in float64 on the host. Non-finite runs give NaN.

    A run that ended early at an invariant subspace is filled up with nodes of weight 0 at its smallest node.
    """
    alpha, beta = np.asarray(alpha, np.float64), np.asarray(beta, np.float64)
    nodes, weights = np.full(alpha.shape, np.nan), np.full(alpha.shape, np.nan)
    for run, (diagonal, off_diagonal) in enumerate(zip(alpha, beta)):
        if not (np.isfinite(diagonal).all() and np.isfinite(off_diagonal).all()):
            continue
        ends = np.flatnonzero(off_diagonal[:-1] <= 0)
        used = ends[0] + 1 if len(ends) else len(diagonal)
        values, vectors = scipy.linalg.eigh_tridiagonal(diagonal[:used], off_diagonal[: used - 1])
        unused = len(diagonal) - used
        nodes[run] = np.r_[np.full(unused, values[0]), values]
        weights[run] = np.r_[np.zeros(unused), vectors[0] ** 2]
    return Quadrature(nodes, weights)


def moments(runs: Quadrature, highest: int) -> tuple[np.ndarray, np.ndarray]:
    """The density's moments ∫ λʲ dμ = tr(Aʲ)/p of degree 0 … `highest`, and their standard errors over runs."""
    powers = runs.nodes[..., None] ** np.arange(highest + 1)
    return _mean_over_runs(np.sum(runs.weights[..., None] * powers, axis=1))


def binned(runs: Quadrature, *, num_bins: int, variance: float | None = None) -> Density:
    """The density, smoothed by Gaussians of that `variance`, integrated over equally wide bins given by their centres.

    Each bin holds the mean of the density over it, so no mass is lost between the points of a coarse grid. The grid
    reaches 0.01 beyond the outermost nodes, the variance is 1e-5·max(1, λmax − λmin) unless given, and each run's
    density has the integral 1 over the grid, all as published with PyHessian.
    Source: Yao, Gholami, Keutzer & Mahoney, "PyHessian: neural networks through the lens of the Hessian", 2020.
    """
    lowest, highest = float(runs.nodes.min()), float(runs.nodes.max())
    variance = 1e-5 * max(1.0, highest - lowest) if variance is None else variance
    edges = np.linspace(lowest - 0.01, highest + 0.01, num_bins + 1)
    below = scipy.special.ndtr((edges - runs.nodes[..., None]) / variance**0.5)
    masses = np.sum(runs.weights[..., None] * np.diff(below, axis=-1), axis=1)
    masses /= masses.sum(axis=1, keepdims=True) * (edges[1] - edges[0])
    return Density((edges[1:] + edges[:-1]) / 2, *_mean_over_runs(masses))


def _mean_over_runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    count = len(values)
    spread = values.std(axis=0, ddof=1) if count > 1 else np.full(values.shape[1:], np.nan)
    return values.mean(axis=0), spread / count**0.5
