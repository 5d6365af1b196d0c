"""Each metric against an independent reference in float64, on small trained models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense_hessian, digits, examples, one, trained

from mdjax import engine, trees
from mdjax.curves import CurveSettings, curve_point, evaluate_curve, reestimate_statistics, train_bends
from mdjax.errors import InputError
from mdjax.metrics import CKA, METRICS, PRESETS, Hessian, Losses, ModeConnectivity, select

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
    rows = engine.measure_models(metric, model, params, state, examples(), names, batching="loop")
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


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_train", [37, 700, None])
def test_losses_agree_with_float64(family, num_train):
    architecture, params, state = trained(family)
    row = engine.measure_models(Losses(), architecture.model(), params, state, examples(num_train), ["a", "b", "c"])[1]
    count = num_train or len(digits().x_train)
    with jax.enable_x64(True):
        weights = jax.tree.map(lambda leaf: jnp.asarray(leaf[1], jnp.float64), (params, state))
        for split, inputs, labels in (
            ("train", digits().x_train[:count], digits().y_train[:count]),
            ("test", digits().x_test, digits().y_test),
        ):
            logits = np.asarray(architecture.model().apply(*weights, jnp.asarray(inputs, jnp.float64)))
            scores = logits - np.log(np.exp(logits).sum(1, keepdims=True))
            assert row[f"{split}_loss"] == pytest.approx(-scores[np.arange(len(labels)), labels].mean(), rel=1e-5)
            assert row[f"{split}_error"] == pytest.approx(100 * (logits.argmax(1) != labels).mean(), abs=1e-3)


def test_cka_agrees_with_the_gram_form():
    architecture, params, state = trained("cnn")
    metric = CKA(num_batches=3, batch_size=64)
    features = engine.measure_features(metric, architecture.model(), params, state, examples())
    x, y = (np.asarray(features[i], np.float64) for i in (0, 1))
    assert x.shape == (192, 10)
    center = np.eye(len(x)) - 1 / len(x)
    gram_x, gram_y = center @ x @ x.T @ center, center @ y @ y.T @ center
    expected = (gram_x * gram_y).sum() / np.linalg.norm(gram_x) / np.linalg.norm(gram_y)
    assert metric.compare(features[0], features[1])["CKA"] == pytest.approx(expected, abs=1e-10)
    assert metric.compare(features[0], features[0])["CKA"] == pytest.approx(1)
    with jax.enable_x64(True):
        key = engine.metric_key(0, metric.name)
        inputs = metric.inputs(examples(), key).reshape(-1, 8, 8, 1)
        weights = jax.tree.map(lambda leaf: jnp.asarray(leaf[0], jnp.float64), (params, state))
        exact = jax.nn.softmax(architecture.model().apply(*weights, jnp.asarray(inputs, jnp.float64)))
    assert metric.compare(np.asarray(exact), features[1])["CKA"] == pytest.approx(expected, abs=1e-5)


def test_cka_inputs_are_mixtures_of_the_models_own_examples():
    metric = CKA(num_batches=2, batch_size=32)
    data = examples(20)
    inputs = np.asarray(metric.inputs(data, jax.random.key(0))).reshape(64, -1)
    own = np.asarray(data.x_train[:20]).reshape(20, -1)
    # Each mixed input lies in the span of the 20 examples, and not all are examples themselves.
    residual = inputs - np.linalg.lstsq(own.T, inputs.T, rcond=None)[0].T @ own
    np.testing.assert_allclose(residual, 0, atol=1e-4)
    distances = np.linalg.norm(inputs[:, None] - own[None], axis=-1).min(1)
    assert (distances > 0.1).mean() > 0.5


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
    architecture, params, state = trained("mlp")
    model, data = architecture.model(), examples()
    arrays = (data.x_train, data.y_train, data.num_train)
    settings = CurveSettings(num_steps=300)
    start, end = one(params), one(params, 1)
    points = jnp.linspace(0, 1, 9)

    @jax.jit
    def losses_along(settings_steps):
        bends = train_bends(model, settings, start, end, {}, *arrays, jax.random.key(0))
        straight = jax.tree.map(lambda a, b: ((a + b) / 2)[None], start, end)
        return [
            evaluate_curve(model, "bezier", start, c, end, {}, *arrays, points=points)[0] for c in (bends, straight)
        ]

    curve, line = losses_along(0)
    assert float(curve.max()) < 0.7 * float(line.max())
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


def measure_any(metric, model, params, state, names, **options):
    data = examples(200)
    if metric.scope == "pair":
        return engine.measure_pairs(metric, model, params, state, [(0, 1), (1, 2)], data, ["a|b", "b|c"], **options)
    if metric.scope == "features":
        features = engine.measure_features(metric, model, params, state, data, **options)
        return [metric.compare(features[0], features[1]), metric.compare(features[1], features[2])]
    return engine.measure_models(metric, model, params, state, data, names, **options)


SMALL = {
    "losses": Losses(),
    "hessian": Hessian(num_samples=64, max_steps=20, trace_tolerance=0.1),
    "mode_connectivity": ModeConnectivity(CurveSettings(num_steps=20, batch_size=32), num_points=3),
    "cka": CKA(num_batches=1, batch_size=64),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", SMALL)
def test_company_padding_and_batching_change_nothing(family, name):
    metric = SMALL[name]
    architecture, params, state = trained(family)
    names = ["a", "b", "c"]
    reference = measure_any(metric, architecture.model("patches"), params, state, names, batching="loop")
    forms = {
        "vmap": (architecture.model("patches"), {"batching": "vmap"}),
        "padded": (architecture.model("patches"), {"batching": "vmap", "pad_to": 5}),
        "lax": (architecture.model("lax"), {"batching": "loop"}),
    }
    for form, (model, options) in forms.items():
        rows = measure_any(metric, model, params, state, names, **options)
        for row, expected in zip(rows, reference, strict=True):
            for column, value in expected.items():
                if column in ("status", "hessian_eigenvalue_residual", "hessian_products"):
                    continue
                np.testing.assert_allclose(row[column], value, rtol=1e-5, atol=1e-5, err_msg=f"{form} {column}")


def test_a_broken_model_harms_nobody():
    architecture, params, state = trained("mlp")
    broken = jax.tree.map(np.array, params)
    broken["linear"]["kernel"][1] = np.nan
    for metric in (Losses(), Hessian(num_samples=64)):
        clean = engine.measure_models(metric, architecture.model(), params, state, examples(), ["a", "b", "c"])
        rows = engine.measure_models(metric, architecture.model(), broken, state, examples(), ["a", "b", "c"])
        assert rows[0] == clean[0]
        assert rows[2] == clean[2]
        assert any(np.isnan(value) for value in rows[1].values() if isinstance(value, float))


def test_one_compilation_per_shape():
    architecture, params, state = trained("cnn")
    metric = Losses()
    for count, num_train in ((3, 100), (3, 300), (2, 100)):
        engine.measure_models(
            metric,
            architecture.model(),
            *trees.take((params, state), range(count)),
            examples(num_train),
            ["a", "b", "c"][:count],
            pad_to=7,
        )
        if count == 3 and num_train == 100:
            compiled = engine._run_model._cache_size()
    assert engine._run_model._cache_size() == compiled


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("slow", None), "Unknown preset 'slow'. Choose one of default, fast."),
        (("default", "hesian"), "Unknown metric 'hesian'. Choose from losses, hessian, mode_connectivity, cka."),
    ],
)
def test_unknown_names_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        select(*arguments)


def test_presets_hold_every_metric_once():
    for metrics in PRESETS.values():
        assert [type(metric) for metric in metrics] == list(METRICS)
        assert len({metric.name for metric in metrics}) == len(METRICS)
    assert [metric.name for metric in select("fast", "cka, losses")] == ["losses", "cka"]
