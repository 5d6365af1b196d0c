"""The Hessian metric: eigenvalues, trace and norm against dense float64 matrices, by layer, and as published."""

import dataclasses

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_problems import SquaredError
from helpers import dense_hessian, examples, one, trained
from jax.flatten_util import ravel_pytree

from mdjax.engine.plan import Plan, device_mesh
from mdjax.errors import InputError
from mdjax.landscape.curvature import parameter_groups
from mdjax.linalg.vectors import Vectors
from mdjax.metrics.hessian import Hessian
from mdjax.metrics.published_hessian import PublishedHessian
from mdjax.statuses import Status, StatusCode

NUM_SAMPLES = 64
SLOW = [pytest.param(family, marks=pytest.mark.slow) for family in ("cnn", "resnet10")]


def measured(metric, family="mlp", plan=None, convolution="patches", params=None, data=None):
    architecture, trained_params, state = trained(family)
    params = trained_params if params is None else params
    return helpers.measured(
        metric, architecture.model(convolution), params, state, data or examples(), ["a", "b", "c"], plan=plan
    )


@pytest.mark.parametrize("family", ["mlp", *SLOW])
def test_agrees_with_the_dense_hessian(family):
    # The dense matrix of a ResNet takes long, in proportion to the examples.
    num_samples = 16 if family == "resnet10" else NUM_SAMPLES
    metric = Hessian(num_samples=num_samples, batch_size=num_samples // 2, num_eigenvalues=3, num_smallest=1)
    rows = measured(metric, family)
    for i, row in enumerate(rows[:1] if family == "resnet10" else rows):
        dense = dense_hessian(family, i, num_samples)
        expected = np.linalg.eigvalsh(dense)
        np.testing.assert_allclose(row["hessian_eigenvalues"], expected[:-4:-1], rtol=1e-5)
        assert row["hessian_eigenvalue"] == row["hessian_eigenvalues"][0]
        assert row["hessian_smallest"] == pytest.approx(expected[0], rel=1e-4)
        most = max(-expected[0], 0) / expected[-1]
        assert row["hessian_negative_curvature"] == pytest.approx(most, rel=1e-4)
        # These networks are affine in each array of parameters: no probe has a part in it.
        assert row["hessian_trace"] == pytest.approx(np.trace(dense), rel=1e-5)
        assert row["hessian_trace_se"] == 0
        # 5 standard errors, and float32's rounding of a sum of squares.
        error = 5 * row["hessian_frobenius_se"] + 1e-5 * row["hessian_frobenius"]
        assert row["hessian_frobenius"] == pytest.approx(np.linalg.norm(dense), abs=error)


@pytest.mark.slow
@pytest.mark.parametrize("metric", [Hessian(num_samples=NUM_SAMPLES), PublishedHessian(num_samples=NUM_SAMPLES)])
def test_the_form_of_the_convolution_changes_nothing(metric):
    expected, found = (measured(metric, "cnn", Plan("vmap", 1), convolution) for convolution in ("patches", "lax"))
    for row, wanted in zip(found, expected, strict=True):
        for column in wanted.keys() - {"status"}:
            # A residual is a difference: its rounding is the eigenvalue's.
            atol = 1e-6 * wanted["hessian_eigenvalue"] if "residual" in column else 0
            np.testing.assert_allclose(row[column], wanted[column], rtol=1e-5, atol=atol, err_msg=column)


def test_exact_traces_where_batches_are_split_and_convolutions_are_xlas_own():
    # Batched over examples that lie on several devices, XLA splits such convolutions into others.
    metric = Hessian(num_samples=16, num_eigenvalues=1, min_steps=2, max_steps=2)
    expected, found = (
        measured(metric, "cnn", Plan("map", 1, "lax", mesh), "lax")[0]["hessian_trace"]
        for mesh in (None, device_mesh("1x2"))
    )
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_default_takes_half_the_products_of_a_sampled_trace():
    rows = measured(Hessian(num_samples=NUM_SAMPLES))
    sampled = measured(Hessian(num_samples=NUM_SAMPLES, trace_method="deflated"))
    # A block Krylov run and eight probes, of whichever network, took 28.
    assert all(row["hessian_products"] <= 17 for row in rows)
    assert all(row["hessian_products"] <= 28 for row in sampled)
    assert all(row["hessian_trace_se"] <= 0.0201 * row["hessian_trace"] for row in sampled)


@pytest.mark.parametrize("method", ["deflated", "hutchinson", "hutch++", "xtrace"])
def test_trace_methods_agree_with_the_dense_hessian(method):
    metric = Hessian(num_samples=NUM_SAMPLES, trace_method=method, max_probes=1000, trace_tolerance=0.05)
    dense = dense_hessian("mlp", 0, NUM_SAMPLES)
    row = measured(metric)[0]
    assert row["hessian_trace"] == pytest.approx(np.trace(dense), abs=5 * row["hessian_trace_se"])
    assert row["hessian_trace_se"] <= 0.05 * row["hessian_trace"]
    assert row["hessian_eigenvalue"] == pytest.approx(np.linalg.eigvalsh(dense)[-1], rel=1e-5)


def test_gauss_newton_of_another_loss():
    architecture, params, state = trained("mlp")
    data = dataclasses.replace(examples(), task=SquaredError())
    row = measured(Hessian(num_samples=NUM_SAMPLES, operator="gauss_newton"), data=data)[0]
    flat, unravel = ravel_pytree(one(params))
    inputs = examples().x_train[:NUM_SAMPLES]
    # Σ JᵀJ/n, by one reverse pass for every output.
    jacobian = jax.jacrev(lambda flat: architecture.model().apply(unravel(flat), one(state), inputs).ravel())(flat)
    matrix = 2 * np.asarray(jacobian, np.float64).T @ np.asarray(jacobian, np.float64) / NUM_SAMPLES
    assert row["gauss_newton_eigenvalue"] == pytest.approx(np.linalg.eigvalsh(matrix)[-1], rel=1e-5)
    assert row["gauss_newton_trace"] == pytest.approx(np.trace(matrix), rel=1e-5)
    assert all(name.startswith("gauss_newton_") or name == "status" for name in row)


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ("hidden*/kernel", ("hidden0", "hidden0/kernel", "hidden1", "hidden1/kernel", "linear")),
        ("linear/*, hidden?", ("hidden0", "hidden1", "linear/bias", "linear/kernel")),
    ],
)
def test_layers_are_chosen_by_patterns_of_paths(layers, names):
    _, params, _ = trained("mlp")
    row = measured(Hessian(num_samples=NUM_SAMPLES, by_layer=True, layers=layers))[0]
    groups, dense = parameter_groups(one(params), layers), dense_hessian("mlp", 0, NUM_SAMPLES)
    assert tuple(row["hessian_layers"]) == groups.names and sorted(groups.names) == sorted(names)
    for i in range(len(names)):
        place = np.asarray(groups.indices) == i
        block = dense[np.ix_(place, place)]
        assert row["hessian_layer_trace"][i] == pytest.approx(np.trace(block), rel=1e-5)
        assert row["hessian_layer_eigenvalue"][i] == pytest.approx(np.linalg.eigvalsh(block)[-1], rel=1e-5)


