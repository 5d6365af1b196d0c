"""Curves between models: their points, their training, and the evaluation along them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers import examples, one, trained
from model_pairs import flat_examples, normalised, pair

from mdjax.errors import InputError
from mdjax.landscape import curves
from mdjax.landscape.curves import (
    Curve,
    CurveSettings,
    curve_point,
    evaluate_curve,
    random_bends,
    reestimate_statistics,
    straight_bends,
    trained_curve,
)
from mdjax.models import Architecture

FAMILIES = ["mlp", "cnn", pytest.param("resnet10", marks=pytest.mark.slow)]


@pytest.mark.parametrize("family", FAMILIES)
def test_curve_at_a_fixed_bend_agrees_with_float64(family):
    architecture, params, state = trained(family)
    model = architecture.model("patches")
    count = 300
    data = examples(count)
    bends = jax.tree.map(lambda leaf: leaf[2][None], params)
    points = jnp.linspace(0, 1, 5)
    run = jax.jit(
        lambda a, b, c, s: evaluate_curve(model, Curve("bezier", a, c, b), s, data.train, points=points, batch_size=256)
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


@pytest.mark.parametrize("kind", ["bezier", "chain"])
@pytest.mark.parametrize("num_bends", [1, 2])
def test_a_trained_curve_is_lower_than_the_straight_line(kind, num_bends):
    model, (start, _), (end, _), data = pair("mlp")
    settings = CurveSettings(kind=kind, num_bends=num_bends, num_steps=150, learning_rate=0.05)
    points = jnp.linspace(0, 1, 9)

    @jax.jit
    def losses_along():
        curve = trained_curve(model, settings, start, end, {}, data.train, jax.random.key(0))
        line = trained_curve(model, CurveSettings("line"), start, end, {}, data.train, jax.random.key(0))
        return [evaluate_curve(model, each, {}, data.train, points=points)[0] for each in (curve, line)]

    curve, line = losses_along()
    assert float(curve.max()) < 0.8 * float(line.max())
    assert float(curve[0]) == pytest.approx(float(line[0]), rel=1e-6)


@pytest.mark.parametrize("kind", ["bezier", "chain", "line"])
@pytest.mark.parametrize("num_bends", [1, 2, 3])
def test_curve_ends_are_the_models_and_straight_bends_give_the_line(kind, num_bends):
    start, end = {"w": jnp.arange(3.0)}, {"w": jnp.array([4.0, -1.0, 0.5])}
    curve = Curve(kind, start, straight_bends(start, end, 0 if kind == "line" else num_bends), end)
    for t in (0.0, 0.3, 0.5, 1.0):
        point = curve_point(curve, jnp.asarray(t))["w"]
        np.testing.assert_allclose(point, (1 - t) * start["w"] + t * end["w"], atol=1e-6)


def test_points_of_a_curve_by_hand():
    start, end, bends = jnp.asarray([0.0]), jnp.asarray([1.0]), jnp.asarray([[2.0], [4.0]])
    # Bernstein weights of degree 3 at 1/4 are 27, 27, 9, 1 over 64; on a chain 1/4 is three quarters to bend 1.
    assert float(curve_point(Curve("bezier", start, bends, end), jnp.asarray(0.25))[0]) == pytest.approx(91 / 64)
    assert float(curve_point(Curve("chain", start, bends, end), jnp.asarray(0.25))[0]) == pytest.approx(1.5)


def test_a_curve_passes_through_compiled_programs_with_its_kind():
    curve = Curve("chain", jnp.zeros(1), jnp.asarray([[2.0]]), jnp.ones(1))
    assert [leaf.shape for leaf in jax.tree.leaves(curve)] == [(1,), (1, 1), (1,)]
    moved = jax.jit(lambda curve: jax.tree.map(lambda leaf: 2 * leaf, curve))(curve)
    assert (moved.kind, moved.num_bends) == ("chain", 1)
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), curve, moved)
    points = jax.vmap(curve_point, (0, None))(stack, jnp.asarray(0.75))
    np.testing.assert_allclose(points, [[1.5], [3.0]])


FAN_INS = {
    "mlp": {"hidden0": 64, "hidden1": 4, "linear": 4},
    "cnn": {"conv0": 9, "conv1": 18, "conv2": 36, "linear": 8},
    "resnet18": {"conv1": 9, "layer1_0/conv2": 18, "layer3_0/shortcut_conv": 4, "layer4_1/conv2": 144, "linear": 16},
}


@pytest.mark.parametrize("family", FAN_INS)
def test_a_random_start_is_distributed_as_published(family):
    params = Architecture(family, {"mlp": 4}.get(family, 2), (8, 8, 1)).init(jax.random.key(0))[0]
    params = jax.tree.map(np.asarray, params)
    bends = random_bends(params, 40, jax.random.key(1))
    leaves = {"/".join(part.key for part in path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(bends)}
    for layer, fan_in in FAN_INS[family].items():
        for name in ("kernel", "bias"):
            if f"{layer}/{name}" in leaves:
                bound = fan_in**-0.5
                drawn = leaves[f"{layer}/{name}"].ravel()
                assert scipy.stats.kstest(drawn, "uniform", (-bound, 2 * bound)).pvalue > 1e-3
    norms = [name for name in leaves if "bn" in name]
    assert len(norms) == (40 if family == "resnet18" else 0)
    for name in norms:
        if name.endswith("scale"):
            assert scipy.stats.kstest(leaves[name].ravel(), "uniform").pvalue > 1e-4
        else:
            assert not leaves[name].any()
    for name, leaf in leaves.items():
        flat = leaf.reshape(40, -1)
        assert name in norms or len(np.unique(flat)) > 0.99 * flat.size, "entries are drawn independently"


def test_a_random_start_of_hand_written_parameters():
    # Keys sort a bias after its kernel or before it; nodes may be lists, and two layers may share a node.
    params = [{"bias": jnp.zeros(3), "kernel": jnp.zeros((25, 3))}, (jnp.zeros((100, 7)), jnp.zeros(7))]
    (first, second) = random_bends(params, 500, jax.random.key(0))
    assert float(jnp.abs(first["bias"]).max()) == pytest.approx(1 / 5, rel=0.01)
    assert float(jnp.abs(second[1]).max()) == pytest.approx(1 / 10, rel=0.01)
    with pytest.raises(InputError, match=r"temperature.*midpoint"):
        random_bends({"temperature": jnp.ones(1)}, 1, jax.random.key(0))


def test_published_training_agrees_with_a_plain_loop():
    """The draws are the package's; the curve, its loss, the schedule and the optimizer are written out in float64."""
    total, count, size = 350, 300, 128
    data = flat_examples(count, total)
    model, (start, _), (end, _), _ = pair("mlp")
    settings = CurveSettings.published(epoch_factor=1, learning_rate=0.1)
    key = jax.random.key(7)
    found = jax.jit(lambda: trained_curve(model, settings, start, end, {}, data.train, key))().bends
    start_key, key = jax.random.split(key)
    bend = one(random_bends(start, 1, start_key))
    # 10/s = 11.67, and 300 examples are mini-batches of 128, 128 and 44.
    num_epochs, num_batches = 11, 3
    batches = []
    for epoch in range(num_epochs):
        t_key, order_key = jax.random.split(jax.random.fold_in(key, epoch))
        ranks = np.asarray(jax.random.uniform(order_key, (total,)))[:count]
        order = np.argsort(ranks)
        assert sorted(order) == list(range(count))
        for batch in range(num_batches):
            t = float(jax.random.uniform(jax.random.fold_in(t_key, batch)))
            batches.append((epoch + 1, t, order[batch * size : (batch + 1) * size]))
    with jax.enable_x64(True):
        a, b, bend = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (start, end, bend))
        x, labels = np.asarray(data.x_train, np.float64), np.asarray(data.y_train)

        @jax.jit
        def gradient(bend, t, x, labels):
            def loss(bend):
                w = jax.tree.map(lambda a, c, b: (1 - t) ** 2 * a + 2 * t * (1 - t) * c + t**2 * b, a, bend, b)
                hidden = x
                for layer in ("hidden0", "hidden1"):
                    hidden = jnp.maximum(0, hidden @ w[layer]["kernel"] + w[layer]["bias"])
                scores = jax.nn.log_softmax(hidden @ w["linear"]["kernel"] + w["linear"]["bias"])
                penalty = 5e-4 / 2 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(w))
                return penalty - jnp.mean(scores[jnp.arange(len(x)), labels])

            return jax.grad(loss)(bend)

        velocity = jax.tree.map(jnp.zeros_like, bend)
        for epoch, t, index in batches:
            alpha = epoch / num_epochs
            rate = 0.1 if alpha <= 0.5 else 0.1 * (1 - (alpha - 0.5) / 0.4 * 0.99) if alpha <= 0.9 else 0.001
            velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, gradient(bend, t, x[index], labels[index]))
            bend = jax.tree.map(lambda c, v, rate=rate: c - rate * v, bend, velocity)
    begun = one(random_bends(start, 1, start_key))
    moved = max(float(abs(np.asarray(c) - s).max()) for c, s in zip(jax.tree.leaves(bend), jax.tree.leaves(begun)))
    assert moved > 0.1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-4, atol=1e-5), found, bend)


