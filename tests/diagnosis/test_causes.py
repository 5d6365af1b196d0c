"""Causes: how answers become probabilities, and what each cause asks for."""

import numpy as np
from diagnosis_tables import one_row, zoo

from mdjax.diagnosis.causes import CAUSES, CLEAR
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.questions import named
from mdjax.diagnosis.verdicts import diagnose, explain


def test_causes_join_the_answers_as_odds(published_trees):
    table = zoo(seed=4)
    verdicts = diagnose(table, published_trees)
    low, high, width, data = verdicts[[f"p_{cause.key}" for cause in CAUSES]].to_numpy().T
    np.testing.assert_allclose(low + high + width + np.nan_to_num(data), 1)
    proba = {
        name: tree.predict_proba(table)[:, tree.classes_.tolist().index(named(name).classes[0])]
        for name, tree in published_trees.items()
    }
    np.testing.assert_allclose(width / (low + high), proba["width"] / (1 - proba["width"]))
    np.testing.assert_allclose(low / (low + high), proba["optimizer"])
    wide = (table["width"] >= 32).to_numpy()
    np.testing.assert_allclose((data / (low + high))[wide], (proba["data"] / (1 - proba["data"]))[wide])
    assert np.isnan(data[~wide]).all()
    told = verdicts[verdicts["cause"] != "no clear failure"]
    assert (told["probability"] >= CLEAR).all()
    assert (verdicts.loc[verdicts["cause"] == "no clear failure", "probability"] < CLEAR).all()
    for cause in CAUSES:
        chosen = told[told["cause"] == cause.meaning]
        assert len(chosen)
        assert set(chosen["recommendation"]) == {cause.change}
        np.testing.assert_array_equal(chosen["probability"], chosen[f"p_{cause.key}"])


def test_wording_says_what_to_do_about_the_temperature():
    wording = {cause.key: (cause.meaning, cause.change) for cause in CAUSES}
    low, high = wording["temperature_low"], wording["temperature_high"]
    assert low[0] == "temperature too low"
    assert "reduce the batch size or raise the learning rate" in low[1]
    assert high[0] == "temperature too high"
    assert "increase the batch size or lower the learning rate" in high[1]
    assert named("optimizer").meaning["small"] == low[0]


def test_no_clear_failure_when_the_probability_is_thin(published_trees):
    thin = {name: MDTree.from_dict({**tree.to_dict(), "smoothing": 1e9}) for name, tree in published_trees.items()}
    verdict = diagnose(one_row(), thin).iloc[0]
    assert verdict["cause"] == "no clear failure"
    assert verdict["recommendation"] == "no single change stands out"
    assert explain(one_row(), thin).to_text().startswith("Cause: no clear failure\n")


def test_fewer_trees_answer_fewer_questions(published_trees):
    verdicts = diagnose(one_row(), {"optimizer": published_trees["optimizer"]})
    assert verdicts["cause"].tolist() == ["temperature too high"]
    assert np.isnan(verdicts["p_width"]).all()
    assert "width_answer" not in verdicts
    undirected = diagnose(one_row(mode_connectivity_peak=0.0), {"width": published_trees["width"]}).iloc[0]
    assert undirected["width_answer"] == "batch"
    assert undirected["cause"] == "unknown"
