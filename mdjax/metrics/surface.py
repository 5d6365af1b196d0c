"""Loss and error on a line or a plane through a model."""

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from mdjax.errors import InputError
from mdjax.landscape import surfaces
from mdjax.landscape.loss_curvature import loss_curvature, loss_quadratic_forms
from mdjax.metrics.contract import Examples, ModelMetric, PyTree, Raw, Weights
from mdjax.metrics.published_hessian import status_with_cause
from mdjax.models import Model
from mdjax.models.mixed import Precision, check_precision, in_precision
from mdjax.models.parameters import Parameters, check_parameters, counted
from mdjax.statuses import Status, StatusCode

_MOST_POINTS = 1_000_000
_DIRECTIONS = ("filter", "random", "hessian")


@dataclasses.dataclass(frozen=True)
class Surface(ModelMetric):
    """Loss (nats) and error (percent) at `num_points` equal steps from −`radius` to `radius` along 1 or 2 directions.

    `directions`: "filter", Gaussian with every filter as long as the model's (Li et al., 2018); "random", Gaussian,
    as long as all parameters together; "hessian", unit eigenvectors of the largest eigenvalues. The first two are
    drawn for each model; a step of 1 is the filters', the model's and a Euclidean length of 1. All move the
    `parameters` that count, as in `Hessian`, alone.
    On the first `num_samples` training examples (all, where there are fewer), stored statistics.
    Columns: `surface_x` (and `surface_y`), `surface_loss` and `surface_error`, whose entry [i][j] is at (xᵢ, yⱼ);
    `surface_curvature`, the second derivative at the model along each direction, with "hessian" the eigenvalues, and
    then `surface_residual`, their residuals ‖Hv − λv‖.
    Cost: `num_points` forward passes, or their square in two dimensions; for the curvature 3 matrix products per layer
    and direction, as many as a gradient takes, but with "hessian" 6 for each of up to 4·`max_steps` products, with as
    many vectors in memory.
    """

    name: ClassVar[str] = "surface"
    weight: ClassVar[float] = 30.0
    description: ClassVar[str] = "loss and error on a line or plane through the model"

    directions: Literal["filter", "random", "hessian"] = "filter"
    dimensions: int = 1
    num_points: int = 21
    radius: float = 1.0
    num_samples: int = 1024
    batch_size: int = 256
    max_steps: int = 24
    tolerance: float = 1e-5
    parameters: Parameters = "trainable"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        check_parameters(self.parameters)
        check_precision(self.precision)
        if self.directions not in _DIRECTIONS:
            raise InputError(f"Unknown directions {self.directions!r}. Choose one of {', '.join(_DIRECTIONS)}.")
        if self.dimensions not in (1, 2):
            raise InputError(f"dimensions is {self.dimensions}. Give 1 for a line or 2 for a plane.")
        if self.num_points < 3 or self.num_points % 2 == 0:
            raise InputError(
                f"num_points is {self.num_points}. Give an odd number of at least 3, so that the model is a point."
            )
        if self.num_points**self.dimensions > _MOST_POINTS:
            raise InputError(
                f"num_points is {self.num_points:,}, but a surface has at most {_MOST_POINTS:,} points. Give fewer."
            )
        if not 0 < self.radius < float("inf"):
            raise InputError(f"radius is {self.radius}. Give a finite number above 0.")
        for name in ("num_samples", "batch_size", "max_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}. Give a whole number of at least 1.")

    @property
    def coordinates(self) -> np.ndarray:
        """The steps along a direction, [num_points] in float64; the middle one is 0."""
        half = self.num_points // 2
        return self.radius * (np.arange(self.num_points) - half) / half

    def measure(self, model: Model, params: PyTree, state: PyTree, data: Examples, key: jax.Array) -> Raw:
        examples = data.train.first(self.num_samples)
        model, params = counted(in_precision(model, self.precision), params, self.parameters)
        mean_loss = (model, params, state, examples)
        if self.directions == "hessian":
            hessian = loss_curvature(*mean_loss, batch_size=self.batch_size)
            directions = surfaces.hessian_directions(
                hessian, key, self.dimensions, tolerance=self.tolerance, max_steps=self.max_steps
            )
            curvature = surfaces.directional_curvature(hessian, directions)
            found = {"curvature": curvature.values, "residual": curvature.residuals}
        else:
            draw = surfaces.filter_directions if self.directions == "filter" else surfaces.random_directions
            directions = draw(params, key, self.dimensions)
            found = {"curvature": loss_quadratic_forms(*mean_loss, batch_size=self.batch_size)(directions)}
        grid = np.meshgrid(*[self.coordinates] * self.dimensions, indexing="ij")
        points = jnp.asarray(np.stack([axis.ravel() for axis in grid], axis=1), jnp.float32)
        loss, error = surfaces.loss_surface(
            model, params, state, directions, points, examples, batch_size=self.batch_size
        )
        return found | {"loss": loss.reshape(grid[0].shape), "error": error.reshape(grid[0].shape)}

    def explained(self, status: Status, model: Model, weights: tuple[Weights, ...], data: Examples) -> Status:
        return status_with_cause(status, model, weights, data.train.first(self.num_samples))

    def columns(self, raw: Raw) -> dict[str, Any]:
        columns: dict[str, Any] = {"surface_x": self.coordinates.tolist()}
        if self.dimensions == 2:
            columns["surface_y"] = self.coordinates.tolist()
        for name in ("loss", "error", "curvature"):
            columns[f"surface_{name}"] = np.asarray(raw[name], np.float64).tolist()
        center = (self.num_points // 2,) * self.dimensions
        if not np.isfinite(raw["loss"][center]):
            columns["status"] = Status(StatusCode.NOT_FINITE, "surface_loss is not finite at the model")
        elif not np.isfinite(raw["curvature"]).all():
            columns["status"] = Status(StatusCode.NOT_FINITE, "surface_curvature is not finite")
        if self.directions == "hessian":
            residual = np.asarray(raw["residual"], np.float64)
            columns["surface_residual"] = residual.tolist()
            # float32 leaves about 1e-6 of the largest eigenvalue in every residual.
            allowed = 10 * max(self.tolerance, 1e-6) * np.abs(np.asarray(raw["curvature"])).max()
            if (residual > allowed).any():
                sentence = f"surface directions are no eigenvectors after {self.max_steps} Lanczos steps"
                columns["status"] = Status(StatusCode.NOT_CONVERGED, sentence)
        return columns
