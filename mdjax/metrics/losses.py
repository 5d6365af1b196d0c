"""Train and test loss, error and calibration."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax

from mdjax.columns import Feature
from mdjax.errors import InputError
from mdjax.landscape import losses
from mdjax.metrics.contract import Examples, ModelMetric, PyTree, Raw
from mdjax.models import Model


@dataclasses.dataclass(frozen=True)
class Losses(ModelMetric):
    """Train and test loss (nats), error and expected calibration error (percent), with stored statistics.

    `num_bins` equal bins of confidence make the calibration error (`losses.evaluate_calibration`).
    Cost: one forward pass over all data.
    """

    name: ClassVar[str] = "losses"
    description: ClassVar[str] = "training and test loss, error and calibration error"
    features: ClassVar[tuple[Feature, ...]] = (
        Feature("train_loss", "Training loss", "nats", log_colours=True),
        Feature("test_loss", "Test loss", "nats", log_colours=True),
        Feature("train_error", "Training error", "%"),
        Feature("test_error", "Test error", "%"),
    )
    by_default: ClassVar[bool] = True

    num_bins: int = 15

    def __post_init__(self) -> None:
        if self.num_bins < 1:
            raise InputError(f"num_bins is {self.num_bins}. Give at least one bin.")

    def derived(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """Accuracies in percent, and the points by which training exceeds test accuracy."""
        accuracies = {f"{split}_acc": 100 - features[f"{split}_error"] for split in ("train", "test")}
        return accuracies | {"generalization_gap": accuracies["train_acc"] - accuracies["test_acc"]}

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
