"""Connectivity of aligned models: the second is the network it was, or the row has no number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from broadcasting_networks import BROADCASTING, excited, rbf, rbf_swapped
from helpers import measured
from permutable_networks import randomised, shapes, softmax

from mdjax.landscape import alignment
from mdjax.landscape.curves import CurveSettings
from mdjax.landscape.symmetries import AxisGroups, Specification
from mdjax.metrics import Examples
from mdjax.metrics.connectivity import LinearConnectivity, ModeConnectivity
from mdjax.models import FunctionModel
from mdjax.statuses import StatusCode

METRICS = [LinearConnectivity(num_points=3), ModeConnectivity(CurveSettings(num_steps=2), num_points=3)]


def rows(metric, function, weights):
    """The rows of two pairs of random models on random images, and the models' own losses."""
    models = [randomised(shapes(weights), seed) for seed in range(4)]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    generator = np.random.default_rng(0)
    inputs = jnp.asarray(generator.normal(size=(60, 8, 8, 1)), jnp.float32)
    labels = jnp.asarray(generator.integers(10, size=60))
    data = Examples(inputs, labels, jnp.asarray(60), inputs[:5], labels[:5])
    found = measured(metric, FunctionModel(function), params, {}, data, list("abcd"))
    scores = [jax.nn.log_softmax(function(model, {}, inputs)) for model in models]
    return found, [-float(score[np.arange(60), labels].mean()) for score in scores]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
@pytest.mark.parametrize("function", [rbf, rbf_swapped, excited], ids=lambda function: function.__name__)
def test_the_end_of_an_aligned_curve_is_the_second_model(metric, function):
    weights = next(weights for known, weights, _ in BROADCASTING if known is function)
    prefix = "linear" if metric.name.startswith("linear") else "curve"
    aligned, own = rows(type(metric)(**{**vars(metric), "align": True}), function, weights)
    for row, ends in zip(aligned, (own[:2], own[2:]), strict=True):
        assert "status" not in row
        np.testing.assert_allclose(np.array(row[f"{prefix}_loss"])[[0, -1]], ends, rtol=1e-5)
        assert row[f"{prefix}_end_loss_gap"] < 1e-5
    plain, _ = rows(metric, function, weights)
    assert plain[0][f"{prefix}_loss"] != aligned[0][f"{prefix}_loss"]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_an_alignment_that_changes_the_network_gives_no_number(metric, monkeypatch):
    wrong = Specification((6,), (AxisGroups((64, 6), (None, 0)), AxisGroups((6, 10), (None, None))))
    monkeypatch.setattr(alignment, "specification", lambda *_: wrong)
    # Its own settings, so that no program compiled with the right specification is taken.
    changed = {"num_points": 5, "align": True}
    found, _ = rows(type(metric)(**{**vars(metric), **changed}), softmax, {"in": (64, 6), "out": (6, 10)})
    for row in found:
        assert row["status"].code is StatusCode.ALIGNMENT_FAILED
        assert "alignment would change the network: logits move by" in row["status"].sentence
        points = row.pop("linear_t" if metric.name.startswith("linear") else "curve_t")
        assert len(points) == 5
        numbers = [value for name, value in row.items() if name != "status"]
        assert len(numbers) == 6
        assert np.isnan(np.concatenate([np.ravel(value) for value in numbers])).all()


def test_without_align_nothing_of_it_is_traced(monkeypatch):
    monkeypatch.delattr(alignment, "specification")
    found, _ = rows(LinearConnectivity(num_points=7), softmax, {"in": (64, 6), "out": (6, 10)})
    assert np.isfinite(found[0]["linear_loss_barrier"])
