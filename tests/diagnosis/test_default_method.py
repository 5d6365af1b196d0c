"""The default method is the one that the recorded search chose, and its recorded figures come out again."""

import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnosis_tables import sweep

from mdjax.diagnosis.beliefs import BeliefSettings
from mdjax.diagnosis.causes import CLEAR
from mdjax.diagnosis.fitting import METHODS
from mdjax.diagnosis.growing import grow
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.protocols import CASES, CURVES, FACTORIES, choices, learning_curve, transfer
from mdjax.diagnosis.questions import QUESTIONS, named
from mdjax.diagnosis.sweep_trees import compare

RESULTS = Path(__file__).parents[2] / "bench" / "results"


@pytest.fixture(scope="module")
def search() -> Iterator[dict[str, Any]]:
    """The names of the script that chose the method; what it registers is taken back."""
    methods = dict(METHODS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RESULTS.parent))  # its candidates lie beside it
        yield runpy.run_path(str(RESULTS.parent / "default_method.py"))
    METHODS.clear()
    METHODS.update(methods)


def test_the_shipped_method_is_the_one_that_was_chosen(search):
    record = json.loads((RESULTS / "default_method.json").read_text())
    for key, structures in (("structures", search["STRUCTURES"]), ("single", search["SINGLE"])):
        for name, question in QUESTIONS.items():
            found = record[key][name]
            assert found["chosen"] == search["chosen"](found["candidates"])
            assert found["fallback"]["chosen"] == search["fallback"](found["fallback"]["candidates"])
            chosen = dict.fromkeys((found["chosen"], found["fallback"]["chosen"]))
            trees = tuple(tuple(search["split"](*one) for one in structures[name][choice]) for choice in chosen)
            assert trees == (question.default_trees if key == "structures" else question.single_trees)
    assert record["settings"]["chosen"] == "as shipped"
    settings = record["settings"]["candidates"]["as shipped"]["values"]
    assert BeliefSettings(**{name: value for name, value in settings.items() if name != "prior spreads"}) == (
        BeliefSettings()
    )
    calibrated = record["calibration"]["candidates"][record["calibration"]["chosen"]]["values"]
    assert calibrated == {"reliability": BeliefSettings().reliability, "drift": BeliefSettings().drift}
    assert record["calibration"]["drifts"]["chosen"] == "as shipped"
    assert record["clear"]["chosen"] == CLEAR


@pytest.fixture(scope="module")
def figures() -> dict:
    return json.loads((RESULTS / "published_tables.json").read_text())


@pytest.mark.parametrize("method", ["md_tree", "default", "md_tree_single"])
def test_recorded_cases_come_out_again(zoos, figures, method):
    for way, (train, test) in {"cases": ("basic", "noisy"), "reverse": ("noisy", "basic")}.items():
        cases = figures["cases"] if way == "cases" else figures["reverse"]["cases"]
        errors = figures["calibration"] if way == "cases" else figures["reverse"]["calibration"]
        for case in CASES:
            found = transfer(method, case.question, zoos[train], zoos[test], case.choice)
            assert found.mean == pytest.approx(cases[case.name][method], abs=0.05)
            assert found.calibration_errors.mean() == pytest.approx(errors[case.name][method], abs=0.002)


def test_recorded_curves_come_out_again(zoos, figures):
    for question, mode, sizes in CURVES:
        curve = learning_curve("default", question, zoos["basic"], zoos["noisy"], choices(mode, sizes))
        np.testing.assert_allclose(curve["accuracy"], figures["curves"][f"{question} {mode}"]["default"], atol=0.05)


def test_every_method_of_the_package_is_in_the_record(figures):
    assert set(figures["cases"]["1"]) == set(FACTORIES)


def test_a_recorded_candidate_comes_out_again(zoos, search):
    record = json.loads((RESULTS / "default_method.json").read_text())
    scorer = search["Scorer"](zoos["basic"].drop(columns="zoo"))
    structure = named("data").default_trees[0]
    score = scorer.score("data", lambda: MDTree("data", method="default", structure=structure))
    recorded = record["structures"]["data"]["candidates"]["sharpness"]
    for kind in ("plain", "scale", "shifted"):
        assert score[f"{kind}_accuracy"] == pytest.approx(recorded[f"{kind}_accuracy"], abs=0.05)
        assert score[f"{kind}_log_loss"] == pytest.approx(recorded[f"{kind}_log_loss"], abs=0.002)


def test_methods_are_compared_on_the_same_rows(default_trees):
    asked = sweep(5).assign(CKA=0.5, test_loss=1.0, test_error=10.0)
    asked.loc[:4, "CKA"] = np.nan
    grown = sweep().assign(CKA=0.5, test_loss=1.0, test_error=10.0)
    found = compare(grown, asked, {"data": default_trees["data"]}).iloc[0]
    rows = named("data").rows(asked)
    assert found["rows"] == len(rows)
    assert found["default method"] == pytest.approx(
        100 * np.mean(default_trees["data"].predict(rows) == rows["data_vs_batch"].to_numpy())
    )
    with_pairs = {"width": grow(grown.assign(CKA=np.where(grown["width_vs_batch"] == "width", 0.1, 0.9)), "width")}
    assert "CKA" in with_pairs["width"].features
    found = compare(grown, asked, with_pairs).iloc[0]
    assert found["rows"] == named("width").rows(asked)["CKA"].notna().sum()
