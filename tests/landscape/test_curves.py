"""Curves between models: their points, training, evaluation, and the barrier definitions."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers import examples, one, trained

from mdjax.engine.programs import measure_pairs
from mdjax.errors import InputError
from mdjax.landscape import curves
from mdjax.landscape.curves import (
    CurveSettings,
    curve_point,
    evaluate_curve,
    random_bends,
    reestimate_statistics,
    straight_bends,
    train_bends,
)
from mdjax.metrics.connectivity import LinearConnectivity, ModeConnectivity, PublishedModeConnectivity
from mdjax.metrics.contract import Examples
from mdjax.models import Architecture, FlaxModel
from mdjax.models.layers import BatchNorm, dense

FAMILIES = ["mlp", "cnn", pytest.param("resnet10", marks=pytest.mark.slow)]


class NormalisedMLP(nn.Module):
    """The smallest network with BatchNorm."""

    @nn.compact
    def __call__(self, inputs, weights=None):
        hidden = nn.relu(BatchNorm(name="norm")(dense(6, inputs, "hidden"), weights))
        return dense(10, hidden, "linear")


def normalised(count: int = 3):
    """(model, stacked params, stacked state) with statistics that are nobody's true ones."""
    model = FlaxModel(NormalisedMLP())
    keys = jax.random.split(jax.random.key(5), count)
    variables = jax.vmap(lambda key: model.module.init(key, jnp.zeros((1, 64))))(keys)
    state = jax.tree.map(lambda leaf: leaf + 0.3, variables["batch_stats"])
    return model, variables["params"], state


def flat_examples(num_train: int, total: int | None = None) -> Examples:
    data = examples(num_train)
    total = total or len(data.x_train)
    flat = data.x_train[:total].reshape(total, -1)
    return data._replace(x_train=flat, y_train=data.y_train[:total])


def pair(family: str):
    """(model, first, second, examples) of a family, or of the network with BatchNorm."""
    if family == "normalised":
        model, params, state = normalised()
        data = flat_examples(200, 300)
    else:
        architecture, params, state = trained(family)
        model, data = architecture.model("patches"), examples(200)
    return model, *(jax.tree.map(jnp.asarray, (one(params, i), one(state, i))) for i in (0, 1)), data


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
            model, "bezier", a, c, b, s, data.x_train, data.y_train, data.num_train, points=points, batch_size=256
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


@pytest.mark.parametrize("family", ["mlp", "cnn"])
def test_the_default_steps_end_lower_than_500_slow_ones(family):
    architecture, params, state = trained(family, 4)
    pairs, names = [(0, 1), (1, 2), (2, 3), (3, 0)], list("abcd")

    def peak(settings):
        arguments = (ModeConnectivity(settings), architecture.model("patches"), params, state, pairs, examples(), names)
        return -np.mean([row["mode_connectivity_peak"] for row in measure_pairs(*arguments)])

    assert peak(CurveSettings()) < peak(CurveSettings(num_steps=500, batch_size=128, learning_rate=0.01))


@pytest.mark.parametrize("kind", ["bezier", "chain"])
@pytest.mark.parametrize("num_bends", [1, 2])
def test_a_trained_curve_is_lower_than_the_straight_line(kind, num_bends):
    model, (start, _), (end, _), data = pair("mlp")
    arrays = (data.x_train, data.y_train, data.num_train)
    settings = CurveSettings(kind=kind, num_bends=num_bends, num_steps=150, learning_rate=0.05)
    points = jnp.linspace(0, 1, 9)

    @jax.jit
    def losses_along():
        bends = train_bends(model, settings, start, end, {}, *arrays, jax.random.key(0))
        return [
            evaluate_curve(model, kind, start, bends, end, {}, *arrays, points=points)[0]
            for kind, bends in ((kind, bends), ("line", straight_bends(start, end, 0)))
        ]

    curve, line = losses_along()
    assert float(curve.max()) < 0.8 * float(line.max())
    assert float(curve[0]) == pytest.approx(float(line[0]), rel=1e-6)


@pytest.mark.parametrize("kind", ["bezier", "chain", "line"])
@pytest.mark.parametrize("num_bends", [1, 2, 3])
def test_curve_ends_are_the_models_and_straight_bends_give_the_line(kind, num_bends):
    start, end = {"w": jnp.arange(3.0)}, {"w": jnp.array([4.0, -1.0, 0.5])}
    bends = straight_bends(start, end, 0 if kind == "line" else num_bends)
    for t in (0.0, 0.3, 0.5, 1.0):
        point = curve_point(kind, jnp.asarray(t), start, bends, end)["w"]
        np.testing.assert_allclose(point, (1 - t) * start["w"] + t * end["w"], atol=1e-6)


