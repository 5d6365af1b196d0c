"""Curves between models: their points, training, evaluation, and the barrier definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import examples, one, trained

from mdjax.curves import CurveSettings, curve_point, evaluate_curve, reestimate_statistics, train_bends
from mdjax.metrics import ModeConnectivity

FAMILIES = ["mlp", "cnn", pytest.param("resnet18", marks=pytest.mark.slow)]


@pytest.mark.parametrize("family", FAMILIES)
def test_curve_at_a_fixed_bend_agrees_with_float64(family):
    architecture, params, state = trained(family)
    model = architecture.model("patches")
    count = 300
    data = examples(count)
    bends = jax.tree.map(lambda leaf: leaf[2][None], params)
    points = jnp.linspace(0, 1, 5)
    run = jax.jit(
        lambda a, b, c, s: evaluate_curve(
            model, "bezier", a, c, b, s, data.x_train, data.y_train, data.num_train, points=points, batch_size=128
        )
    )
    loss, error = run(one(params), one(params, 1), bends, one(state))
    with jax.enable_x64(True):
        a, b, c, s = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float64), (one(params), one(params, 1), one(params, 2), one(state))
        )
        x = jnp.asarray(np.asarray(data.x_train[:count]), jnp.float64)
        labels = np.asarray(data.y_train[:count])
        reference = architecture.model("lax")
        for i, t in enumerate(np.linspace(0, 1, 5)):
            point = jax.tree.map(lambda a, b, c: (1 - t) ** 2 * a + 2 * t * (1 - t) * c + t**2 * b, a, b, c)
            statistics = s
            if jax.tree.leaves(s):
                # Batches of 128, 128 and 44 examples, weighted by their size.
                parts = [
                    (
                        len(x[i : i + 128]) / count,
                        reference.batch_apply(point, s, x[i : i + 128], jnp.ones(len(x[i : i + 128])))[1],
                    )
                    for i in range(0, count, 128)
                ]
                statistics = jax.tree.map(
                    lambda *leaves: sum(w * leaf for (w, _), leaf in zip(parts, leaves)), *[p for _, p in parts]
                )
            logits = np.asarray(reference.apply(point, statistics, x))
            scores = logits - np.log(np.exp(logits).sum(1, keepdims=True))
            assert float(loss[i]) == pytest.approx(-scores[np.arange(count), labels].mean(), rel=1e-5)
            assert float(error[i]) == pytest.approx(100 * (logits.argmax(1) != labels).mean(), abs=0.34)


def test_a_trained_curve_is_lower_than_the_straight_line():
    architecture, params, _ = trained("mlp")
    model, data = architecture.model(), examples()
    arrays = (data.x_train, data.y_train, data.num_train)
    settings = CurveSettings(num_steps=300)
    start, end = one(params), one(params, 1)
    points = jnp.linspace(0, 1, 9)

    @jax.jit
    def losses_along():
        bends = train_bends(model, settings, start, end, {}, *arrays, jax.random.key(0))
        straight = jax.tree.map(lambda a, b: ((a + b) / 2)[None], start, end)
        return [
            evaluate_curve(model, "bezier", start, c, end, {}, *arrays, points=points)[0] for c in (bends, straight)
        ]

    curve, line = losses_along()
    assert float(curve.max()) < 0.8 * float(line.max())
    assert float(curve[0]) == pytest.approx(float(line[0]), rel=1e-6)


@pytest.mark.parametrize("kind", ["bezier", "chain"])
@pytest.mark.parametrize("num_bends", [1, 2, 3])
def test_curve_ends_are_the_models_and_straight_bends_give_the_line(kind, num_bends):
    from mdjax.curves import straight_bends

    start, end = {"w": jnp.arange(3.0)}, {"w": jnp.array([4.0, -1.0, 0.5])}
    bends = straight_bends(start, end, num_bends)
    for t in (0.0, 0.3, 0.5, 1.0):
        point = curve_point(kind, jnp.asarray(t), start, bends, end)["w"]
        np.testing.assert_allclose(point, (1 - t) * start["w"] + t * end["w"], atol=1e-6)


def test_reestimated_statistics_of_one_batch_are_that_batchs():
    architecture, params, state = trained("resnet18", 1)
    model, data = architecture.model(), examples(100)
    found = reestimate_statistics(model, one(params), one(state), data.x_train, data.num_train, batch_size=128)
    expected = model.batch_apply(one(params), one(state), data.x_train[:100], jnp.ones(100))[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), found, expected)


def test_connectivity_definitions():
    error = np.array([1.0, 3.0, 9.0, 2.0, 3.0])
    raw = {"curve_t": np.linspace(0, 1, 5), "curve_loss": error / 10, "curve_error": error}
    columns = ModeConnectivity().columns(raw)
    assert columns["mode_connectivity"] == pytest.approx(2 - 9)
    assert columns["mode_connectivity_peak"] == pytest.approx(-9)
    below = ModeConnectivity().columns({**raw, "curve_error": np.array([8.0, 4, 1, 4, 8])})
    assert below["mode_connectivity"] == pytest.approx(7)
    flat = ModeConnectivity().columns({**raw, "curve_error": np.zeros(5)})
    assert np.copysign(1, flat["mode_connectivity_peak"]) == 1
    broken = ModeConnectivity().columns({**raw, "curve_error": np.array([1, np.nan, 1, 1, 1])})
    assert broken["status"] == "curve diverged"
