"""What is asked before the trees: each stage through the frame and through an explanation, on three networks each."""

import json

import numpy as np
import pandas as pd
import pytest
from diagnosis_tables import one_row

from mdjax.diagnosis.causes import CAUSES, HELD_BACK
from mdjax.diagnosis.stages import Stage
from mdjax.diagnosis.verdicts import diagnose, explain
from mdjax.errors import InputError
from mdjax.report.page import write_report

LEARNT = {"train_error": 2.0, "train_loss": 0.05, "test_error": 9.0, "test_loss": 0.3, "hessian_e": 3.0}


def network(**changes: object) -> pd.DataFrame:
    """A network of ten classes that learnt its training data and predicts its test data."""
    return one_row(**LEARNT | {"num_classes": 10, "configuration": "net"} | changes)


def held_back(row: pd.DataFrame, stage: Stage, trees: object) -> str:
    """The explanation of a row that a stage holds back, once the frame agrees."""
    told, verdict = diagnose(row, trees).iloc[0], explain(row, trees)
    cause, change = HELD_BACK[stage]
    assert (told["stage"], told["cause"], told["recommendation"]) == (stage, cause, change)
    assert np.isnan([told["probability"], told["gain"], *(told[f"p_{one.key}"] for one in CAUSES)]).all()
    assert (verdict.stage, verdict.cause, verdict.recommendation, verdict.probability) == (stage, cause, change, None)
    assert verdict.answers == ()
    assert verdict.stage_evidence
    text = verdict.to_text()
    assert text.startswith(f"net: {cause}\nWhat to change: {change}.\n  - {verdict.stage_evidence[0].text}")
    json.dumps(verdict.to_dict(), allow_nan=False)
    return text


def test_a_network_that_passes_is_given_to_the_trees(published_trees):
    row = network()
    told = diagnose(row, published_trees).iloc[0]
    assert told["stage"] == "trees"
    assert told["cause"] == diagnose(one_row(**LEARNT), published_trees).iloc[0]["cause"]
    verdict = explain(row, published_trees)
    assert (verdict.stage, verdict.stage_evidence) == ("trees", ())
    assert len(verdict.answers) == 3


@pytest.mark.parametrize(
    ("changes", "evidence"),
    [
        ({"train_error": 88.0, "train_loss": 2.2, "test_error": 89.0}, "train_error = 88 % is at or above 85.5 %"),
        ({"num_classes": 2, "train_error": 49.0, "train_loss": 0.6}, "train_error = 49 % is at or above 47.5 %"),
        ({"train_error": 80.0, "train_loss": 2.15}, "train_loss = 2.15 nats is at or above 2.072 nats"),
        # Nine in ten examples are of one class: an error of ten percent is what a constant guess gets.
        (
            {"num_classes": 2, "train_error": 9.9, "train_loss": 0.33, "chance_error": 10.0, "chance_loss": 0.325},
            "train_error = 9.9 % is at or above 9.5 %",
        ),
    ],
)
def test_at_chance(published_trees, changes, evidence):
    assert evidence in held_back(network(**changes), Stage.CHANCE, published_trees)


@pytest.mark.parametrize(
    "changes",
    [
        {"train_error": 88.0, "num_classes": np.nan},  # of how many classes is not known
        {"train_error": 80.0, "num_classes": 100, "train_loss": 3.5},
        {"train_error": 30.0, "train_loss": 2.6},  # sure of its mistakes, and yet far from a guess
        {"train_error": 72.0, "train_loss": 1.9},
    ],
)
def test_not_at_chance(published_trees, changes):
    assert diagnose(network(**changes), published_trees)["stage"].tolist() == ["trees"]


@pytest.mark.parametrize(
    "changes",
    [
        {"train_loss": np.inf},
        {"train_loss": np.nan, "train_error": np.nan, "status": "NaN weights", "status_code": "weights_not_finite"},
        {"train_loss": np.nan, "status": "train_loss is not finite", "status_code": "not_finite"},
    ],
)
def test_diverged(published_trees, changes):
    assert "train_loss is not finite" in held_back(network(**changes), Stage.DIVERGED, published_trees)


@pytest.mark.parametrize(
    "changes",
    [
        {"train_loss": np.nan},  # not measured
        {"status": "1 of 3 models: NaN weights", "status_code": "weights_not_finite"},  # the others are there
        {"status": "curve diverged", "status_code": "diverged"},  # of the curve between two networks
        {"train_loss": np.nan, "status": "damaged", "status_code": "group_damaged"},
    ],
)
def test_not_diverged(published_trees, changes):
    assert diagnose(network(**changes), published_trees)["stage"].tolist() == ["trees"]


