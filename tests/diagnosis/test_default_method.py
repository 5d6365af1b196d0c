"""The default method: quantities, beliefs against brute force, single models, shipped trees, and its record."""

import json
import runpy
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import betaln, ndtr

from mdjax.diagnosis.answers import question_answers, tree_answers
from mdjax.diagnosis.beliefs import BeliefSettings, at_most_probability, fit_beliefs, interval
from mdjax.diagnosis.causes import CLEAR
from mdjax.diagnosis.fitting import METHODS
from mdjax.diagnosis.growing import grow
from mdjax.diagnosis.labels import Axes, failure_labels, step_gains
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.protocols import CASES, CURVES, FACTORIES, choices, learning_curve, transfer
from mdjax.diagnosis.quantities import QUANTITIES, quantity, with_errors, with_quantities
from mdjax.diagnosis.questions import QUESTIONS, Split, named, soft_split
from mdjax.diagnosis.trees import load_trees, save_trees
from mdjax.diagnosis.verdicts import diagnose, explain
from mdjax.errors import InputError

RESULTS = Path(__file__).parents[2] / "bench" / "results"


@pytest.fixture(scope="module")
def zoos(published_data) -> dict[str, pd.DataFrame]:
    return {name: pd.read_csv(published_data / f"{name}.csv").assign(zoo=name) for name in ("basic", "noisy")}


def sweep(seed: int = 0) -> pd.DataFrame:
    """A labelled 6 x 4 x 3 sweep in which all features are random but the training errors."""
    rng = np.random.default_rng(seed)
    grid = [(b, w, d) for d in (1, 5, 10) for w in (8, 32, 64, 128) for b in (16, 32, 64, 128, 256, 512)]
    table = pd.DataFrame(grid, columns=["bs", "width", "data"])
    n = len(table)
    table["test_acc"] = 60 + 10 * rng.random(n)
    table["train_error"] = np.where(table["bs"] > 64, 0.0, 20.0) * rng.random(n)
    table["train_loss"] = 10 ** rng.uniform(-4, 0, n)
    table["mode_connectivity_peak"] = -40 * rng.random(n)
    table["hessian_t"], table["hessian_e"] = 4 + 4 * rng.random(n), 2 + 4 * rng.random(n)
    table["configuration"] = [f"c{k}" for k in range(n)]
    return failure_labels(table)


@pytest.fixture(scope="module")
def trees() -> dict[str, MDTree]:
    return {name: grow(sweep(), name) for name in QUESTIONS}


# --- quantities


@pytest.mark.parametrize("name", [*QUANTITIES, "hessian_t"])
def test_scales_keep_the_order_and_have_an_inverse(name):
    this = quantity(name)
    values = this.sign * np.array([0.0, 1e-4, 0.01, 0.3, 5.0, 70.0])[:: this.sign]
    scaled = this.to_scale(values)
    assert (np.diff(scaled) > 0).all()
    np.testing.assert_allclose(this.from_scale(scaled), values, rtol=1e-9, atol=1e-15)
    slope = (this.to_scale(values * (1 + 1e-7)) - this.to_scale(values * (1 - 1e-7))) / 2
    np.testing.assert_allclose(this.error_on_scale(values, np.abs(values) * 1e-7), np.abs(slope), rtol=1e-6)


def test_quantities_and_their_errors():
    columns = {
        "train_error": np.array([2.0, 9.0, np.nan]),
        "mode_connectivity_peak": np.array([-5.0, -4.0, -4.0]),
        "hessian_t": np.array([5.0, 6.0, 7.0]),
        "train_loss": np.array([1e-3, 0.5, 1.0]),
    }
    found = with_quantities(["barrier", "trace_for_loss"], columns)
    np.testing.assert_array_equal(found["barrier"], [3.0, 0.0, np.nan])
    np.testing.assert_allclose(found["trace_for_loss"], [5 - 0.75 * 6.8978, 6 - 0.75 * 0.6931, 7], rtol=1e-4)
    errors = {"train_error": np.full(3, 0.3), "mode_connectivity_peak": np.full(3, 0.4), "hessian_t": np.zeros(3)}
    spread = with_errors(["barrier"], columns, errors)["barrier"]
    np.testing.assert_allclose(spread, [0.5, 0.0, 0.0], atol=1e-12)
    assert quantity("barrier").of_pairs
    assert not quantity("trace_for_loss").of_pairs
    assert quantity("my_column").reads == ("my_column",)


