"""Mode connectivity: training error along a trained curve between two models."""

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from mdjax import curves
from mdjax.curves import CurveSettings
from mdjax.metrics.contract import Examples, PyTree, Raw
from mdjax.models import Model


@dataclasses.dataclass(frozen=True)
class ModeConnectivity:
    """Barrier and peak of training error along a trained Bézier curve between two models, in percent.

    With e the errors at `num_points` equally spaced t (ends included, BatchNorm re-estimated at each) and c the
    mean of the two ends: `mode_connectivity` = c − e[u] at the inner u where |e − c| is largest, and
    `mode_connectivity_peak` = −max of the inner errors, nothing subtracted. Loss and error along the curve are
    kept, so that any other definition can be computed from the table.
    """

    name: ClassVar[str] = "mode_connectivity"
    scope: ClassVar[str] = "pair"

    settings: CurveSettings = CurveSettings()
    num_points: int = 9
    pairs: Literal["disjoint", "first", "all"] = "disjoint"

    def measure(
        self,
        model: Model,
        first: tuple[PyTree, PyTree],
        second: tuple[PyTree, PyTree],
        data: Examples,
        key: jax.Array,
    ) -> Raw:
        (params, state), (other, _) = first, second
        arrays = (data.x_train, data.y_train, data.num_train)
        kind = self.settings.kind
        bends = curves.train_bends(model, self.settings, params, other, state, *arrays, key)
        points = jnp.linspace(0.0, 1.0, self.num_points)
        loss, error = curves.evaluate_curve(model, kind, params, bends, other, state, *arrays, points=points)
        return {"curve_t": points, "curve_loss": loss, "curve_error": error}

    def columns(self, raw: Raw) -> dict[str, Any]:
        error = np.asarray(raw["curve_error"], np.float64)
        center = (error[0] + error[-1]) / 2
        inner = error[1:-1]
        columns: dict[str, Any] = {name: np.asarray(raw[name], np.float64).tolist() for name in raw}
        if not np.isfinite(error).all():
            return {
                **columns,
                "mode_connectivity": np.nan,
                "mode_connectivity_peak": np.nan,
                "status": "curve diverged",
            }
        furthest = inner[np.argmax(np.abs(inner - center))]
        # 0.0 − x rather than −x: no minus sign on a zero.
        return {
            **columns,
            "mode_connectivity": float(center - furthest),
            "mode_connectivity_peak": float(0.0 - inner.max()),
        }
