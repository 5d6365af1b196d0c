"""What tasks of one's own inherit, how targets are read, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import digits, measured, trained

import mdjax
from mdjax.errors import InputError
from mdjax.landscape.batches import LabelledExamples
from mdjax.landscape.losses import mean_loss
from mdjax.metrics import Examples, Hessian, Losses
from mdjax.tasks import CLASSIFICATION, Classification, NextToken, Regression, Task, cross_entropy, task_of
from mdjax.zoo.data import dataset_of
from mdjax.zoo.grids import Grid

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
NUMBERS = (X, X[:, :2], X[:9], X[:9, :2])


@dataclasses.dataclass(frozen=True)
class Focal(Classification):
    """Cross-entropy that counts less where the network is sure."""

    power: float = 1.0

    def loss(self, outputs, targets):
        loss = cross_entropy(outputs, targets)
        return (1 - jnp.exp(-loss)) ** self.power * loss


@dataclasses.dataclass(frozen=True)
class LogCosh(Regression):
    def loss(self, outputs, targets):
        d = outputs - targets
        return jnp.mean(jnp.logaddexp(d, -d) - jnp.log(2.0), axis=1)


def test_what_follows_from_a_loss_is_not_inherited_by_another_loss():
    architecture, params, state = trained("mlp")
    sample = Examples(*map(jnp.asarray, (digits().x_train[:64], digits().y_train[:64], 64)), *NUMBERS[2:], Focal())
    row = measured(Hessian(num_samples=64), architecture.model("patches"), params, state, sample)[0]
    plain = measured(
        Hessian(num_samples=64),
        architecture.model("patches"),
        params,
        state,
        dataclasses.replace(sample, task=CLASSIFICATION),
    )[0]
    assert row["hessian_trace_se"] == 0 and abs(row["hessian_trace"] / plain["hessian_trace"] - 1) > 0.01

    logits = jnp.asarray([0.3, -2.0, 1.0])
    factors = Focal().curvature_factors(logits, jnp.asarray(1))
    expected = jax.hessian(lambda z: Focal().loss(z[None], jnp.asarray([1]))[0])(logits)
    np.testing.assert_allclose(factors.vectors.T @ (factors.weights[:, None] * factors.vectors), expected, atol=1e-6)
    data = dataclasses.replace(sample, x_test=digits().x_test[:20], y_test=digits().y_test[:20])
    found = measured(Losses(), architecture.model(), params, state, data)[0]
    assert "chance_loss" not in found and found["chance_error"] > 80
    assert found["train_ece"] >= 0


def test_a_regression_with_another_loss_keeps_it():
    def apply(params, state, inputs):
        return inputs @ params["w"]

    models = [({"w": jnp.ones((3, 2))}, {})]
    table = mdjax.measure(models, model=apply, data=NUMBERS, task=LogCosh(), metrics="losses", show_progress=False)
    d = (X.astype("f8") @ np.ones((3, 2))) - X[:, :2]
    assert table.models["train_loss"][0] == pytest.approx(np.mean(np.log(np.cosh(d))), rel=1e-5)
    assert (table.models["task"] == "LogCosh").all()


def test_settings_and_code_of_a_task_tell_data_and_rows_apart():
    one, other = (dataset_of(NUMBERS, task=Weighted(value)) for value in (1.0, 2.0))
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint == dataset_of(NUMBERS, task=Weighted(1.0)).fingerprint
    labels = (X, np.arange(40) % 3, X[:9], np.arange(9) % 3)
    assert dataset_of(labels).fingerprint == dataset_of(labels, task="classification").fingerprint
    assert dataset_of(labels).fingerprint != dataset_of(labels, task=Focal()).fingerprint


@dataclasses.dataclass(frozen=True)
class Weighted(Task):
    weight: float

    def loss(self, outputs, targets):
        return self.weight * jnp.sum((outputs - targets) ** 2, -1)


def test_parameters_that_are_one_array():
    w = jnp.ones((3, 2))
    table = mdjax.measure(
        lambda w, x: x @ w, w, NUMBERS[:2], task="regression", metrics="losses,hessian", show_progress=False
    )
    assert table.models["status"][0] == "ok"
    # The Hessian of the mean over examples and two outputs is XᵀX/n for each of them.
    top = np.linalg.eigvalsh(X.T.astype("f8") @ X / len(X))[-1]
    assert table.models["hessian_eigenvalue"][0] == pytest.approx(top, rel=1e-5)


def test_tokens_of_any_type_and_batches_in_which_nothing_counts():
    tokens = np.arange(60, dtype=np.uint16).reshape(12, 5) % 7
    read = dataset_of((tokens, tokens, tokens[:3], tokens[:3]), task="next-token")
    assert read.y_train.dtype == np.int32 and read.y_train.max() == 6
    task, logits = NextToken(), jnp.zeros((2, 3, 4))
    masked = jnp.full((2, 3), -1)
    assert float(mean_loss(task, logits, masked, jnp.ones(2))) == 0
    assert float(mean_loss(task, logits, masked.at[0, 0].set(1), jnp.ones(2))) == pytest.approx(np.log(4))
    first = np.where(np.arange(12)[:, None] == 0, -100, tokens.astype(int))
    alone = dataset_of((tokens, first), task="next-token")  # the first row counts nothing
    assert len(alone.x_test) == 0 and len(alone.y_test) == 0


def test_the_weights_of_a_sample_are_those_of_its_task():
    targets = jnp.asarray([[0, 1, -1], [2, -1, -1], [0, 0, 0]])
    sample = LabelledExamples(jnp.zeros((3, 3)), targets, 2, NextToken())
    assert float(sample.total_weight) == 3
    assert LabelledExamples(jnp.zeros((3, 3)), jnp.zeros(3), 2).total_weight == 2


class Indexed:
    def __init__(self, shape, target):
        self.shape_of_one, self.target = shape, target

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return np.full(self.shape_of_one, index, np.float32), np.full(self.target, index, np.float32)


def test_examples_are_told_from_batches():
    data = dataset_of((Indexed((4, 3), (4,)), Indexed((4, 3), (4,))), layout="features", task="regression")
    assert data.x_train.shape == (12, 4, 3) and data.y_train.shape == (12, 4)
    both = [[(np.zeros((4, 3, 2), np.float32), np.arange(4.0))] * 3] * 2
    with pytest.raises(InputError, match="targets .4.: one example or a batch of 4. Give a data set that is looked up"):
        dataset_of(tuple(both), layout="features", task="regression")


@pytest.mark.parametrize(
    ("data", "task", "message"),
    [
        ((X, {"y": X}, X[:9], {"y": X[:9]}), None, "y_train is a dictionary, but classification takes one array"),
        ((X, X[:, :2], X[:9], X[:9, :1]), "regression", "y_train is float32.n, 2., but y_test is float32.n, 1.. Give"),
        ({"x": X}, "regression", "has no array x_train"),
        ((X, X[:, 0], X[:9], X[:9, 0]), 3, "task is 3. Choose one of classification, regression"),
    ],
)
def test_targets_that_cannot_be_are_told(data, task, message):
    with pytest.raises(InputError, match=message):
        dataset_of(data, task=task)


def test_a_task_is_hashable_and_told_twice_or_refused():
    @dataclasses.dataclass(frozen=True)
    class Loose(Task):
        values: list

        def loss(self, outputs, targets):
            return outputs

    with pytest.raises(InputError, match="cannot be hashed.*Make it a frozen dataclass"):
        task_of(Loose([1.0]))
    data = dataset_of(NUMBERS, task="regression")
    assert dataset_of(data, task="regression") is data
    with pytest.raises(InputError, match="The task multi-label was given for a Dataset of the task regression"):
        dataset_of(data, task="multi-label")


def test_tokens_beyond_the_vocabulary_are_refused():
    tokens = np.arange(60).reshape(12, 5) % 7
    params = {"w": jnp.ones((7, 4))}
    with pytest.raises(InputError, match="tells 4 tokens apart, but the targets of data hold 6. Give data of its voc"):
        mdjax.measure(lambda p, x: p["w"][x], params, (tokens, tokens), task="next-token")


def test_networks_of_a_grid_refuse_dictionaries_in_one_sentence(tmp_path):
    data = ({"x": X}, X[:, :2], {"x": X[:9]}, X[:9, :2])
    message = r"The inputs of data are .x: float32.n, 3.., but the networks of a"
    with pytest.raises(InputError, match=message):
        mdjax.train(Grid(), tmp_path / "zoo", dataset=dataset_of(data, task="regression"), show_progress=False)
    with pytest.raises(InputError, match=r"The inputs of data are .x: float32.n, 3... Calibrate on floats"):
        mdjax.calibrate("mlp-w4", data=data, task="regression", out=tmp_path / "cal", show_progress=False)
    zoo = mdjax.train(Grid(width=(2,), batch_size=(64,), epochs=1, seeds=1), tmp_path / "digits", show_progress=False)
    with pytest.raises(InputError, match=message):
        mdjax.measure(zoo, data=data, task="regression", metrics="losses")


def test_calibration_refuses_what_it_cannot_learn_from(tmp_path):
    given = {"out": tmp_path / "cal", "budget": "1m", "show_progress": False}
    with pytest.raises(InputError, match="The task Weighted says no error. Define error, a fraction"):
        mdjax.calibrate("mlp-w4", data=NUMBERS, task=Weighted(1.0), **given)
    with pytest.raises(InputError, match="data has no test examples, which a calibration learns from"):
        mdjax.calibrate("mlp-w4", data=NUMBERS[:2], task="regression", **given)
