"""CKA against Gram matrices as the papers write them, and the other similarities against their formulas."""

import jax
import numpy as np
import pytest
from helpers import one, trained
from references import published_cka, unbiased_cka

from mdjax.errors import InputError
from mdjax.landscape import similarity


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
    found = similarity.linear_cka(x, y), similarity.gram_cka(x @ x.T, y @ y.T)
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
    assert np.isnan(similarity.linear_cka(features[:3], features[:3]).debiased)
    with pytest.raises(InputError, match="The features are of 5 and of 4 examples"):
        similarity.linear_cka(features, features[:4])


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
