"""Train and test loss and error."""

import dataclasses
from typing import Any, ClassVar

import jax

from mdjax import losses
from mdjax.metrics.contract import Examples, PyTree, Raw
from mdjax.models import Model


@dataclasses.dataclass(frozen=True)
class Losses:
    """Train and test loss (nats) and error (percent). Cost: one forward pass over all data."""

    name: ClassVar[str] = "losses"
    scope: ClassVar[str] = "model"

    def measure(self, model: Model, params: PyTree, state: PyTree, data: Examples, key: jax.Array) -> Raw:
        train_loss, train_error = losses.evaluate(model, params, state, data.x_train, data.y_train, data.num_train)
        test_loss, test_error = losses.evaluate(model, params, state, data.x_test, data.y_test, len(data.x_test))
        return {
            "train_loss": train_loss,
            "train_error": train_error,
            "test_loss": test_loss,
            "test_error": test_error,
        }

    def columns(self, raw: Raw) -> dict[str, Any]:
        return {name: float(value) for name, value in raw.items()}
