"""CKA against Gram matrices as the papers write them, the inputs it is taken on, and the other similarities."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers import digits, examples, forms, one, trained

from mdjax import engine
from mdjax.errors import InputError
from mdjax.landscape import similarity
from mdjax.metrics import CKA, Examples
from mdjax.metrics.cka import PublishedCKA
from mdjax.metrics.similarity import Similarity
from mdjax.models import FunctionModel

FAMILIES = ["mlp", "cnn", pytest.param("resnet10", marks=pytest.mark.slow)]
PAIRS = [(0, 1), (1, 2), (1, 0)]
NAMES = ["a|b", "b|c", "b|a"]


def published_cka(gram, other):
    """⟨HKH, HLH⟩ / ‖HKH‖‖HLH‖."""
    center = np.eye(len(gram)) - 1 / len(gram)
    k, l = center @ gram @ center, center @ other @ center  # noqa: E741
    return (k * l).sum() / np.linalg.norm(k) / np.linalg.norm(l)


def unbiased_cka(gram, other):
    """Song et al., eq. 5, from Gram matrices without their diagonals."""
    n, ones = len(gram), np.ones(len(gram))

    def hsic(k, l):  # noqa: E741
        k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
        return (
            np.trace(k @ l)
            + (ones @ k @ ones) * (ones @ l @ ones) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * (ones @ k @ l @ ones)
        )

    return hsic(gram, other) / np.sqrt(hsic(gram, gram) * hsic(other, other))


def related_features(n, d, e, offset):
    random = np.random.default_rng(n)
    x = random.normal(size=(n, d))
    y = np.maximum(x @ random.normal(size=(d, e)), 0) + random.normal(size=(n, e))
    return x + offset, y - offset


@pytest.mark.parametrize(("n", "d", "e"), [(60, 3, 5), (60, 50, 1), (12, 40, 30), (5, 2, 2)])
@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_every_form_of_cka_agrees_with_the_definitions(n, d, e, offset):
    x, y = related_features(n, d, e, offset)
    # The definitions lose digits to an offset, which changes no value.
    centred_x, centred_y = x - x.mean(0), y - y.mean(0)
    grams = centred_x @ centred_x.T, centred_y @ centred_y.T
    expected = published_cka(*grams), unbiased_cka(*grams)
    stream = similarity.StreamedCKA()
    for start in range(0, n, 7):
        stream.add(x[start : start + 7], y[start : start + 7])
    found = similarity.linear_cka(x, y), similarity.gram_cka(x @ x.T, y @ y.T), stream.value()
    for form in found:
        assert form == pytest.approx(expected, abs=1e-9)
    assert similarity.linear_cka(y, x) == found[0]
    assert similarity.gram_cka(y @ y.T, x @ x.T) == found[1]
    assert similarity.linear_cka(x, x) == pytest.approx((1, 1))


def test_only_the_debiased_cka_of_unrelated_wide_features_is_near_zero():
    random = np.random.default_rng(0)
    values = [similarity.linear_cka(*random.normal(size=(2, 50, 500))) for _ in range(20)]
    biased, debiased = np.mean(values, 0)
    assert biased > 0.8
    assert abs(debiased) < 0.02


def test_cka_without_an_answer_is_nan():
    features = np.arange(10.0).reshape(5, 2)
    assert np.isnan(similarity.linear_cka(np.full((5, 3), 0.1), features)).all()
    assert np.isnan(similarity.StreamedCKA().value()).all()
    assert np.isnan(similarity.linear_cka(features[:3], features[:3]).debiased)
    for form in (similarity.linear_cka, similarity.StreamedCKA().add):
        with pytest.raises(InputError, match="The features are of 5 and of 4 examples"):
            form(features, features[:4])


def test_agreement_divergence_and_cosine_agree_with_their_formulas():
    logits = np.array([[2.0, 0, 0], [0, 3, 0], [0, 0, 700]])
    other = np.array([[1.0, 2, 0], [0, 1, 0], [0, 0, -700]])
    assert similarity.agreement(logits, other) == pytest.approx(100 / 3)
    terms = []
    for row, counterpart in zip(logits, other, strict=True):
        p, q = (np.exp(values - values.max()) / np.exp(values - values.max()).sum() for values in (row, counterpart))
        m = np.maximum((p + q) / 2, 1e-7)
        terms += [sum(0.5 * a * np.log(a / b) for a, b in zip(side, m, strict=True) if a > 0) for side in (p, q)]
    assert similarity.jensen_shannon(logits, other) == pytest.approx(sum(terms) / 3, rel=1e-12)
    assert similarity.jensen_shannon(logits, logits) == pytest.approx(0, abs=1e-15)
    # Where models are sure of different classes, the divergence is as large as it gets.
    assert similarity.jensen_shannon(logits[2:], logits[2:, ::-1]) == pytest.approx(np.log(2))
    assert similarity.cosine(logits, other) == pytest.approx((2 + 3 - 700**2) / np.sqrt((13 + 700**2) * (6 + 700**2)))
    assert np.isnan(similarity.cosine(logits, 0 * logits))


def test_parameter_distances_add_up():
    _, params, _ = trained("cnn")
    distance = similarity.parameter_distance(one(params, 0), one(params, 1))
    assert distance.layers == tuple(params)
    for name, value in zip(distance.layers, distance.by_layer, strict=True):
        differences = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(params[name])]
        assert value == pytest.approx(
            np.linalg.norm(np.concatenate([(leaf[0] - leaf[1]).ravel() for leaf in differences]))
        )
    assert distance.total == pytest.approx(np.linalg.norm(distance.by_layer))


def outputs64(family, index, inputs, layer):
    """A trained model's layer in float64, flattened per example."""
    architecture, params, state = trained(family)
    with jax.enable_x64(True):
        weights = jax.tree.map(lambda leaf: jnp.asarray(leaf[index], jnp.float64), (params, state))
        inputs = jnp.asarray(inputs, jnp.float64)
        if layer in ("softmax", "logits"):
            logits = architecture.model("lax").apply(*weights, inputs)
            return np.asarray(jax.nn.softmax(logits) if layer == "softmax" else logits)
        _, variables = architecture.model("lax").module.apply(
            dict(zip(("params", "batch_stats"), weights)), inputs, capture_intermediates=True, mutable=["intermediates"]
        )
        return np.asarray(variables["intermediates"][layer]["__call__"][0]).reshape(len(inputs), -1)