def test_patterns_that_choose_nothing_are_refused():
    with pytest.raises(
        InputError, match="No layer fits the pattern 'blocks/.'; outermost are hidden0, hidden1, linear"
    ):
        measured(Hessian(num_samples=NUM_SAMPLES, by_layer=True, layers="blocks/*"))
    with pytest.raises(InputError, match="layers is 'blocks/.', but by_layer is false. Set hessian.by_layer=true"):
        measured(Hessian(layers="blocks/*"))


def test_by_layer_agrees_with_the_diagonal_blocks():
    _, params, _ = trained("mlp")
    metric = Hessian(num_samples=NUM_SAMPLES, by_layer=True)
    row, whole = measured(metric)[0], measured(Hessian(num_samples=NUM_SAMPLES))[0]
    dense = dense_hessian("mlp", 0, NUM_SAMPLES)
    groups = parameter_groups(one(params))
    assert row["hessian_layers"] == list(groups.names)
    for i in range(len(groups.names)):
        place = np.asarray(groups.indices) == i
        block = dense[np.ix_(place, place)]
        assert row["hessian_layer_trace"][i] == pytest.approx(np.trace(block), rel=1e-5)
        assert row["hessian_layer_trace_se"][i] == 0
        assert row["hessian_layer_eigenvalue"][i] == pytest.approx(np.linalg.eigvalsh(block)[-1], rel=1e-5)
    for column, value in whole.items():
        np.testing.assert_allclose(row[column], value, rtol=1e-5, atol=1e-6 * whole["hessian_eigenvalue"])


