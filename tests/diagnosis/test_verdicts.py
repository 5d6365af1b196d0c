"""Verdicts: frames and explanations of whole, broken and many rows."""

import json
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from diagnosis_tables import one_row, sweep, zoo

from mdjax.diagnosis.answers import question_answers
from mdjax.diagnosis.quantities import PAIR_FEATURES
from mdjax.diagnosis.verdicts import Diagnosis, diagnose, explain
from mdjax.metrics import METRICS


def test_every_row_gets_a_verdict_that_agrees_with_the_trees(published_trees):
    table = zoo(seed=3).sample(frac=1, random_state=0)
    verdicts = diagnose(table, published_trees)
    assert verdicts.index.equals(table.index)
    assert verdicts["configuration"].tolist() == table["configuration"].tolist()
    assert set(verdicts["status"]) == {"ok"}
    assert verdicts["optimizer_answer"].tolist() == published_trees["optimizer"].predict(table).tolist()
    wide = table["width"] >= 32
    assert verdicts.loc[wide, "data_answer"].tolist() == published_trees["data"].predict(table[wide]).tolist()
    assert verdicts.loc[~wide, "data_answer"].isna().all()
    assert set(verdicts.loc[~wide, "data_status"]) == {"not asked: width below 32"}
    proba = published_trees["width"].predict_proba(table)[:, published_trees["width"].classes_.tolist().index("width")]
    answered = np.where(verdicts["width_answer"] == "width", proba, 1 - proba)
    np.testing.assert_allclose(verdicts["width_probability"], answered)


def test_a_broken_row_is_unknown_and_harms_nobody(published_trees):
    table = pd.concat([one_row(), one_row(), one_row()], ignore_index=True)
    table.loc[1, ["train_error", "mode_connectivity_peak", "hessian_t"]] = [np.nan, np.inf, np.nan]
    table["status"] = ["ok", "weights are NaN", "curve diverged"]
    verdicts = diagnose(table, published_trees)
    broken = verdicts.iloc[1]
    assert broken["cause"] == "unknown"
    assert np.isnan(broken["probability"])
    assert broken["recommendation"] == "measure what is missing first"
    assert broken["status"] == "weights are NaN; missing train_error, mode_connectivity_peak, hessian_t"
    assert pd.isna(broken["optimizer_answer"])
    assert broken["flags"] == ""
    assert verdicts["status"].tolist()[::2] == ["ok", "curve diverged"]
    alone = diagnose(one_row(), published_trees).iloc[0]
    columns = ["cause", "probability", "optimizer_answer", "p_data"]
    assert verdicts.loc[0, columns].tolist() == verdicts.loc[2, columns].tolist() == alone[columns].tolist()


def test_another_preset_is_told_once(published_trees):
    table = pd.concat([one_row()] * 3, ignore_index=True)
    assert diagnose(table, published_trees).attrs["cautions"] == []
    table["preset"] = ["reference", "default", "default"]
    assert diagnose(table, published_trees).attrs["cautions"] == [
        "2 of 3 rows measured with preset default, tree grown on preset reference: the features mean the same, "
        "but probabilities near a threshold are less sure"
    ]
    table["preset"] = "default"
    verdicts = diagnose(table, published_trees)
    assert [text.split(":")[0] for text in verdicts.attrs["cautions"]] == [
        "measured with preset default, tree grown on preset reference"
    ]
    assert set(verdicts["flags"]) == {""}
    assert explain(table.iloc[0], published_trees).flags == tuple(verdicts.attrs["cautions"])


def test_an_empty_table_gives_no_verdicts(published_trees):
    verdicts = diagnose(one_row()[:0], published_trees)
    assert len(verdicts) == 0
    assert list(verdicts.columns) == list(diagnose(one_row(), published_trees).columns)


def test_explanations_hold_the_evidence(published_trees):
    row = one_row(configuration="run7", hessian_t_se=0.2, mode_connectivity_peak=-29.0, preset="default")
    verdict = explain(row, published_trees)
    told = diagnose(row, published_trees).iloc[0]
    assert (verdict.cause, verdict.probability, verdict.status) == (told["cause"], told["probability"], "ok")
    optimizer = verdict.answers[0]
    assert [step.feature for step in optimizer.evidence] == ["train_error", "mode_connectivity_peak", "hessian_t"]
    sharp = optimizer.evidence[2]
    assert (sharp.value, sharp.standard_error, sharp.threshold) == (
        5.0,
        0.2,
        published_trees["optimizer"].thresholds_[2],
    )
    assert sharp.distance == pytest.approx(5.0 - sharp.threshold)
    assert sharp.at_most
    text = verdict.to_text()
    assert text.startswith(f"run7: {verdict.cause}\nWhat to change: {verdict.recommendation}.\nCauses weighed: ")
    assert "hessian_t = 5 ± 0.2 is at or below the threshold" in text
    assert "Caution: measured with preset default" in text
    assert str(verdict) == text
    assert json.loads(json.dumps(verdict.to_dict(), allow_nan=False))["answers"][0]["evidence"][2]["value"] == 5.0


