"""Networks without a second derivative somewhere: the status of their curvature names the cause."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import measured

from mdjax.metrics import Density, Examples, Hessian, PublishedHessian, Surface
from mdjax.models import FunctionModel
from mdjax.statuses import StatusCode


def hidden(params, inputs):
    # Zero for nearly every example.
    return jax.nn.relu(inputs @ params["in"] - 4)


def normalised(params, _, inputs):
    units = hidden(params, inputs)
    return (units / jnp.maximum(jnp.linalg.norm(units, axis=1, keepdims=True), 1e-12)) @ params["out"]


def norm(params, _, inputs):
    return (hidden(params, inputs) + jnp.linalg.norm(inputs @ params["in"] * 0, axis=1)[:, None]) @ params["out"]


def rooted(params, _, inputs):
    return jnp.sqrt(hidden(params, inputs)) @ params["out"]


def distances(params, _, inputs):
    units = inputs @ params["in"]
    return units @ params["out"] + jnp.sqrt(jnp.sum((units[:, :, None] - units[:, None]) ** 2, 0)).sum()


def smooth(params, _, inputs):
    return hidden(params, inputs) ** 2.5 @ params["out"]


METRICS = [Hessian(max_steps=6), PublishedHessian(), Density(num_runs=2, num_steps=3), Surface(num_points=3)]


def row(metric, function, scale=1.0):
    generator = np.random.default_rng(0)
    params = {
        "in": jnp.asarray(generator.normal(size=(1, 5, 6)), jnp.float32),
        "out": jnp.asarray(scale * generator.normal(size=(1, 6, 3)), jnp.float32),
    }
    inputs, labels = jnp.asarray(generator.normal(size=(64, 5)), jnp.float32), jnp.arange(64) % 3
    data = Examples(inputs, labels, jnp.asarray(64), inputs[:5], labels[:5])
    return measured(metric, FunctionModel(function), params, {}, data, ["a"])[0]


@pytest.mark.parametrize(
    ("function", "derivative"),
    # Behind a ReLU that is off the first derivative is not asked for.
    [
        (normalised, "second derivative"),
        (norm, "derivative"),
        (rooted, "second derivative"),
        (distances, "derivative"),
    ],
)
def test_the_hessians_status_names_the_cause(function, derivative):
    status = row(METRICS[0], function)["status"]
    assert status.code is StatusCode.NOT_FINITE
    assert status.sentence == (
        f"hessian is not finite although the loss is: the network has a function without a {derivative} there "
        "(a norm of a zero vector, sqrt or log at 0)"
    )


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: type(metric).__name__)
def test_every_metric_of_curvature_names_the_cause(metric):
    status = row(metric, rooted)["status"]
    assert status.code is StatusCode.NOT_FINITE
    name = "surface_curvature" if metric.name == "surface" else "hessian"
    assert status.sentence.startswith(
        f"{name} is not finite although the loss is: the network has a function without a"
    )
    assert "without a second derivative there" in status.sentence


def test_a_network_whose_loss_is_not_finite_has_another_cause():
    status = row(METRICS[0], smooth, scale=np.inf)["status"]
    assert status == (StatusCode.NOT_FINITE, "hessian is not finite")


def test_a_second_derivative_that_is_there_needs_no_word():
    assert "not finite" not in str(row(METRICS[0], smooth).get("status"))
