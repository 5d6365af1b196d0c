"""Hessian products, the top eigenvalue and the trace against the dense Hessian in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense_hessian, examples, one, trained

from mdjax import engine
from mdjax.metrics import Hessian

FAMILIES = ["mlp", "cnn", pytest.param("resnet18", marks=pytest.mark.slow)]
NUM_SAMPLES = 64


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("max_bytes", [2**40, 0], ids=["linearized", "recomputed"])
def test_hessian_product_agrees_with_the_dense_hessian(family, max_bytes):
    from mdjax.curvature import hessian_matvec
    from mdjax.losses import cross_entropy

    architecture, params, state = trained(family)
    state = one(state)
    data = examples()
    inputs, labels = data.x_train[:NUM_SAMPLES], data.y_train[:NUM_SAMPLES]
    batches = inputs.reshape(2, -1, *inputs.shape[1:]), labels.reshape(2, -1)
    model = architecture.model("patches")

    def loss(params, batch):
        return jnp.sum(cross_entropy(model.apply(params, state, batch[0]), batch[1])) / NUM_SAMPLES

    matvec, size = hessian_matvec(loss, one(params), batches, max_bytes=max_bytes)
    vector = np.random.default_rng(0).normal(size=size)
    expected = dense_hessian(family, 0, NUM_SAMPLES) @ vector
    np.testing.assert_allclose(matvec(jnp.asarray(vector, jnp.float32)), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_eigenvalue_and_trace_agree_with_the_dense_hessian(family):
    architecture, params, state = trained(family)
    metric = Hessian(num_samples=NUM_SAMPLES, batch_size=32)
    model = architecture.model("patches")
    names = [f"m{i}" for i in range(3)]
    rows = engine.measure_models(metric, model, params, state, examples(), names)
    for i, row in enumerate(rows[:1] if family == "resnet18" else rows):
        dense = dense_hessian(family, i, NUM_SAMPLES)
        top = np.linalg.eigvalsh(dense)[-1]
        assert row["hessian_eigenvalue"] == pytest.approx(top, rel=1e-4)
        assert abs(row["hessian_eigenvalue"] - top) <= row["hessian_eigenvalue_residual"] + 1e-4 * top
        assert row["hessian_trace"] == pytest.approx(np.trace(dense), abs=5 * row["hessian_trace_se"])
        reached = row["hessian_trace_se"] <= metric.trace_tolerance * row["hessian_trace"]
        assert reached or row["hessian_products"] > metric.max_probes


def test_hessian_uses_only_a_models_own_examples():
    architecture, params, state = trained("mlp")
    model = architecture.model()
    few = engine.measure_models(Hessian(num_samples=1000), model, params, state, examples(60), ["a", "b", "c"])
    same = engine.measure_models(Hessian(num_samples=60), model, params, state, examples(), ["a", "b", "c"])
    for row, other in zip(few, same, strict=True):
        assert row["hessian_eigenvalue"] == pytest.approx(other["hessian_eigenvalue"], rel=1e-4)