@pytest.mark.parametrize(
    ("family", "layer", "wide"),
    [
        ("mlp", "softmax", False),
        ("mlp", "hidden0", False),
        ("cnn", "logits", False),
        ("cnn", "conv1", True),
        pytest.param("resnet10", "softmax", False, marks=pytest.mark.slow),
        pytest.param("resnet10", "layer1_0", True, marks=pytest.mark.slow),
    ],
)
def test_cka_of_a_layer_agrees_with_float64(family, layer, wide):
    architecture, params, state = trained(family)
    metric = CKA(num_batches=2, batch_size=24 if wide else 40, layer=layer)
    rows = engine.compare_models(metric, architecture.model(), params, state, PAIRS, examples())
    inputs = metric.inputs(examples(), engine.metric_key(0, metric.name)).reshape(-1, *digits().input_shape)
    features = [outputs64(family, index, inputs, layer) for index in range(3)]
    num_examples, num_features = features[0].shape
    assert (num_features > num_examples) == wide
    for row, pair in zip(rows, PAIRS, strict=True):
        x, y = (features[place] - features[place].mean(0) for place in pair)
        assert row["CKA"] == pytest.approx(published_cka(x @ x.T, y @ y.T), rel=1e-5)
        assert row["CKA_debiased"] == pytest.approx(unbiased_cka(x @ x.T, y @ y.T), rel=1e-5, abs=1e-6)
    assert rows[0] == rows[2]  # the same pair, the other way round


@pytest.mark.parametrize("family", FAMILIES)
def test_similarity_agrees_with_float64(family):
    architecture, params, state = trained(family)
    rows = engine.compare_models(Similarity(100, 40), architecture.model(), params, state, PAIRS, examples())
    logits = [outputs64(family, index, digits().x_train[:100], "logits") for index in range(3)]
    for row, (i, j) in zip(rows, PAIRS, strict=True):
        assert row["agreement"] == pytest.approx(100 * (logits[i].argmax(1) == logits[j].argmax(1)).mean())
        assert row["js_divergence"] == pytest.approx(similarity.jensen_shannon(logits[i], logits[j]), rel=1e-5)
        cosine = logits[i].ravel() @ logits[j].ravel() / np.linalg.norm(logits[i]) / np.linalg.norm(logits[j])
        assert row["logit_cosine"] == pytest.approx(cosine, rel=1e-5)
        flat = [np.concatenate([np.ravel(leaf[k]) for leaf in jax.tree.leaves(params)]) for k in (i, j)]
        assert row["l2_distance"] == pytest.approx(np.linalg.norm(flat[0].astype(np.float64) - flat[1]), rel=1e-10)
        assert row["l2_layers"] == list(params)
    assert rows[0] == rows[2]


def test_similarity_uses_only_a_models_own_examples():
    architecture, params, state = trained("mlp")
    few = engine.compare_models(Similarity(1000), architecture.model(), params, state, PAIRS, examples(60))
    same = engine.compare_models(Similarity(60), architecture.model(), params, state, PAIRS, examples())
    for row, expected in zip(few, same, strict=True):
        assert row["js_divergence"] == pytest.approx(expected["js_divergence"], rel=1e-6)


METRICS = {
    "softmax": CKA(num_batches=2, batch_size=24),
    "gram": CKA(num_batches=1, batch_size=24, layer="conv1"),
    "published": PublishedCKA(num_batches=2, batch_size=24),
    "similarity": Similarity(100, 40),
}