def test_splits_are_soft_sharp_and_wider_with_error_bars():
    split = Split("hessian_t", 6.0, (4, 9), "a", "b", spread=0.5)
    values = np.array([5.0, 6.0, 7.0, np.nan])
    np.testing.assert_allclose(at_most_probability(split, values), [*ndtr([2, 0, -2]), np.nan])
    np.testing.assert_allclose(
        at_most_probability(split, values[:3], np.array([0, 0, 1.2])), [*ndtr([2, 0]), ndtr(-1 / 1.3)]
    )
    np.testing.assert_array_equal(at_most_probability(replace(split, spread=0.0), values), [1, 1, 0, np.nan])
    assert interval(split) == (5.5, 6.5)
    assert interval(replace(split, spread=0.0)) is None


# --- the fit


def test_one_threshold_gets_its_posterior():
    """Against a brute-force posterior: prior times marginal likelihood, by a loop over a grid."""
    rng = np.random.default_rng(0)
    values = rng.uniform(4, 8, 40)
    labels = np.where(values + rng.normal(0, 0.4, 40) <= 5.5, "data", "batch").astype(object)
    settings = BeliefSettings()
    structure = named("data").default_trees[0]
    tree, right = fit_beliefs([structure], {"hessian_t": values}, labels)
    prior = structure[0]
    a, b = settings.weight * settings.reliability, settings.weight * (1 - settings.reliability)
    grid = np.linspace(prior.threshold - 3.5 * prior.spread, prior.threshold + 3.5 * prior.spread, 71)
    log_posterior = []
    for t in grid:
        total = -(((t - prior.threshold) / prior.spread) ** 2) / 2
        for side, label in ((values <= t, "data"), (values > t, "batch")):
            hits, misses = np.sum(labels[side] == label), np.sum(labels[side] != label)
            total += betaln(a + settings.rate * hits, b + settings.rate * misses) - betaln(a, b)
        log_posterior.append(total)
    posterior = np.exp(np.array(log_posterior) - max(log_posterior))
    posterior /= posterior.sum()
    centre = posterior @ grid
    assert tree[0].threshold == pytest.approx(centre)
    spread = np.sqrt(posterior @ (grid - centre) ** 2)
    assert tree[0].spread == pytest.approx(np.hypot(spread, quantity("hessian_t").drift))
    low = ndtr((centre - values) / spread)
    expected = settings.rate * low @ (labels == "data") + settings.weight * settings.reliability
    assert right[0] == pytest.approx(expected / (settings.rate * low.sum() + settings.weight))


def test_few_labels_leave_the_prior_and_many_move_them():
    rng = np.random.default_rng(1)
    structure = named("data").default_trees[0]

    def fitted(count: int) -> Split:
        values = rng.uniform(3, 9, count)
        labels = np.where(values <= 4.5, "data", "batch").astype(object)
        return fit_beliefs([structure], {"hessian_t": values}, labels, BeliefSettings(drift=0.0))[0][0]

    prior = structure[0]
    few, many = fitted(2), fitted(2000)
    assert abs(few.threshold - prior.threshold) < prior.spread / 2
    assert few.spread > 0.8 * prior.spread
    assert many.threshold == pytest.approx(4.5, abs=0.1)
    assert many.spread < 0.1


