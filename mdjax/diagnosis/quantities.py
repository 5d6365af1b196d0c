"""The quantities that trees split on: measured columns or combinations of them, each with the scale it is read on.

A threshold is compared on its quantity's scale, on which a change of data set shifts values rather than stretches
them; the scale keeps the order, so that `value <= threshold` means the same on both. A name that is not in
`QUANTITIES` is a measured column on a linear scale. To add a quantity, put it into `QUANTITIES`; to use it, name it
in a `Split`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

Columns = dict[str, np.ndarray]  # name -> [rows] of float64

PAIR_FEATURES = {"mode_connectivity": "mode_connectivity", "mode_connectivity_peak": "mode_connectivity", "CKA": "cka"}
"""What needs two models that were trained alike → the metric that measures it; other features are of single models."""


@dataclass(frozen=True)
class Quantity:
    """A number that trees split on, from measured columns in their published units.

    `offset` puts it on the logarithmic scale sign * ln(sign * x + offset), `sign` being -1 for quantities that are
    never positive; without an offset the scale is linear. Values on the wrong side of zero count as zero there.
    `drift` is how far a threshold moves from one data set to another, a standard deviation on the scale: set by hand
    searches inside the published `basic` sweep, and checked to a factor of three by bench/default_method.py.
    `title`, `unit` and `log_colours` are those of `mdjax.columns.Feature`, for figures; `text` says what it is in a
    sentence.
    """

    name: str
    reads: tuple[str, ...]  # columns, in the order of the arguments of `combine`
    text: str = ""
    combine: Callable[..., np.ndarray] = lambda values: values
    offset: float | None = None
    sign: int = 1
    drift: float = 0.0
    title: str = ""
    unit: str = ""
    log_colours: bool = False

    @property
    def of_pairs(self) -> bool:
        """Whether it takes two models that were trained alike to measure it."""
        return any(name in PAIR_FEATURES for name in self.reads)

    def to_scale(self, values: np.ndarray) -> np.ndarray:
        """The values on the scale on which thresholds are compared."""
        if self.offset is None:
            return np.asarray(values, dtype=float)
        return self.sign * np.log(np.maximum(self.sign * np.asarray(values, dtype=float), 0.0) + self.offset)

    def from_scale(self, values: np.ndarray) -> np.ndarray:
        """The inverse of `to_scale`."""
        if self.offset is None:
            return np.asarray(values, dtype=float)
        return self.sign * (np.exp(self.sign * np.asarray(values, dtype=float)) - self.offset)

    def error_on_scale(self, values: np.ndarray, errors: np.ndarray) -> np.ndarray:
        """What a standard error in the quantity's own unit is on the scale."""
        return (self.to_scale(values + errors) - self.to_scale(values - errors)) / 2


def _barrier(peak: np.ndarray, train_error: np.ndarray) -> np.ndarray:
    return np.maximum(-peak - train_error, 0.0)


def _log_loss(train_loss: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(train_loss, 0.0) + 1e-5)


QUANTITIES: dict[str, Quantity] = {
    quantity.name: quantity
    for quantity in (
        Quantity("test_error", ("test_error",), "test error, percent", title="Test error", unit="%"),
        Quantity(
            "train_error",
            ("train_error",),
            "training error, percent",
            offset=0.05,
            drift=0.15,
            title="Training error",
            unit="%",
        ),
        Quantity("test_loss", ("test_loss",), "test loss, nats", title="Test loss", unit="nats", log_colours=True),
        Quantity(
            "train_loss",
            ("train_loss",),
            "training loss, nats",
            offset=1e-5,
            drift=0.35,
            title="Training loss",
            unit="nats",
            log_colours=True,
        ),
        Quantity("hessian_t", ("hessian_t",), "ln of the Hessian trace", drift=0.5, title="Hessian trace", unit="ln"),
        Quantity(
            "hessian_e",
            ("hessian_e",),
            "ln of the largest Hessian eigenvalue",
            drift=0.5,
            title="Top Hessian eigenvalue",
            unit="ln",
        ),
        Quantity(
            "mode_connectivity_peak",
            ("mode_connectivity_peak",),
            "minus the highest training error on the curve between two models, percent",
            offset=0.05,
            sign=-1,
            drift=0.8,
            title="Connectivity peak",
            unit="% error, negated",
        ),
        Quantity(
            "mode_connectivity",
            ("mode_connectivity",),
            "mean error of a curve's ends minus the error on it that differs most from that mean, points",
            title="Mode connectivity",
            unit="points of error",
        ),
        Quantity(
            "CKA",
            ("CKA",),
            "similarity of two models' outputs, 0 to 1",
            drift=0.225,
            title="CKA similarity",
            unit="0 to 1",
        ),
        Quantity(
            "barrier",
            ("mode_connectivity_peak", "train_error"),
            "how far the curve between two models rises above their own training error, points",
            _barrier,
            offset=0.1,
            drift=0.35,
            title="Barrier between runs",
            unit="points of error",
        ),
        Quantity(
            "trace_for_loss",
            ("hessian_t", "train_loss"),
            "sharpness at equal loss: ln of the Hessian trace times the training loss to the power 3/4",
            lambda trace, loss: trace + 0.75 * _log_loss(loss),
            drift=0.35,
            title="Sharpness at equal loss (trace)",
        ),
        Quantity(
            "eigenvalue_for_loss",
            ("hessian_e", "train_loss"),
            "sharpness at equal loss: ln of the largest Hessian eigenvalue times the training loss to the power 3/4",
            lambda eigenvalue, loss: eigenvalue + 0.75 * _log_loss(loss),
            drift=0.35,
            title="Sharpness at equal loss (eigenvalue)",
        ),
    )
}
"""The quantities by name, in the order in which a report draws them."""


def quantity(name: str) -> Quantity:
    """The quantity of that name; a measured column on a linear scale where none is defined."""
    return QUANTITIES.get(name) or Quantity(name, (name,))


def inputs_of(names: Iterable[str]) -> tuple[str, ...]:
    """The measured columns that quantities are computed from, each once, in the order first named."""
    return tuple(dict.fromkeys(column for name in names for column in quantity(name).reads))


def with_quantities(names: Iterable[str], columns: Mapping[str, np.ndarray]) -> Columns:
    """The columns, and the named quantities computed from them; NaN where a column is."""
    return {**columns, **{name: _value(quantity(name), columns) for name in names}}


def with_errors(names: Iterable[str], columns: Mapping[str, np.ndarray], errors: Mapping[str, np.ndarray]) -> Columns:
    """The columns' standard errors, and those of the named quantities, taken as independent.

    A quantity's error is the change that one standard error of each column makes, added in quadrature.
    """
    found = dict(errors)
    for name in names:
        this = quantity(name)
        if this.reads == (name,):
            continue
        squares = np.zeros(len(next(iter(columns.values()))))
        for column in this.reads:
            ends = [_value(this, {**columns, column: columns[column] + way * errors[column]}) for way in (1, -1)]
            squares += ((ends[0] - ends[1]) / 2) ** 2
        found[name] = np.sqrt(np.where(np.isfinite(squares), squares, 0.0))
    return found


def _value(this: Quantity, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    return this.combine(*(columns[name] for name in this.reads))
