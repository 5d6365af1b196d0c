"""The spectral density of the Hessian (or Gauss–Newton matrix) by stochastic Lanczos quadrature."""

import dataclasses
from typing import Any, ClassVar

import jax
import numpy as np

from mdjax.errors import InputError
from mdjax.landscape.curvature import CurvatureMatrix, check_matrix
from mdjax.landscape.loss_curvature import loss_curvature
from mdjax.linalg.density import binned, moments, quadrature, quadrature_runs
from mdjax.metrics.contract import Examples, ModelMetric, PyTree, Raw, Weights
from mdjax.metrics.published_hessian import status_with_cause
from mdjax.models import Model
from mdjax.models.mixed import Precision, check_precision, in_precision
from mdjax.models.parameters import Parameters, check_parameters, counted
from mdjax.statuses import Status, StatusCode


@dataclasses.dataclass(frozen=True)
class Density(ModelMetric):
    """The density of the Hessian's eigenvalues, averaged over `num_runs` Lanczos runs of `num_steps`.

    The same first `num_samples` training examples for every model, stored statistics, no weight decay, of the
    `parameters` that count, as in `Hessian`, and in its `precision`: p is their number. Columns:
    `density_nodes` and `density_weights`, the quadrature of all runs together, from which the density follows on any
    grid; `density_grid`, `density` and `density_se`, the density smoothed as published in
    `num_points` bins, per unit of eigenvalue, and its standard error over runs; `density_moments` tr(Aʲ)/p for
    j = 1, 2, 3, with `density_moments_se`.

    Held to 1e-5 in every form of execution: the moments (of ∫|λ|ʲ), and the curve that nodes and weights give when
    smoothed by Gaussians of a hundredth of the nodes' extent (of its maximum). Not held: single nodes and weights.
    Where eigenvalues lie together, as at 0, or a run ends early for want of further directions, rounding decides
    between how many nodes their weight is split, and how. The published bumps are about 0.003·√extent wide: a bin of
    `density` moves by rounding of ‖H‖ over that width.
    Cost: num_runs·num_steps products; memory that many times the parameters.
    """

    name: ClassVar[str] = "density"
    weight: ClassVar[float] = 60.0
    description: ClassVar[str] = "spectral density by stochastic Lanczos quadrature"

    num_samples: int = 1024
    operator: CurvatureMatrix = "hessian"
    num_runs: int = 4
    num_steps: int = 32
    num_points: int = 64
    batch_size: int = 256
    parameters: Parameters = "trainable"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        check_parameters(self.parameters)
        check_precision(self.precision)
        check_matrix(self.operator)
        if self.num_runs < 2:
            raise InputError(f"Cannot tell an error from num_runs = {self.num_runs}. Take at least 2 runs.")

    def measure(self, model: Model, params: PyTree, state: PyTree, data: Examples, key: jax.Array) -> Raw:
        examples = data.train.first(self.num_samples)
        settings = {"batch_size": self.batch_size, "matrix": self.operator}
        model, params = counted(in_precision(model, self.precision), params, self.parameters)
        curvature = loss_curvature(model, params, state, examples, **settings)
        runs = quadrature_runs(curvature, key, num_runs=self.num_runs, num_steps=self.num_steps)
        return {"alpha": runs.alpha, "beta": runs.beta}

    def explained(self, status: Status, model: Model, weights: tuple[Weights, ...], data: Examples) -> Status:
        return status_with_cause(status, model, weights, data.train.first(self.num_samples))

    def columns(self, raw: Raw) -> dict[str, Any]:
        runs = quadrature(raw["alpha"], raw["beta"])
        density = binned(runs, num_bins=self.num_points)
        values, errors = moments(runs, 3)
        columns: dict[str, Any] = {
            "density_grid": density.grid.tolist(),
            "density": density.density.tolist(),
            "density_se": density.standard_error.tolist(),
            "density_nodes": runs.nodes.ravel().tolist(),
            "density_weights": (runs.weights / len(runs.weights)).ravel().tolist(),
            "density_moments": values[1:].tolist(),
            "density_moments_se": errors[1:].tolist(),
            "density_products": runs.nodes.size,
        }
        if not np.isfinite(runs.nodes).all():
            columns["status"] = Status(StatusCode.NOT_FINITE, f"{self.operator} is not finite")
        return columns
