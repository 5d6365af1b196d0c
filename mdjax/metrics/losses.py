"""Train and test loss, error and calibration."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mdjax.columns import UNIT_OF_LOSS, Feature
from mdjax.errors import InputError
from mdjax.landscape import losses
from mdjax.metrics.contract import Examples, ModelMetric, PyTree, Raw
from mdjax.models import Model
from mdjax.models.mixed import Precision, check_precision, in_precision
from mdjax.tasks import Classification


@dataclasses.dataclass(frozen=True)
class Losses(ModelMetric):
    """Train and test loss, error and, of classes, expected calibration error (percent), with stored statistics.

    What loss and error are is the data's task: of classes nats and the share that is wrong, of a regression the mean
    square and the share of the targets' variance that is left unexplained, 1 − R² (`mdjax.tasks`). `num_bins` equal
    bins of confidence make the calibration error (`losses.evaluate_calibration`). Beside them stands what tells whether
    there is anything to learn from them: error (`chance_error`) and loss (`chance_loss`) of the best constant guess on
    the training targets, and of classes whether the test data are of the same kind (`label_columns`).
    Of examples that were drawn from more (`num_examples` of `mdjax.measure`) each has a standard error, `train_loss_se`
    and so on (`losses.spread`).
    `num_examples` "all" goes through everything that a sample was drawn from, in pieces that are read ahead; of other
    tasks than classes the guess stays that of the sample.
    `precision` "bf16" computes the network in bfloat16 (`mdjax.models.mixed`).
    Cost: one forward pass over all data, two over a sample, and (classes)² numbers twice.
    """

    name: ClassVar[str] = "losses"
    description: ClassVar[str] = "training and test loss, error and calibration error"
    features: ClassVar[tuple[Feature, ...]] = (
        Feature("train_loss", "Training loss", UNIT_OF_LOSS, own_error="train_loss_se", log_colours=True),
        Feature("test_loss", "Test loss", UNIT_OF_LOSS, own_error="test_loss_se", log_colours=True),
        Feature("train_error", "Training error", "%", own_error="train_error_se"),
        Feature("test_error", "Test error", "%", own_error="test_error_se"),
        Feature("chance_error", "Error of a constant guess", "%", drawn=False),
        Feature("chance_loss", "Loss of a constant guess", UNIT_OF_LOSS, drawn=False),
        Feature("relabelling_gain", "Test error that renumbered classes would spare", "points", drawn=False),
        Feature("prediction_shift", "Shift of the predicted classes from training to test data", "points", drawn=False),
    )
    by_default: ClassVar[bool] = True

    num_bins: int = 15
    num_examples: str = "sample"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.num_examples not in ("sample", "all"):
            raise InputError(f"num_examples is {self.num_examples!r}. Give 'sample' or 'all'.")
        if self.num_bins < 1:
            raise InputError(f"num_bins is {self.num_bins}. Give at least one bin.")
        check_precision(self.precision)

    def derived(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """Accuracies in percent, and the points by which training exceeds test accuracy."""
        splits = [split for split in ("train", "test") if f"{split}_error" in features]
        accuracies = {f"{split}_acc": 100 - features[f"{split}_error"] for split in splits}
        if len(accuracies) < 2:
            return accuracies
        return accuracies | {"generalization_gap": accuracies["train_acc"] - accuracies["test_acc"]}

    def measure(self, model: Model, params: PyTree, state: PyTree, data: Examples, key: jax.Array) -> Raw:
        model = in_precision(model, self.precision)
        raw: dict[str, Any] = {}
        if data.is_sample and self.num_examples == "sample":
            for split, examples in data.splits.items():
                found = losses.spread(model, params, state, examples)
                raw |= {f"{split}_loss_se": found.loss_se, f"{split}_error_se": found.error_se}
        if not isinstance(data.task, Classification):
            return raw | {**self._of_task(model, params, state, data)}
        for split, examples in data.splits.items():
            found = losses.evaluate_calibration(model, params, state, examples, num_bins=self.num_bins)
            raw |= {
                f"{split}_loss": found.loss,
                f"{split}_error": found.error,
                f"{split}_ece": found.calibration_error,
                f"{split}_confusion": found.confusion,
            }
        if type(data.task).loss is not Classification.loss:
            raw["own_loss"] = jnp.ones(())
        return raw

    def _of_task(self, model: Model, params: PyTree, state: PyTree, data: Examples) -> Raw:
        raw = {}
        for split, examples in data.splits.items():
            raw[f"{split}_loss"], raw[f"{split}_error"] = losses.evaluate(model, params, state, examples)
        counted = (jnp.arange(data.train.capacity) < data.num_train).astype(jnp.float32)
        guess = data.task.constant_guess(data.y_train, counted)
        return raw | {"chance_error": 100 * guess.error, "chance_loss": guess.loss}

    def over(self, sample: Mapping[str, Any], sums: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """A row over all the data: that over the sample, with what the sums of `LossSums` over each split say."""
        row = dict(sample)
        for split, total in sums.items():
            weight = float(total["weight"])
            row[f"{split}_loss"] = float(total["loss"]) / weight
            row[f"{split}_error"] = 100 * float(total["wrong"]) / weight
            if "excess" in total:
                row[f"{split}_ece"] = 100 * float(np.abs(total["excess"]).sum()) / weight
        confusions = [total["confusion"] for total in sums.values() if "confusion" in total]
        if not confusions:
            return row
        told = label_columns(*confusions)
        return row | {name: value for name, value in told.items() if name in sample}

    def columns(self, raw: Raw) -> dict[str, Any]:
        if "train_confusion" not in raw:
            numbers = {name: float(value) for name, value in raw.items()}
            # A task of one's own need not know what a guess gets.
            return {name: value for name, value in numbers.items() if "chance" not in name or np.isfinite(value)}
        given = [raw.get(f"{split}_confusion") for split in ("train", "test")]
        confusions = [np.asarray(matrix, float) for matrix in given if matrix is not None]
        own = ("_confusion", "own_loss")
        numbers = {name: float(value) for name, value in raw.items() if not name.endswith(own)}
        told = label_columns(*confusions)
        if "own_loss" in raw:
            del told["chance_loss"]  # it is the cross-entropy's
        return numbers | told


@dataclasses.dataclass(frozen=True)
class LossSums(ModelMetric):
    """What `Losses` makes its columns of, summed over a part of the data, which stands where training data do.

    Part of a table only through `Losses.over`.
    """

    name: ClassVar[str] = "losses"
    description: ClassVar[str] = "sums of losses over a part of the data"

    num_bins: int = 15
    precision: Precision = "float32"

    def measure(self, model: Model, params: PyTree, state: PyTree, data: Examples, key: jax.Array) -> Raw:
        model, examples = in_precision(model, self.precision), data.train
        if isinstance(data.task, Classification):
            found = losses.class_sums(model, params, state, examples, num_bins=self.num_bins)._asdict()
        else:
            found = dict(zip(("loss", "wrong"), losses.loss_sums(model, params, state, examples), strict=True))
        return found | {"weight": jnp.asarray(examples.total_weight, jnp.float32)}

    def columns(self, raw: Raw) -> dict[str, Any]:
        return {name: np.asarray(value, np.float64) for name, value in raw.items()}


def label_columns(train: np.ndarray, test: np.ndarray | None = None) -> dict[str, float]:
    """What the confusion matrices [labels, predictions] of training and test data say of the data.

    Without test data only the first two.

    chance_error: percent, and chance_loss, nats: of the constant guess at the training labels' frequencies.
    relabelling_gain: points by which the best renumbering of the classes lowers the test error, less the points by
        which it lowers the training error. Zero, but for noise, unless the labels of the test data mean others.
    prediction_shift: half the sum of |differences| between the frequencies of the predicted classes on test and
        training data, points, less what samples of these sizes from one distribution are expected to have.
    """
    frequencies = train.sum(axis=1) / train.sum()
    present = frequencies[frequencies > 0]
    chance = {
        "chance_error": float(100 * (1 - frequencies.max())),
        "chance_loss": float(-(present * np.log(present)).sum()),
    }
    if test is None:
        return chance
    predicted = [matrix.sum(axis=0) / matrix.sum() for matrix in (train, test)]
    pooled = (train + test).sum(axis=0) / (train + test).sum()
    # The mean of |x| of a normal x with standard deviation s is s √(2/π).
    spread = np.sqrt(pooled * (1 - pooled) * (1 / train.sum() + 1 / test.sum()))
    shift = (np.abs(predicted[0] - predicted[1]) - spread * np.sqrt(2 / np.pi)).sum() / 2
    return chance | {
        "relabelling_gain": _relabelling_gain(test) - _relabelling_gain(train),
        "prediction_shift": float(100 * shift),
    }


def _relabelling_gain(confusion: np.ndarray) -> float:
    """The points by which the best one-to-one renumbering of the classes raises the accuracy."""
    from scipy.optimize import linear_sum_assignment  # a third of a second, for one column of one metric

    best = confusion[linear_sum_assignment(confusion, maximize=True)].sum()
    return float(100 * (best - np.trace(confusion)) / confusion.sum())