def test_evidence_is_that_of_all_thresholds_together():
    """One split: the bound on the likelihood is the likelihood itself where the prior is narrow."""
    rng = np.random.default_rng(2)
    values = np.concatenate([rng.uniform(3, 5, 300), rng.uniform(7, 9, 300)])
    labels = np.array(["data"] * 300 + ["batch"] * 300, dtype=object)
    structure = (soft_split("hessian_t", "data", "batch", threshold=6.0, spread=0.4),)
    settings = BeliefSettings(trust=0.0)
    a, b = settings.weight * settings.reliability, settings.weight * (1 - settings.reliability)
    # All thresholds within the prior's reach part the classes alike, so that the prior's average is any one's value.
    alike = 2 * (betaln(a + settings.rate * 300, b) - betaln(a, b))
    reverse = (soft_split("hessian_t", "batch", "data", threshold=6.0, spread=0.4),)
    swapped = 2 * (betaln(a, b + settings.rate * 300) - betaln(a, b))

    def first(odds: float) -> str | int:
        return fit_beliefs([reverse, structure], {"hessian_t": values}, labels, replace(settings, trust=odds))[0][
            0
        ].above

    assert first(alike - swapped + 0.5) == "data"
    assert first(alike - swapped - 0.5) == "batch"


def test_labels_choose_the_structure_and_few_leave_the_first():
    """Networks unlike the published ones: model size shows in the similarity, at losses where the first tree errs."""
    rng = np.random.default_rng(3)
    width = rng.random(300) < 0.5
    rows = pd.DataFrame(
        {
            "train_error": 0.0,
            "train_loss": 1e-5,
            "mode_connectivity_peak": -1e-3,
            "CKA": np.where(width, 0.1, 0.8),
        }
    )
    labels = np.where(width, "width", "batch").astype(object)
    many = MDTree("width", method="default").fit(rows, labels)
    assert "CKA" in many.features
    assert (many.predict(rows) == labels).all()
    one_of_each = [width.argmin(), width.argmax()]
    few = MDTree("width", method="default").fit(rows.iloc[one_of_each], labels[one_of_each])
    assert few.features == ("train_error", "mode_connectivity_peak", "train_loss")
    without = MDTree("width", method="default").fit(rows.drop(columns="CKA"), labels)
    assert without.features == few.features
    with pytest.raises(InputError, match="no column train_loss"):
        MDTree("width", method="default").fit(rows.drop(columns=["CKA", "train_loss"]), labels)
    loaded = MDTree.from_dict(many.to_dict())
    np.testing.assert_array_equal(loaded.predict_proba(rows), many.predict_proba(rows))
    assert loaded.features == many.features


def test_duplicated_rows_move_thresholds_but_not_past_the_classes():
    rows = pd.DataFrame({"hessian_t": [4.0] * 50 + [7.0] * 50})
    tree = MDTree("data", method="default").fit(rows, ["data"] * 50 + ["batch"] * 50)
    assert 4 < tree.thresholds_[0] < 7
    assert tree.predict(rows).tolist() == ["data"] * 50 + ["batch"] * 50
    reached = tree.leaf_shares().max(axis=1)
    assert (reached > 0.9).all()
    assert (reached < 1).all()


def test_answers_are_the_likelier_class(trees):
    fresh = sweep(1)
    for tree in trees.values():
        p = tree.predict_proba(fresh)
        np.testing.assert_allclose(p.sum(axis=1), 1)
        assert tree.predict(fresh).tolist() == tree.classes_[p.argmax(axis=1)].tolist()
        answers = tree_answers(tree, fresh)
        asked = tree.asked_question.asked(fresh)
        assert answers.label[asked].tolist() == tree.predict(fresh[asked]).tolist()
        assert (answers.probability[asked] >= 0.5).all()


def test_structures_may_be_given():
    rows = named("data").rows(sweep())
    tree = MDTree("data", method="default", structure=(soft_split("CKA", "batch", "data"),))
    assert tree.features == ("CKA",)
    with pytest.raises(InputError, match="no column CKA"):
        tree.fit(rows, rows["data_vs_batch"])
    with pytest.raises(InputError, match="structure must be a whole tree of splits, but a leaf is none of data, batch"):
        MDTree("data", structure=(soft_split("CKA", "small", "data"),)).fit(rows, rows["data_vs_batch"])
    with pytest.raises(InputError, match=r"'published' has no tree for single models\. Choose one of default"):
        MDTree(single=True).fit(rows, rows["data_vs_batch"])


