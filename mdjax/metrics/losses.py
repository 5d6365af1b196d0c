"""Train and test loss, error and calibration."""

import dataclasses
from typing import Any, ClassVar

import jax

from mdjax.errors import InputError
from mdjax.landscape import losses
from mdjax.metrics.contract import Examples, PyTree, Raw
from mdjax.models import Model


@dataclasses.dataclass(frozen=True)
class Losses:
    """Train and test loss (nats), error and expected calibration error (percent), with stored statistics.

    `num_bins` equal bins of confidence make the calibration error (`losses.evaluate_calibration`).
    Cost: one forward pass over all data.
    """

    name: ClassVar[str] = "losses"
    scope: ClassVar[str] = "model"

    num_bins: int = 15

    def __post_init__(self) -> None:
        if self.num_bins < 1:
            raise InputError(f"num_bins is {self.num_bins}. Give at least one bin.")

    def measure(self, model: Model, params: PyTree, state: PyTree, data: Examples, key: jax.Array) -> Raw:
        raw = {}
        for split, examples in (("train", data.train), ("test", data.test)):
            found = losses.evaluate_calibration(model, params, state, examples, num_bins=self.num_bins)
            raw |= {
                f"{split}_loss": found.loss,
                f"{split}_error": found.error,
                f"{split}_ece": found.calibration_error,
            }
        return raw

    def columns(self, raw: Raw) -> dict[str, Any]:
        return {name: float(value) for name, value in raw.items()}