def test_status_says_what_fell_short():
    short = {"max_steps": 2, "max_probes": 8, "trace_method": "deflated"}
    row = measured(Hessian(num_samples=NUM_SAMPLES, trace_tolerance=1e-3, **short))[0]
    assert row["status"].code is StatusCode.NOT_CONVERGED
    assert "hessian eigenvalue not converged after 2 products" in row["status"].sentence
    assert row["status"].sentence.endswith("% only")
    assert "hessian trace known to" in row["status"].sentence
    assert row["hessian_products"] == 10
    assert np.isfinite(row["hessian_trace"])


@pytest.mark.parametrize(("error", "cancels"), [(0.9, True), (2.0, False)])
def test_status_of_a_trace_that_nearly_cancels(error, cancels):
    """Sampled to 2 % of the norm, as it ends then; the other one ended at the limit of its probes."""
    run = {"projected": np.diag([50.0, -49.0]), "off_diagonal": np.zeros((1, 1)), "dropped": 0.0, "num_steps": 2}
    found = {"trace": 1.0, "trace_se": error, "frobenius": 70.0, "frobenius_se": 0.1, "num_products": 30}
    status = Hessian(trace_method="deflated", trace_tolerance=0.02).columns(run | found)["status"]
    assert status.code is StatusCode.UNCERTAIN
    assert ("positive and negative eigenvalues nearly cancel" in status.sentence) == cancels


@pytest.mark.parametrize("metric", [Hessian(num_samples=NUM_SAMPLES), PublishedHessian(num_samples=NUM_SAMPLES)])
def test_a_broken_model_harms_nobody(metric):
    _, params, _ = trained("mlp")
    broken = jax.tree.map(np.array, params)
    jax.tree.leaves(broken)[0][1] = np.nan
    clean, rows = measured(metric, plan=Plan("vmap", 3)), measured(metric, plan=Plan("vmap", 3), params=broken)
    assert rows[0] == clean[0]
    assert rows[2] == clean[2]
    assert rows[1]["status"] == Status(StatusCode.NOT_FINITE, "hessian is not finite")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trace_method": "hutch"}, "Unknown trace_method 'hutch'. Choose one of auto, deflated"),
        ({"operator": "fisher"}, "Unknown curvature matrix 'fisher'. Choose one of hessian, gauss_newton"),
        ({"num_eigenvalues": 0}, "Cannot find 0 largest and 0 smallest"),
        ({"num_eigenvalues": 60, "num_smallest": 5}, "among 64 Krylov vectors"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Hessian(**settings)


def published(matvec, size, seed):
    keys = jax.random.split(jax.random.key(seed))
    return jax.jit(lambda keys: PublishedHessian().estimate(matvec, Vectors(size), *keys))(keys)


def test_published_estimators_step_by_step():
    dense = dense_hessian("mlp", 0, NUM_SAMPLES)
    matrix = np.asarray(dense, np.float32)
    found = published(lambda vector: matrix @ vector, len(dense), 0)
    start_key, probe_key = jax.random.split(jax.random.key(0))
    vector = np.asarray(jax.random.normal(start_key, (len(dense),)), np.float64)
    vector /= np.linalg.norm(vector) + 1e-6
    value, iterations = None, 0
    for _ in range(100):
        iterations += 1
        product = dense @ vector
        quotient = vector @ product
        vector = product / (np.linalg.norm(product) + 1e-6)
        if value is not None and abs(value - quotient) / (abs(value) + 1e-6) < 1e-3:
            break
        value = quotient
    assert int(found["iterations"]) == iterations
    assert float(found["eigenvalue"]) == pytest.approx(value, rel=1e-4)
    forms, mean = [], 0.0
    for i in range(100):
        probe = np.asarray(jax.random.rademacher(jax.random.fold_in(probe_key, i), (len(dense),)), np.float64)
        forms.append(probe @ dense @ probe)
        if abs(np.mean(forms) - mean) / (mean + 1e-6) < 1e-3:
            break
        mean = np.mean(forms)
    assert int(found["probes"]) == len(forms)
    assert float(found["trace"]) == pytest.approx(np.mean(forms), rel=1e-4)
    error = np.sqrt(float(found["squares"]) / (len(forms) * (len(forms) - 1)))
    assert error == pytest.approx(np.std(forms, ddof=1) / len(forms) ** 0.5, rel=1e-3)


def test_published_oddities_a_negative_matrix():
    found = published(lambda vector: -jnp.arange(1.0, 101) * vector, 100, 0)
    # The largest |λ| keeps its sign; a negative mean ends the trace at its second probe.
    assert float(found["eigenvalue"]) == pytest.approx(-100, rel=0.05)
    assert int(found["probes"]) == 2