def test_points_of_the_steps_are_spread_evenly():
    first = jax.random.uniform(jax.random.key(2))
    t = np.asarray(jax.vmap(lambda number: curves._spread(first, number))(jnp.arange(100_000)))
    golden = (np.sqrt(5) - 1) / 2
    np.testing.assert_allclose(t[:1000], (float(first) + np.arange(1000) * golden) % 1, atol=1e-6)
    # Any 89 consecutive terms, a Fibonacci number, leave no gap wider than 2/89; independent draws leave 5/89.
    for begin in (0, 500, 99_900):
        window = np.sort(t[begin : begin + 89])
        assert max(np.diff(window).max(), 1 - window[-1] + window[0]) < 2 / 89


@pytest.mark.parametrize("kind", ["bezier", "chain"])
def test_statistics_of_all_points_at_once_are_those_of_each(kind):
    model, params, state = normalised()
    data = flat_examples(300)
    curve = Curve(kind, one(params), jax.tree.map(lambda leaf: leaf[2][None], params), one(params, 1))
    points = jnp.asarray([0.0, 0.2, 0.5, 0.9])

    def statistics(points):
        return reestimate_statistics(model, curve, one(state), data.train, points=points)

    together = statistics(points)
    for index, t in enumerate(points):
        point = curve_point(curve, t)
        parts = [data.x_train[i : min(i + 128, 300)] for i in (0, 128, 256)]
        found = [model.batch_apply(point, {}, part, jnp.ones(len(part)))[1] for part in parts]
        expected = jax.tree.map(lambda *leaves: sum(len(p) / 300 * leaf for p, leaf in zip(parts, leaves)), *found)
        jax.tree.map(
            lambda a, b, c, i=index: (
                np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6),
                np.testing.assert_allclose(c[0], b, rtol=1e-5, atol=1e-6),
            ),
            together,
            expected,
            statistics(t[None]),
        )


@pytest.mark.slow
def test_reestimated_statistics_of_one_batch_are_that_batchs():
    architecture, params, state = trained("resnet10", 1)
    model, data = architecture.model(), examples(100)
    start = one(params)
    line = Curve("line", start, straight_bends(start, start, 0), start)
    found = reestimate_statistics(model, line, one(state), data.train, points=jnp.zeros(1))
    expected = model.batch_apply(start, one(state), data.x_train[:100], jnp.ones(100))[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=2e-4, atol=2e-4), found, expected)


@pytest.mark.parametrize(
    "settings",
    [{"kind": "circle"}, {"start": "end"}, {"recipe": "none"}, {"num_bends": 0}, {"batch_size": 0}, {"num_steps": -1}],
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        CurveSettings(**settings)