# --- one model is enough


def test_the_tree_for_single_models_speaks_where_pairs_are_missing(trees):
    table = sweep(2)
    table.loc[::2, "mode_connectivity_peak"] = np.nan
    verdicts = diagnose(table, trees)
    alone = (np.arange(len(table)) % 2 == 0).tolist()
    for name in ("optimizer", "width"):
        assert (verdicts[f"{name}_tree"] == "single").tolist() == alone
        single = trees[name].single_
        assert single is not None
        told = verdicts.loc[alone, f"{name}_answer"].tolist()
        assert told == single.predict(table[alone]).tolist()
        assert verdicts.loc[[not one for one in alone], f"{name}_answer"].tolist() == (
            trees[name].predict(table[[not one for one in alone]]).tolist()
        )
    assert trees["data"].single_ is None  # it reads no pairs
    assert set(verdicts["status"]) == {"ok"}
    gone = diagnose(table.drop(columns=["mode_connectivity_peak"]), trees)
    pd.testing.assert_frame_equal(gone[alone], verdicts[alone])


def test_a_table_without_pairs_grows_the_tree_for_single_models(trees, tmp_path):
    for table in (sweep().drop(columns="mode_connectivity_peak"), sweep().assign(mode_connectivity_peak=np.nan)):
        tree = grow(table, "optimizer")
        single = trees["optimizer"].single_
        assert tree.single
        assert single is not None
        assert tree.to_dict() == single.to_dict()
    tree.save(tmp_path / "tree.json")
    loaded = MDTree.load(tmp_path / "tree.json")
    assert loaded.single
    assert set(diagnose(sweep(1), {"optimizer": loaded})["optimizer_tree"]) == {"single"}


def test_single_verdicts_say_so_and_what_a_second_seed_would_add(trees):
    row = sweep(3).drop(columns="mode_connectivity_peak").iloc[[30]]
    verdict = explain(row, trees)
    optimizer = verdict.answers[0]
    assert optimizer.tree == "single"
    assert {step.feature for step in optimizer.evidence} <= {"train_error", "trace_for_loss", "eigenvalue_for_loss"}
    assert optimizer.second_seed == "A second seed would add mode_connectivity_peak."
    assert "by the tree for single models" in verdict.to_text()
    assert question_answers(trees["optimizer"], row).main_tree is trees["optimizer"].single_
    assert question_answers(trees["optimizer"], sweep(3)).main_tree is trees["optimizer"]
    whole = explain(sweep(3).iloc[[30]], trees)
    assert [answer.tree for answer in whole.answers] == ["full"] * 3
    assert "second seed" not in whole.to_text()
    shipped = explain(row).answers
    assert "answered right in 90 % of cases instead of 87 %" in str(shipped[0].second_seed)
    assert "answered as well without it, right in 82 % of cases" in str(shipped[1].second_seed)
    json.dumps(verdict.to_dict(), allow_nan=False)


def test_error_bars_of_a_computed_quantity_are_flagged(trees):
    tree = trees["optimizer"]
    assert [split.feature for split in tree.tree_] == ["train_error", "barrier", "eigenvalue_for_loss"]
    row = sweep().iloc[[1]].assign(train_error=20.0, mode_connectivity_peak=-20 - tree.thresholds_[1] - 0.5)
    vague = row.assign(train_error_se=0.3, mode_connectivity_peak_se=0.4)
    assert "barrier within 2 standard errors of its threshold" in diagnose(vague, trees)["flags"].iloc[0]
    assert "barrier within" not in diagnose(row, trees)["flags"].iloc[0]
    step = explain(vague, trees).answers[0].evidence[1]
    assert step.standard_error == pytest.approx(0.5)
    assert step.crossed
    assert step.interval is not None
    assert step.interval[0] < step.threshold < step.interval[1]
    assert "which is believed to lie from" in step.to_text()
    assert "rises above their own training error" in step.to_text()
    assert not explain(row, trees).answers[0].evidence[1].crossed


# --- gains


