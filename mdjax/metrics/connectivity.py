"""Connectivity of two models: training error along a trained curve, and along the straight line, between them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from mdjax.columns import Feature
from mdjax.errors import InputError
from mdjax.landscape import curves, losses
from mdjax.landscape.alignment import TOLERANCE, aligned_and_verified
from mdjax.landscape.curves import Curve, CurveSettings
from mdjax.metrics.contract import Examples, Metric, PairMetric, Pairs, Raw, Weights
from mdjax.models import Model
from mdjax.models.mixed import Precision, check_precision, in_precision
from mdjax.models.parameters import Parameters, check_parameters, counted_leaves
from mdjax.statuses import Status, StatusCode

_VERIFIED_ON, _VERIFICATION = 8, 1
"""Examples that an alignment is verified on, and what tells its random numbers from the curve's."""


@dataclasses.dataclass(frozen=True)
class ModeConnectivity(PairMetric):
    """Barrier and peak of training error along a trained curve between two models, in percent.

    With e the errors at `num_points` equally spaced t (ends included, BatchNorm re-estimated at each) and c the
    mean of the two ends: `mode_connectivity` = c − e[u] at the inner u where |e − c| is largest, and
    `mode_connectivity_peak` = −max of the inner errors, nothing subtracted. Loss and error along the curve are
    kept, so that any other definition can be computed from the table. `curve_end_gap` (points of error) and
    `curve_end_loss_gap` (nats) are how far the curve's ends, whose statistics are re-estimated, lie from the two
    models with their own stored statistics: 0 without statistics. `align` permutes the second model's units to
    match the first's before (`mdjax.landscape.alignment`); on a few examples it is checked that this leaves the
    network what it is, and where it does not the row says so and has no numbers.
    `precision` as in `Hessian`. Only the `parameters` that count, as there, bend: those that the model names as frozen
    stay on the straight line between the two models ("all" bends them too).
    Cost: `settings.num_steps` gradients of a mini-batch, and 2·num_points + 2 forward passes over the data.
    """

    name: ClassVar[str] = "mode_connectivity"
    weight: ClassVar[float] = 100.0
    description: ClassVar[str] = "loss and error along a trained Bézier curve or chain between two models"
    features: ClassVar[tuple[Feature, ...]] = (
        Feature("mode_connectivity", "Mode connectivity", "points of error"),
        Feature("mode_connectivity_peak", "Connectivity peak", "% error, negated"),
    )
    by_default: ClassVar[bool] = True
    reestimates_statistics: ClassVar[bool] = True
    tpu_precision: ClassVar[Literal["highest", "high"]] = "high"

    settings: CurveSettings = CurveSettings()
    num_points: int = 9
    pairs: Pairs = "disjoint"
    align: bool = False
    parameters: Parameters = "trainable"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        _check_points(self.num_points)
        check_parameters(self.parameters)
        check_precision(self.precision)

    @classmethod
    def of_preset(cls, preset: str) -> Metric:
        if preset == "reference":
            return PublishedModeConnectivity()
        return cls(CurveSettings(num_steps=75), num_points=5, pairs="first") if preset == "fast" else cls()

    def measure(self, model: Model, first: Weights, second: Weights, data: Examples, key: jax.Array) -> Raw:
        counted = counted_leaves(model, first[0], self.parameters)
        trained = functools.partial(curves.trained_curve, settings=self.settings, counted=counted)
        return _along_curve(trained, self, model, first, second, data, key)

    def columns(self, raw: Raw) -> dict[str, Any]:
        error = np.asarray(raw["error"], np.float64)
        columns = _shared_columns("curve", raw)
        if "status" in columns:
            return columns | {"mode_connectivity": np.nan, "mode_connectivity_peak": np.nan}
        center = (error[0] + error[-1]) / 2
        candidates = self._candidates(error)
        furthest = candidates[np.argmax(np.abs(candidates - center))]
        # 0.0 − x rather than −x: no minus sign on a zero.
        return columns | {
            "mode_connectivity": float(center - furthest),
            "mode_connectivity_peak": float(0.0 - error[1:-1].max()),
        }

    def _candidates(self, error: np.ndarray) -> np.ndarray:
        """The errors among which the one furthest from the ends is sought."""
        return error[1:-1]


@dataclasses.dataclass(frozen=True)
class PublishedModeConnectivity(ModeConnectivity):
    """Mode connectivity as published: five points, a bend trained from a random start, the first two models.

    Differs from `ModeConnectivity` also in that the u of c − e[u] may be an end, as it was.
    Source: Zhou et al., "MD tree", ICML 2024, and Yang et al., "Taxonomizing local versus global structure in neural
    network loss landscapes", NeurIPS 2021.
    """

    settings: CurveSettings = CurveSettings.published()
    num_points: int = 5
    pairs: Pairs = "first"

    def _candidates(self, error: np.ndarray) -> np.ndarray:
        return error