@pytest.mark.parametrize(
    ("changes", "evidence"),
    [
        ({"test_error": 90.5, "test_loss": 7.0}, "test_error = 90.5 % is at or above 85.5 %"),
        ({"test_error": 99.0, "train_error": 40.0}, "test_error = 99 % is at or above 85.5 %"),  # numbered otherwise
        ({"num_classes": 2, "test_error": 96.0}, "test_error = 96 % is at or above 47.5 %"),
        ({"relabelling_gain": 19.0}, "relabelling_gain = 19 points is at or above 10 points"),  # two classes of ten
        ({"prediction_shift": 35.0}, "prediction_shift = 35 points is at or above 10 points"),
        ({"prediction_shift": 12.0, "chance_error": 88.0}, "prediction_shift = 12 points is at or above 10 points"),
    ],
)
def test_mismatch(published_trees, changes, evidence):
    assert evidence in held_back(network(**changes), Stage.MISMATCH, published_trees)


@pytest.mark.parametrize(
    "changes",
    [
        {"train_error": 0.0, "test_error": 70.0},  # overfit, as on a tenth of CIFAR-10 with noisy labels
        {"train_error": 0.0, "test_error": 42.0, "num_classes": 2},  # overfit to a hard question of two classes
        {"train_error": 60.0, "test_error": 86.0},  # hardly learnt, and not held for anything else
        {"test_error": np.nan},
        {"relabelling_gain": 4.0, "prediction_shift": 3.0},
        {"train_error": 60.0, "relabelling_gain": 12.0},  # it hardly tells classes apart
        {"chance_error": 0.0, "num_classes": 1},
    ],
)
def test_no_mismatch(published_trees, changes):
    assert diagnose(network(**changes), published_trees)["stage"].tolist() == ["trees"]


@pytest.mark.parametrize("changes", [{"train_error": 53.0}, {"train_error": 20.0}, {"num_classes": np.nan}])
def test_not_converged(published_trees, changes):
    """Perceptrons whose training was stopped after a few epochs, and one that was trained on."""
    text = held_back(network(**changes, negative_curvature=0.36), Stage.NOT_CONVERGED, published_trees)
    assert "negative_curvature = 0.36 is at or above 0.25" in text
    for fraction in (0.1, 0.0, np.nan):
        assert diagnose(network(**changes, negative_curvature=fraction), published_trees)["stage"].tolist() == ["trees"]


def test_the_first_test_that_fails_decides(published_trees):
    rows = pd.concat(
        [
            network(train_loss=np.inf, train_error=90.0, test_error=90.0),
            network(train_error=90.0, test_error=95.0),
            network(test_error=95.0),
            network(),
        ]
    )
    assert diagnose(rows, published_trees)["stage"].tolist() == ["diverged", "chance", "mismatch", "trees"]


NOT_READ_BY_TREES = (
    *("train_loss", "test_error", "test_loss", "num_classes", "chance_error", "chance_loss"),
    *("relabelling_gain", "prediction_shift", "negative_curvature"),
)


@pytest.mark.parametrize("name", NOT_READ_BY_TREES)
def test_text_that_no_tree_reads_is_unknown(published_trees, name):
    """A column that only the tests before the trees read costs no verdict; what they read besides still counts."""
    plain, spoilt = network().drop(columns=name, errors="ignore"), network(**{name: "n/a"})
    pd.testing.assert_frame_equal(diagnose(spoilt, published_trees), diagnose(plain, published_trees))
    assert explain(spoilt, published_trees) == explain(plain, published_trees)
    doubled = pd.concat([network(**{name: 1.0}), pd.DataFrame({name: [2.0]})], axis=1)
    pd.testing.assert_frame_equal(diagnose(doubled, published_trees), diagnose(plain, published_trees))
    other = network(**{"train_error": 90.0, "num_classes": 10, "chance_error": 90.0} | {name: "n/a"})
    assert diagnose(other, published_trees)["stage"].tolist() == ["chance"]


@pytest.mark.parametrize("name", ["train_error", "mode_connectivity_peak", "hessian_t"])
def test_text_that_a_tree_reads_is_an_error(published_trees, name):
    with pytest.raises(InputError, match=f"Column {name} must hold numbers"):
        diagnose(network(**{name: "n/a"}), published_trees)


def test_the_report_shows_the_stages(published_trees, tmp_path):
    table = pd.concat([network(train_error=88.0, configuration=f"net{k}") for k in range(3)], ignore_index=True)
    write_report(tmp_path / "report.html", table, trees=published_trees, highlight="net1")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "At chance</p>" in page
    assert "train_error = 88 % is at or above 85.5 %, which is no better than a constant guess." in page