def measure(metric, model, params, state, pairs=PAIRS, names=NAMES, **options):
    if metric.scope == "features":
        return engine.compare_models(metric, model, params, state, pairs, examples(), **options)
    return engine.measure_pairs(metric, model, params, state, pairs, examples(), names, **options)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        *itertools.product(("softmax", "published", "similarity"), ("mlp", "cnn")),
        ("gram", "cnn"),
        pytest.param("gram", "resnet10", marks=pytest.mark.slow),
    ],
)
def test_a_pair_in_company_is_as_similar_as_alone(name, family):
    architecture, params, state = trained(family)
    stacked = measure(METRICS[name], architecture.model("patches"), params, state, plan=forms()["vmap"])
    pair = jax.tree.map(lambda leaf: leaf[1:], (params, state))
    alone = measure(METRICS[name], architecture.model("patches"), *pair, [(0, 1)], NAMES[1:2])
    assert alone[0].keys() == stacked[1].keys()
    for column in alone[0].keys() - {"l2_layers"}:
        np.testing.assert_allclose(stacked[1][column], alone[0][column], rtol=1e-5, err_msg=column)


def test_published_cka_draws_new_inputs_for_each_ordered_pair():
    architecture, params, state = trained("cnn")
    metric = PublishedCKA()
    rows = measure(metric, architecture.model(), params, state)
    assert rows[0]["CKA"] != rows[2]["CKA"]
    assert rows[0]["CKA"] == pytest.approx(rows[2]["CKA"], abs=0.05)
    assert metric.pairs == "ordered"
    data = examples()
    raw = metric.measure(
        architecture.model(), (one(params), one(state)), (one(params, 1), one(state, 1)), data, jax.random.key(0)
    )
    assert raw["first"].shape == (6 * 128, 10)
    np.testing.assert_allclose(np.sum(raw["second"], 1), 1, rtol=1e-5)


@pytest.mark.parametrize("metric", [CKA(1, 8), CKA(1, 8, layer="conv1"), PublishedCKA(1, 8)], ids=str)
def test_a_model_of_one_answer_has_no_cka(metric):
    architecture, params, state = trained("cnn")
    dead = jax.tree.map(np.array, params)
    for layer in dead.values():
        layer["kernel"][1] = 0
    rows = measure(metric, architecture.model(), dead, state)
    for row in rows:
        assert np.isnan(row["CKA"])
        assert row["status"] == "CKA is undefined: a model answers the same to every input"


def test_a_broken_model_agrees_with_nobody():
    architecture, params, state = trained("mlp")
    broken = jax.tree.map(np.array, params)
    broken["linear"]["kernel"][:2] = np.nan
    for metric in (Similarity(50), CKA(1, 16), PublishedCKA(1, 16)):
        for row in measure(metric, architecture.model(), broken, state):
            assert all(np.isnan(value) for value in row.values() if isinstance(value, float))


@pytest.mark.parametrize("mixup", [1, 16])
def test_cka_inputs_are_mixtures_of_the_models_own_examples(mixup):
    """One-hot inputs show which examples were mixed, and by how much."""
    size, num_batches, batch_size = 40, 200, 12
    data = Examples(jnp.eye(size), jnp.zeros(size, int), jnp.asarray(30), jnp.eye(size), jnp.zeros(size, int))
    inputs = np.asarray(CKA(num_batches, batch_size, mixup).inputs(data, jax.random.key(0)))
    assert inputs.shape == (num_batches, batch_size, size)
    assert (inputs[:, :, 30:] == 0).all()
    np.testing.assert_allclose(inputs.sum(2), 1, rtol=1e-6)
    # A batch is mixed with itself: every one of its examples comes in by λ and, from another input, by 1 − λ.
    np.testing.assert_allclose(inputs[0].sum(0).round(6) % 1, 0)
    mixed = inputs.max(2) < 1
    assert mixed.mean() > 0.8  # all but the fixed points of the permutation
    shares = np.array([batch[chosen].max(1)[:1] for batch, chosen in zip(inputs, mixed)]).ravel()
    # max(λ, 1 − λ) of λ ~ Beta(a, a), against scipy.
    expected = scipy.stats.beta(mixup, mixup)
    assert scipy.stats.kstest(shares, lambda x: expected.cdf(x) - expected.cdf(1 - x)).pvalue > 0.01


def test_unknown_layers_are_refused():
    architecture, params, state = trained("mlp")
    known = "There is no layer 'hiden0' in this network. Choose one of hidden0, hidden1, linear."
    with pytest.raises(InputError, match=known):
        measure(CKA(1, 8, layer="hiden0"), architecture.model(), params, state)
    model = FunctionModel(architecture.model().apply)
    with pytest.raises(InputError, match="a model without named layers. Set cka.layer to softmax or logits"):
        measure(CKA(1, 8, layer="hidden0"), model, params, state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CKA(num_batches=0), "num_batches is 0. Give a whole number of at least 1."),
        (lambda: PublishedCKA(1, 3), "CKA of 3 examples has no debiased value. Give at least 4."),
        (lambda: CKA(mixup=0), "mixup is 0. Give the parameter of Beta.mixup, mixup., a whole number of at least 1."),
        (lambda: Similarity(num_samples=0), "num_samples is 0. Give a whole number of at least 1."),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