def test_explanations_of_series_mappings_and_broken_rows(published_trees):
    row = one_row(hessian_t=np.nan, width=8)
    verdict = explain(row.iloc[0], published_trees)
    assert verdict == explain(row.iloc[0].to_dict(), published_trees)
    assert "Status: missing hessian_t." in verdict.to_text()
    assert "No answer: not asked: width below 32." in verdict.to_text()
    no_peak = explain(one_row(mode_connectivity_peak=None), published_trees).to_text()
    assert "mode_connectivity_peak was not measured; training rows mostly lie" in no_peak
    broken = explain({"train_error": np.nan, "width": 64}, published_trees)
    assert broken.cause == "unknown"
    assert broken.probability is None
    assert "No answer: missing train_error mode_connectivity_peak hessian_t." in broken.to_text()
    json.dumps(broken.to_dict(), allow_nan=False)


def test_single_verdicts_say_so_and_what_a_second_seed_would_add(default_trees):
    row = sweep(3).drop(columns="mode_connectivity_peak").iloc[[30]]
    verdict = explain(row, default_trees)
    optimizer = verdict.answers[0]
    assert optimizer.tree == "single"
    assert {step.feature for step in optimizer.evidence} <= {"train_error", "trace_for_loss", "eigenvalue_for_loss"}
    assert optimizer.second_seed == "A second seed would add mode_connectivity_peak."
    assert "by the tree for single models" in verdict.to_text()
    assert question_answers(default_trees["optimizer"], row).main_tree is default_trees["optimizer"].single_
    assert question_answers(default_trees["optimizer"], sweep(3)).main_tree is default_trees["optimizer"]
    whole = explain(sweep(3).iloc[[30]], default_trees)
    assert [answer.tree for answer in whole.answers] == ["full"] * 3
    assert "second seed" not in whole.to_text()
    shipped = explain(row.assign(train_error=0.0, train_loss=6e-4, hessian_t=5.13, hessian_e=2.78)).answers
    assert "answered right in 90 % of cases instead of 87 %" in str(shipped[0].second_seed)
    assert "answered as well without it, right in 82 % of cases" in str(shipped[1].second_seed)
    json.dumps(verdict.to_dict(), allow_nan=False)


def test_where_there_are_seeds_measuring_is_advised(default_trees):
    row = sweep(3).drop(columns="mode_connectivity_peak").iloc[[30]]
    measuring = "Measuring mode_connectivity as well (mdjax measure --metrics) would add mode_connectivity_peak"
    by_models = {3: measuring, 1: "A second seed would add", np.nan: "A second seed would add", "n/a": "A second seed"}
    for num_models, said in by_models.items():
        optimizer = explain(row.assign(num_models=num_models), default_trees).answers[0]
        assert optimizer.second_seed is not None and optimizer.second_seed.startswith(said)
    told = explain(row.assign(num_models=3, train_error=0.0, train_loss=6e-4, hessian_t=5.13, hessian_e=2.78)).to_text()
    assert f"{measuring}; with it this question was answered right in 90 % of cases instead of 87 %" in told
    assert "second seed" not in told
    # Other rows of the table have it.
    both = pd.concat([sweep(3).iloc[[1]], row.assign(num_models=3)], ignore_index=True)
    assert str(Diagnosis.of(both, default_trees).verdict(1).answers[0].second_seed).startswith(measuring)
    # Where it was tried in vain, the status tells why.
    vain = row.assign(num_models=2, mode_connectivity_peak=np.nan, status="1 of 1 pairs: the curve diverged")
    answer = explain(vain, default_trees).answers[0]
    assert (answer.tree, answer.second_seed) == ("single", None)


def test_features_of_pairs_name_the_metrics_that_measure_them():
    for name, metric in PAIR_FEATURES.items():
        assert name in {feature.name for feature in METRICS[metric].features}
        assert METRICS[metric].frame == "pairs"


def test_a_hundred_thousand_rows_are_quick():
    table = pd.concat([zoo(1000)] * 100, ignore_index=True)
    table["hessian_t_se"] = 0.1
    start = time.process_time()
    verdicts = diagnose(table)
    assert time.process_time() - start < 5
    assert len(verdicts) == 100_000


def test_large_tables_of_single_models_are_quick():
    table = pd.concat([sweep()] * 1400, ignore_index=True).drop(columns="mode_connectivity_peak")
    table["hessian_t_se"], table["train_loss_se"] = 0.1, 0.01
    start = time.process_time()
    verdicts = diagnose(table)
    assert time.process_time() - start < 5
    assert len(verdicts) > 100_000


def test_diagnosing_never_loads_jax_and_what_measures_no_scikit_learn():
    loaded = "print(sorted({'jax', 'flax', 'torch', 'sklearn'} & set(sys.modules)))"
    # Of this package, what measures reads that of trajectories alone.
    first, others = "import sys, mdjax.diagnosis.trajectories", "import mdjax.diagnosis.protocols, mdjax.report.page"
    code = "; ".join([first, loaded, others, loaded])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['sklearn']"]
