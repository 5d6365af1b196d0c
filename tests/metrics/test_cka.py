"""CKA of trained models against float64, and the inputs it is taken on."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers import digits, examples, forms, measured, one, trained
from references import outputs64, published_cka, unbiased_cka

from mdjax import engine
from mdjax.errors import InputError
from mdjax.metrics import CKA, Examples
from mdjax.metrics.cka import PublishedCKA
from mdjax.models import FunctionModel
from mdjax.statuses import StatusCode

PAIRS = [(0, 1), (1, 2), (1, 0)]
METRICS = {
    "softmax": CKA(num_batches=2, batch_size=24),
    "gram": CKA(num_batches=1, batch_size=24, layer="conv1"),
    "published": PublishedCKA(num_batches=2, batch_size=24),
}


def measure(metric, model, params, state, pairs=PAIRS, **options):
    return measured(metric, model, params, state, examples(), members=pairs, **options)


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
    rows = measured(metric, architecture.model(), params, state, examples(), members=PAIRS)
    inputs = metric.inputs(examples(), engine.metric_key(0, metric.name)).inputs.reshape(-1, *digits().input_shape)
    features = [outputs64(family, index, inputs, layer) for index in range(3)]
    num_examples, num_features = features[0].shape
    assert (num_features > num_examples) == wide
    for row, pair in zip(rows, PAIRS, strict=True):
        x, y = (features[index] - features[index].mean(0) for index in pair)
        assert row["CKA"] == pytest.approx(published_cka(x @ x.T, y @ y.T), rel=1e-5)
        assert row["CKA_debiased"] == pytest.approx(unbiased_cka(x @ x.T, y @ y.T), rel=1e-5, abs=1e-6)
    assert rows[0] == rows[2]  # the same pair, the other way round


@pytest.mark.parametrize(
    ("name", "family"),
    [
        *itertools.product(("softmax", "published"), ("mlp", "cnn")),
        ("gram", "cnn"),
        pytest.param("gram", "resnet10", marks=pytest.mark.slow),
    ],
)
def test_a_pair_in_company_is_as_similar_as_alone(name, family):
    architecture, params, state = trained(family)
    stacked = measure(METRICS[name], architecture.model("patches"), params, state, plan=forms()["vmap"])
    pair = jax.tree.map(lambda leaf: leaf[1:], (params, state))
    alone = measure(METRICS[name], architecture.model("patches"), *pair, [(0, 1)], ids=("b", "c"))
    assert alone[0].keys() == stacked[1].keys()
    for column in alone[0]:
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
        assert row["status"].code is StatusCode.UNDEFINED
        assert row["status"].sentence == "CKA is undefined: a model answers the same to every input"


def test_a_broken_model_is_like_nobody():
    architecture, params, state = trained("mlp")
    broken = jax.tree.map(np.array, params)
    broken["linear"]["kernel"][:2] = np.nan
    for metric in (CKA(1, 16), PublishedCKA(1, 16)):
        for row in measure(metric, architecture.model(), broken, state):
            assert all(np.isnan(value) for value in row.values() if isinstance(value, float))


@pytest.mark.parametrize("mixup", [1, 16])
def test_cka_inputs_are_mixtures_of_the_models_own_examples(mixup):
    """One-hot inputs show which examples were mixed, and by how much."""
    size, num_batches, batch_size = 40, 200, 12
    data = Examples(jnp.eye(size), jnp.zeros(size, int), jnp.asarray(30), jnp.eye(size), jnp.zeros(size, int))
    inputs = np.asarray(CKA(num_batches, batch_size, mixup).inputs(data, jax.random.key(0)).inputs)
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
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
