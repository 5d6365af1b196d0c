"""How similarly trained models answer, against float64."""

import jax
import numpy as np
import pytest
from helpers import digits, examples, forms, measured, trained
from references import outputs64

from mdjax.errors import InputError
from mdjax.landscape import similarity
from mdjax.metrics.similarity import Similarity

FAMILIES = ["mlp", "cnn", pytest.param("resnet10", marks=pytest.mark.slow)]
PAIRS = [(0, 1), (1, 2), (1, 0)]


@pytest.mark.parametrize("family", FAMILIES)
def test_similarity_agrees_with_float64(family):
    architecture, params, state = trained(family)
    rows = measured(Similarity(100, 40), architecture.model(), params, state, examples(), members=PAIRS)
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
    few = measured(Similarity(1000), architecture.model(), params, state, examples(60), members=PAIRS)
    same = measured(Similarity(60), architecture.model(), params, state, examples(), members=PAIRS)
    for row, expected in zip(few, same, strict=True):
        assert row["js_divergence"] == pytest.approx(expected["js_divergence"], rel=1e-6)


@pytest.mark.parametrize("family", ["mlp", "cnn"])
def test_a_pair_in_company_is_as_similar_as_alone(family):
    architecture, params, state = trained(family)
    model, metric = architecture.model("patches"), Similarity(100, 40)
    stacked = measured(metric, model, params, state, examples(), members=PAIRS, plan=forms()["vmap"])
    pair = jax.tree.map(lambda leaf: leaf[1:], (params, state))
    alone = measured(metric, model, *pair, examples(), members=[(0, 1)])
    assert alone[0].keys() == stacked[1].keys()
    for column in alone[0].keys() - {"l2_layers"}:
        np.testing.assert_allclose(stacked[1][column], alone[0][column], rtol=1e-5, err_msg=column)


def test_a_broken_model_agrees_with_nobody():
    architecture, params, state = trained("mlp")
    broken = jax.tree.map(np.array, params)
    broken["linear"]["kernel"][:2] = np.nan
    for row in measured(Similarity(50), architecture.model(), broken, state, examples(), members=PAIRS):
        assert all(np.isnan(value) for value in row.values() if isinstance(value, float))


def test_wrong_settings_are_refused():
    with pytest.raises(InputError, match="num_samples is 0. Give a whole number of at least 1."):
        Similarity(num_samples=0)