def test_gains_are_those_of_following_the_answers():
    table = sweep()
    tree = grow(table, "width")
    followed = table[tree.predict(table) == "width"]
    gained = step_gains(table, "width").loc[followed.index]
    assert tree.gains_ == {
        "width": {
            "one": round(gained["one"].mean(), 3),
            "best": round(gained["best"].mean(), 3),
            "rows": len(followed),
        }
    }
    trees = {"width": tree}
    verdicts = diagnose(table, trees)
    told = verdicts["cause"] == "model too small"
    assert told.any()
    assert set(verdicts.loc[told, "gain"]) == {tree.gains_["width"]["one"]}
    assert verdicts.loc[~told, ["gain", "gain_best"]].isna().all(axis=None)
    verdict = explain(table[told.to_numpy()].iloc[[0]], trees)
    assert verdict.gain == {step: tree.gains_["width"][step] for step in ("one", "best")}
    assert "points of test accuracy in one step" in verdict.to_text()
    assert grow(table.drop(columns="bs"), "width").gains_ == {}


# --- files


def test_grown_trees_survive_their_file(trees, tmp_path):
    table = sweep(4)
    table.loc[:9, "mode_connectivity_peak"] = np.nan
    save_trees(trees.values(), tmp_path / "trees.json")
    loaded = load_trees(tmp_path / "trees.json")
    pd.testing.assert_frame_equal(diagnose(table, loaded), diagnose(table, trees))
    assert {name: tree.to_dict() for name, tree in loaded.items()} == {n: t.to_dict() for n, t in trees.items()}
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"Cannot write the trees to .*file.*Choose a file"):
        save_trees(trees.values(), tmp_path / "file" / "trees.json")


def test_shipped_trees_are_those_of_both_published_tables(zoos):
    table = pd.concat(zoos.values(), ignore_index=True)
    shipped = load_trees()
    assert list(shipped) == list(QUESTIONS)
    for name, tree in shipped.items():
        grown = grow(table, name, axes=Axes(within=("zoo",)))
        assert (tree.single_ is None) == (grown.single_ is None)
        for one, other in ((tree, grown), (tree.single_, grown.single_)):
            if one is None or other is None:
                continue
            np.testing.assert_allclose(one.thresholds_, other.thresholds_, rtol=1e-9)
            np.testing.assert_allclose(one.leaf_shares(), other.leaf_shares(), rtol=1e-9)
            np.testing.assert_array_equal(one.leaf_counts_, other.leaf_counts_)
            assert one.gains_ == other.gains_
            assert one.preset_ == "reference"
            assert one.provenance_["method"] == "default"
            assert {"data", "date", "mdjax", "rows", "transfer_accuracy"} <= set(one.provenance_)


def test_large_tables_of_single_models_are_quick():
    table = pd.concat([sweep()] * 1400, ignore_index=True).drop(columns="mode_connectivity_peak")
    table["hessian_t_se"], table["train_loss_se"] = 0.1, 0.01
    start = time.process_time()
    verdicts = diagnose(table)
    assert time.process_time() - start < 5
    assert len(verdicts) > 100_000


# --- what the choice rests on


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


def test_the_demo_compares_methods_on_the_same_rows(trees):
    from mdjax.demo import compare

    asked = sweep(5).assign(CKA=0.5, test_loss=1.0, test_error=10.0)
    asked.loc[:4, "CKA"] = np.nan
    grown = sweep().assign(CKA=0.5, test_loss=1.0, test_error=10.0)
    found = compare(grown, asked, {"data": trees["data"]}).iloc[0]
    rows = named("data").rows(asked)
    assert found["rows"] == len(rows)
    assert found["default method"] == pytest.approx(
        100 * np.mean(trees["data"].predict(rows) == rows["data_vs_batch"].to_numpy())
    )
    with_pairs = {"width": grow(grown.assign(CKA=np.where(grown["width_vs_batch"] == "width", 0.1, 0.9)), "width")}
    assert "CKA" in with_pairs["width"].features
    found = compare(grown, asked, with_pairs).iloc[0]
    assert found["rows"] == named("width").rows(asked)["CKA"].notna().sum()