@dataclasses.dataclass(frozen=True)
class LinearConnectivity(PairMetric):
    """Training loss and error along the straight line between two models, and their barriers; nothing is trained.

    With e the errors (percent) at `num_points` equally spaced t, BatchNorm re-estimated at each: `linear_barrier` is
    the maximum over t of e(t) − ((1−t)·e(0) + t·e(1)), 0 where the line lies below the chord;
    `linear_loss_barrier` the same of the loss (nats). Gaps and `align` as in `ModeConnectivity`;
    `precision` as in `Hessian`; frozen parameters move along the line with all others.
    Cost: 2·num_points + 2 forward passes over the data.
    Source: Frankle et al., "Linear mode connectivity and the lottery ticket hypothesis", ICML 2020; statistics as in
    Jordan et al., "REPAIR", ICLR 2023.
    """

    name: ClassVar[str] = "linear_connectivity"
    description: ClassVar[str] = "loss and error along the straight line between two models"
    reestimates_statistics: ClassVar[bool] = True
    tpu_precision: ClassVar[Literal["highest", "high"]] = "high"

    num_points: int = 11
    pairs: Pairs = "disjoint"
    align: bool = False
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        _check_points(self.num_points)
        check_precision(self.precision)

    def measure(self, model: Model, first: Weights, second: Weights, data: Examples, key: jax.Array) -> Raw:
        line = functools.partial(curves.trained_curve, settings=CurveSettings(kind="line"))
        return _along_curve(line, self, model, first, second, data, key)

    def columns(self, raw: Raw) -> dict[str, Any]:
        columns = _shared_columns("linear", raw)
        if "status" in columns:
            return columns | {"linear_barrier": np.nan, "linear_loss_barrier": np.nan}
        t = np.asarray(raw["t"], np.float64)
        return columns | {
            "linear_barrier": _barrier(t, np.asarray(raw["error"], np.float64)),
            "linear_loss_barrier": _barrier(t, np.asarray(raw["loss"], np.float64)),
        }


def _check_points(num_points: int) -> None:
    if num_points < 3:
        raise InputError(f"num_points is {num_points}. Give at least 3: the two ends and a point between them.")


def _along_curve(
    curve_between: Callable[..., Curve],
    metric: ModeConnectivity | LinearConnectivity,
    model: Model,
    first: Weights,
    second: Weights,
    data: Examples,
    key: jax.Array,
) -> Raw:
    """Loss and error [num_points] along the metric's curve, and at the models [2] with their own statistics."""
    (start, state), (end, end_state) = first, second
    found: dict[str, jax.Array] = {}
    if metric.align:
        # A key of its own: the curve's random numbers are the same with and without.
        verify_key = jax.random.fold_in(key, _VERIFICATION)
        inputs = jax.tree.map(lambda leaf: leaf[:_VERIFIED_ON], data.x_train)
        end, end_state, found["change"] = aligned_and_verified(model, start, end, end_state, inputs, verify_key)
    model = in_precision(model, metric.precision)
    points = jnp.linspace(0.0, 1.0, metric.num_points)
    curve = curve_between(model, start=start, end=end, state=state, examples=data.train, key=key)
    statistics = curves.reestimate_statistics(model, curve, state, data.train, points=points)
    found["apart"] = curves.kept_apart(state, end_state, statistics)
    loss, error = curves.evaluate_curve(model, curve, state, data.train, points=points, statistics=statistics)
    # In the same batches as the curve: without statistics its ends are then the models to the last bit.
    size = curves.EVALUATED_TOGETHER
    ends = [losses.evaluate(model, *member, data.train, batch_size=size) for member in (first, second)]
    end_loss, end_error = map(jnp.stack, zip(*ends))
    return found | {"t": points, "loss": loss, "error": error, "end_loss": end_loss, "end_error": end_error}


def _shared_columns(prefix: str, raw: Raw) -> dict[str, Any]:
    """The points along the curve, how far its ends are from the models, and a status where a number is missing."""
    found = {name: np.asarray(raw[name], np.float64) for name in raw}
    change, is_apart = found.pop("change", np.zeros(())), bool(found.pop("apart", False))
    is_finite = np.isfinite(found["end_error"]).all()
    # Not finite by itself where a model's logits are not.
    if is_finite and (is_apart or not change <= TOLERANCE):
        for name in ("loss", "error", "end_loss", "end_error"):
            found[name] = np.full_like(found[name], np.nan)
    columns: dict[str, Any] = {f"{prefix}_{name}": found[name].tolist() for name in ("t", "loss", "error")}
    columns[f"{prefix}_end_gap"] = float(np.abs(found["error"][[0, -1]] - found["end_error"]).max())
    columns[f"{prefix}_end_loss_gap"] = float(np.abs(found["loss"][[0, -1]] - found["end_loss"]).max())
    if not is_finite:
        return columns | {"status": Status(StatusCode.NOT_FINITE, "a model at the curve's end has no finite loss")}
    if is_apart:
        sentence = (
            "the two models, once aligned if they are, differ in state that is not re-estimated, as orders, masks and "
            "counters are not: a curve between them leads to neither"
        )
        return columns | {"status": Status(StatusCode.UNDEFINED, sentence)}
    if not change <= TOLERANCE:
        sentence = (
            f"alignment would change the network: logits move by {change:.0e} of the largest, where rounding alone "
            f"moves less than {TOLERANCE:.0e}; measure without align"
        )
        return columns | {"status": Status(StatusCode.ALIGNMENT_FAILED, sentence)}
    if not np.isfinite(found["error"]).all():
        return columns | {"status": Status(StatusCode.DIVERGED, "curve diverged")}
    return columns


def _barrier(t: np.ndarray, values: np.ndarray) -> float:
    return float((values - ((1 - t) * values[0] + t * values[-1])).max())