def test_points_of_a_curve_by_hand():
    start, end, bends = jnp.asarray([0.0]), jnp.asarray([1.0]), jnp.asarray([[2.0], [4.0]])
    # Bernstein weights of degree 3 at 1/4 are 27, 27, 9, 1 over 64; on a chain 1/4 is three quarters to bend 1.
    assert float(curve_point("bezier", jnp.asarray(0.25), start, bends, end)[0]) == pytest.approx(91 / 64)
    assert float(curve_point("chain", jnp.asarray(0.25), start, bends, end)[0]) == pytest.approx(1.5)


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
    arrays = (data.x_train, data.y_train, data.num_train)
    found = jax.jit(lambda: train_bends(model, settings, start, end, {}, *arrays, key))()
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
    start, end, bends = one(params), one(params, 1), jax.tree.map(lambda leaf: leaf[2][None], params)
    points = jnp.asarray([0.0, 0.2, 0.5, 0.9])

    def statistics(points):
        return reestimate_statistics(
            model, kind, start, bends, end, one(state), data.x_train, data.num_train, points=points
        )

    together = statistics(points)
    for place, t in enumerate(points):
        point = curve_point(kind, t, start, bends, end)
        parts = [data.x_train[i : min(i + 128, 300)] for i in (0, 128, 256)]
        found = [model.batch_apply(point, {}, part, jnp.ones(len(part)))[1] for part in parts]
        expected = jax.tree.map(lambda *leaves: sum(len(p) / 300 * leaf for p, leaf in zip(parts, leaves)), *found)
        jax.tree.map(
            lambda a, b, c, i=place: (
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
    start, line = one(params), straight_bends(one(params), one(params), 0)
    found = reestimate_statistics(
        model, "line", start, line, start, one(state), data.x_train, data.num_train, points=jnp.zeros(1)
    )
    expected = model.batch_apply(start, one(state), data.x_train[:100], jnp.ones(100))[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=2e-4, atol=2e-4), found, expected)


QUICK = {
    "midpoint": ModeConnectivity(CurveSettings(num_steps=4), num_points=3),
    "two bends": ModeConnectivity(CurveSettings(num_steps=4, num_bends=2), num_points=3),
    "chain": ModeConnectivity(CurveSettings(kind="chain", num_steps=4), num_points=3),
    "published": PublishedModeConnectivity(CurveSettings.published(epoch_factor=1, batch_size=180)),
    "line": LinearConnectivity(num_points=3),
}


@pytest.mark.parametrize("name", QUICK)
def test_forms_of_execution_agree(name):
    model, first, second, data = pair("normalised")
    data = data._replace(num_train=jnp.asarray(200), x_train=data.x_train[:220], y_train=data.y_train[:220])
    stacked = jax.tree.map(lambda a, b: jnp.stack([a, b]), (first, second), (second, first))
    keys = jax.random.split(jax.random.key(3), 2)
    metric = QUICK[name]

    def measure(ends, key):
        return metric.measure(model, *ends, data, key)

    alone = [jax.jit(measure)(jax.tree.map(lambda leaf, i=i: leaf[i], stacked), keys[i]) for i in range(2)]
    batched = jax.jit(jax.vmap(measure))(stacked, keys)
    mapped = jax.jit(lambda ends, keys: jax.lax.map(lambda x: measure(*x), (ends, keys)))(stacked, keys)
    for i in range(2):
        for column, value in alone[i].items():
            for form in (batched, mapped):
                # An example at the boundary between two classes may fall on either side.
                atol = 0.51 if "error" in column else 0.0
                np.testing.assert_allclose(form[column][i], value, rtol=1e-5, atol=atol, err_msg=column)


@pytest.mark.parametrize("family", ["mlp", "normalised"])
@pytest.mark.parametrize("name", ["midpoint", "line"])
def test_ends_of_a_curve_are_checked_against_the_models(name, family):
    model, first, second, data = pair(family)
    raw = jax.jit(lambda key: QUICK[name].measure(model, first, second, data, key))(jax.random.key(0))
    columns = QUICK[name].columns(raw)
    prefix = "linear" if name == "line" else "curve"
    x, labels = np.asarray(data.x_train[:200]), np.asarray(data.y_train[:200])
    own = [100 * np.mean(np.asarray(model.apply(end[0], end[1], x)).argmax(-1) != labels) for end in (first, second)]
    curve = columns[f"{prefix}_error"]
    assert columns[f"{prefix}_end_gap"] == pytest.approx(max(abs(curve[0] - own[0]), abs(curve[-1] - own[1])), abs=1e-4)
    if family == "mlp":
        assert columns[f"{prefix}_end_gap"] == 0.0
        assert columns[f"{prefix}_end_loss_gap"] < 1e-5
    else:
        assert columns[f"{prefix}_end_loss_gap"] > 0.01


def test_linear_barriers_by_hand():
    model, (start, _), (end, _), data = pair("mlp")
    metric = LinearConnectivity(num_points=5)
    columns = metric.columns(jax.jit(lambda: metric.measure(model, (start, {}), (end, {}), data, jax.random.key(0)))())
    x, labels = np.asarray(data.x_train[:200], np.float64).reshape(200, -1), np.asarray(data.y_train[:200])
    losses, errors = [], []
    points = np.linspace(0, 1, 5)
    for t in points:
        w = jax.tree.map(lambda a, b, t=t: (1 - t) * np.asarray(a, np.float64) + t * np.asarray(b), start, end)
        hidden = x
        for layer in ("hidden0", "hidden1"):
            hidden = np.maximum(0, hidden @ w[layer]["kernel"] + w[layer]["bias"])
        logits = hidden @ w["linear"]["kernel"] + w["linear"]["bias"]
        scores = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        losses.append(-scores[np.arange(200), labels].mean())
        errors.append(100 * np.mean(logits.argmax(1) != labels))
    for name, values, tolerance in (("loss_barrier", losses, 1e-5), ("barrier", errors, 0.51)):
        chord = [(1 - t) * values[0] + t * values[-1] for t in points]
        expected = max(value - level for value, level in zip(values, chord))
        assert expected > 0
        assert columns[f"linear_{name}"] == pytest.approx(expected, abs=tolerance)
    np.testing.assert_allclose(columns["linear_loss"], losses, rtol=1e-5)


def raw_curve(error) -> dict[str, np.ndarray]:
    error = np.asarray(error, np.float64)
    ends = error[[0, -1]]
    points = np.linspace(0, 1, len(error))
    return {"t": points, "loss": error / 10, "error": error, "end_loss": ends / 10, "end_error": ends}


@pytest.mark.parametrize(
    ("error", "inner", "published", "peak"),
    [
        ([1, 3, 9, 2, 3], 2 - 9, 2 - 9, -9),
        ([8, 4, 1, 4, 8], 7, 7, -4),
        # The published argmax may land on an end.
        ([0, 5, 6, 5, 10], -1, 5, -6),
        ([0, 0, 0, 0, 0], 0, 0, 0),
    ],
)
def test_connectivity_definitions(error, inner, published, peak):
    for metric, expected in ((ModeConnectivity(), inner), (PublishedModeConnectivity(), published)):
        columns = metric.columns(raw_curve(error))
        assert columns["mode_connectivity"] == pytest.approx(expected)
        assert columns["mode_connectivity_peak"] == pytest.approx(peak)
        assert columns["curve_error"] == error
        assert "status" not in columns
        if peak == 0:
            assert np.copysign(1, columns["mode_connectivity_peak"]) == 1


@pytest.mark.parametrize("metric", [ModeConnectivity(), PublishedModeConnectivity(), LinearConnectivity()])
def test_a_curve_without_numbers_says_so(metric):
    broken = metric.columns(raw_curve([1, np.nan, 1, 1, 1]))
    assert broken["status"] == "curve diverged"
    results = [name for name in broken if name.endswith(("connectivity", "peak", "barrier"))]
    assert len(results) == 2
    assert all(math.isnan(broken[name]) for name in results)


@pytest.mark.parametrize("name", ["midpoint", "published", "line"])
def test_a_model_of_nan_weights_harms_nobody(name):
    model, first, second, data = pair("normalised")
    data = data._replace(x_train=data.x_train[:220], y_train=data.y_train[:220])
    metric = QUICK[name]
    broken = (jax.tree.map(lambda leaf: leaf * jnp.nan, first[0]), first[1])
    stacked = jax.tree.map(lambda a, b: jnp.stack([a, b]), (broken, second), (first, second))
    keys = jnp.stack([jax.random.key(0)] * 2)
    run = jax.jit(jax.vmap(lambda ends, key: metric.measure(model, *ends, data, key)))
    raw = run(stacked, keys)
    bad, good = (metric.columns({name: value[i] for name, value in raw.items()}) for i in range(2))
    assert bad["status"] == "a model at the curve's end has no finite loss"
    assert "status" not in good
    # Beside a healthy one the same numbers come out.
    healthy = run(jax.tree.map(lambda leaf: jnp.stack([leaf[1]] * 2), stacked), keys)
    np.testing.assert_array_equal(healthy["loss"][1], raw["loss"][1])


@pytest.mark.parametrize(
    "settings",
    [{"kind": "circle"}, {"start": "end"}, {"recipe": "none"}, {"num_bends": 0}, {"batch_size": 0}, {"num_steps": -1}],
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        CurveSettings(**settings)


@pytest.mark.parametrize("metric", [ModeConnectivity, PublishedModeConnectivity, LinearConnectivity])
def test_a_curve_without_inner_points_is_refused(metric):
    with pytest.raises(InputError, match="num_points is 2"):
        metric(num_points=2)


def test_alignment_undoes_a_permutation():
    """A model and itself with its units renamed: a barrier on the line, and none after alignment."""
    model, first, _, data = pair("mlp")
    order = np.random.default_rng(0).permutation(4)
    renamed = {name: dict(layer) for name, layer in first[0].items()}
    renamed["hidden0"] = jax.tree.map(lambda leaf: leaf[..., order], first[0]["hidden0"])
    renamed["hidden1"]["kernel"] = first[0]["hidden1"]["kernel"][order]

    def barrier(align):
        metric = LinearConnectivity(num_points=3, align=align)
        raw = jax.jit(lambda: metric.measure(model, first, (renamed, {}), data, jax.random.key(0)))()
        return metric.columns(raw)["linear_loss_barrier"]

    assert barrier(False) > 0.05
    assert barrier(True) == pytest.approx(0, abs=1e-5)
