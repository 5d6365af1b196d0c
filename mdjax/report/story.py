"""What the page says first: which configurations have most to gain and by what, how far that can be trusted, and where
it disagrees with the sweep that the table holds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mdjax.diagnosis.calibrations import gain_texts
from mdjax.diagnosis.causes import CAUSES, NO_CLEAR_FAILURE
from mdjax.diagnosis.checks import numeric_column
from mdjax.diagnosis.explanations import Verdict
from mdjax.diagnosis.own_sweeps import IN_SAMPLE, NOTICEABLE, OwnSweep
from mdjax.diagnosis.stages import Stage
from mdjax.diagnosis.verdicts import Diagnosis
from mdjax.report.figures import feature_of
from mdjax.report.headline import count, number

NUM_TOP = 3
_MAX_DISAGREEMENTS = 3
_MEASURED = ("test_error", "train_error")


class Expected(NamedTuple):
    """What each configuration is expected to gain, and who says so."""

    points: np.ndarray  # of test accuracy, [rows]; NaN where nothing is to be gained, or nobody says
    kind: str  # "calibration", "sweep", "trees" or "none"
    source: str  # a sentence


@dataclass(frozen=True)
class Story:
    """The beginning of a page."""

    top: list[dict[str, Any]]
    source: str  # who says what is to be gained
    trust: list[str]
    sweep: list[str]  # how the verdicts stand to the table's own sweep
    disagreements: list[dict[str, Any]] = field(default_factory=list)


def expected_gains(diagnosis: Diagnosis | None, sweep: OwnSweep | None) -> Expected:
    """What each configuration is expected to gain by the best change that can be told, by who knows it best.

    That is a calibration, where it speaks of any row and names a change; else the table's own sweep, by what its best
    change gained there; else what the recommended change brought on average where the trees were grown, times the
    probability of the cause, and no more than the error that is left.
    """
    if diagnosis is not None and diagnosis.calibrated is not None:
        points = np.where(diagnosis.stages.rows(Stage.CALIBRATION), diagnosis.frame["gain_best"], np.nan)
        if np.isfinite(points).any():
            told = "Expected gains are those that small networks of this task, the calibration, give."
            return Expected(points, "calibration", told)
    if sweep is not None and sweep.gains:
        rooms = np.nan_to_num(np.stack([sweep.points(label) for label in sweep.gains]), nan=-1.0).max(axis=0)
        if (rooms >= NOTICEABLE).any():
            told = "Gains are those that the sweep itself shows: what the best change of one setting brought in it."
            return Expected(np.where(rooms >= NOTICEABLE, rooms, np.nan), "sweep", told)
    if diagnosis is not None:
        frame = diagnosis.frame
        points = frame["gain_best"].to_numpy(float) * frame["probability"].to_numpy(float)
        if "test_error" in diagnosis.table.columns:
            points = np.fmin(
                points, np.where(np.isfinite(points), numeric_column(diagnosis.table, "test_error"), np.nan)
            )
        if np.isfinite(points).any():
            told = (
                "Expected gains are what such a change brought on average where the trees were grown, times the "
                "probability of the cause; nothing of these very networks is in them."
            )
            return Expected(points, "trees", told)
        named = np.where(diagnosis.causes.clear, diagnosis.causes.probability, np.nan)
        told = "What a change would gain is not known; the surest causes come first."
        return Expected(named, "none", told)
    return Expected(np.empty(0), "none", "No cause is known, since the table has none of the features that trees read.")


def order_of(expected: Expected) -> np.ndarray:
    """The rows with most to gain first; those of which nothing is known stay in their order behind them."""
    return np.argsort(-np.nan_to_num(expected.points, nan=-np.inf), kind="stable")


def story(
    table: pd.DataFrame, labels: Sequence[str], diagnosis: Diagnosis | None, sweep: OwnSweep | None
) -> Story | None:
    """The beginning of a page; None where there is no diagnosis and no sweep."""
    if diagnosis is None:
        return None
    expected = expected_gains(diagnosis, sweep)
    rows = [int(row) for row in order_of(expected)[:NUM_TOP] if np.isfinite(expected.points[row])]
    lines, disagreements = _against_sweep(labels, diagnosis, sweep)
    return Story(
        top=[_entry(row, table, labels, diagnosis, sweep, expected) for row in rows],
        source=expected.source,
        trust=_trust(diagnosis),
        sweep=lines,
        disagreements=disagreements,
    )


def _entry(
    row: int,
    table: pd.DataFrame,
    labels: Sequence[str],
    diagnosis: Diagnosis,
    sweep: OwnSweep | None,
    expected: Expected,
) -> dict[str, Any]:
    verdict = diagnosis.verdict(row)
    measured = [
        f"{feature_of(name, table).title.lower()} {number(float(numeric_column(table, name)[row]), 3)} %"
        for name in _MEASURED
        if name in table.columns and np.isfinite(numeric_column(table, name)[row])
    ]
    change, contrary = verdict.recommendation, None
    if expected.kind == "sweep" and sweep is not None:
        best = max(sweep.gains, key=lambda label: np.nan_to_num(sweep.points(label)[row], nan=-1.0))
        change = sweep.changes()[best]
    if verdict.sweep is not None and verdict.sweep.disagreement is not None:
        contrary = verdict.sweep.disagreement.to_text()
    return {
        "row": row,
        "name": labels[row],
        "cause": verdict.cause,
        "probability": verdict.probability,
        "change": change,
        "gain": _gain_text(row, diagnosis, expected),
        "measured": ", ".join(measured),
        "why": _why(row, verdict, diagnosis, expected),
        "contrary": contrary,
    }


def _gain_text(row: int, diagnosis: Diagnosis, expected: Expected) -> str | None:
    points = float(expected.points[row])
    if expected.kind == "none":
        return None
    if expected.kind != "calibration" or diagnosis.calibrated is None:
        return f"+{points:.1f} points"
    spread = float(diagnosis.calibrated.best_se[row, diagnosis.causes.likeliest[row]])
    return f"+{points:.1f} ± {spread:.1f} points"


def _why(row: int, verdict: Verdict, diagnosis: Diagnosis, expected: Expected) -> list[str]:
    """The evidence in short: what one step of a change would bring, or the path that led here; and the sweep."""
    if expected.kind == "calibration" and diagnosis.calibrated is not None:
        lines = [f"One step, {text}" for text in gain_texts(diagnosis.calibrated, row)[:2]]
    elif verdict.stage_evidence:
        lines = [step.text for step in verdict.stage_evidence[:2]]
    else:
        question = next((one.question for one in CAUSES if one.meaning == verdict.cause), None)
        path = next((answer.evidence for answer in verdict.answers if answer.question == question), ())
        lines = [
            f"{feature_of(step.feature).label} {number(step.value)}"
            f"{'' if step.standard_error is None else f' ± {number(step.standard_error, 2)}'} is "
            f"{'at or below' if step.at_most else 'above'} {number(step.threshold)}"
            for step in path
            if step.value is not None
        ]
    if verdict.sweep is not None:
        shown = [f"{change} {gain:.1f}" for change, gain in verdict.sweep.gains.items() if gain is not None]
        lines += [f"The sweep itself, points gained at best: {', '.join(shown)}"] if shown else []
    return lines


def _trust(diagnosis: Diagnosis) -> list[str]:
    num_rows = len(diagnosis.table)
    if diagnosis.calibration is not None:
        lines = diagnosis.calibration.to_text().split("\n")
        assert diagnosis.calibrated is not None
        silent = int((~diagnosis.calibrated.rows).sum())
        lines = [
            f"Calibrated on this task: {lines[0].strip()}.",
            *(f"{line.strip().capitalize()}." for line in lines[1:]),
        ]
        if silent:
            lines.append(f"It does not speak of {count(silent)} of {count(num_rows, 'configuration')}.")
        return lines
    if diagnosis.grown_on_own_sweep():
        return [f"No calibration: {IN_SAMPLE[0].lower()}{IN_SAMPLE[1:]}"]
    data = list(
        dict.fromkeys(
            str(tree.provenance_["data"]) for tree in diagnosis.trees.values() if tree.provenance_.get("data")
        )
    )
    outside = int(np.sum(diagnosis.stages.stage == Stage.OUTSIDE))
    lines = [
        f"No calibration: the trees were grown on {' and '.join(data) or 'other networks'}, and thresholds need not "
        "hold for networks unlike those. 'mdjax calibrate' grows small ones of this very task, and says how often it "
        "is right."
    ]
    if outside:
        lines.append(f"{count(outside)} of {count(num_rows, 'configuration')} lie outside of what the trees have seen.")
    return lines


def _against_sweep(
    labels: Sequence[str], diagnosis: Diagnosis, sweep: OwnSweep | None
) -> tuple[list[str], list[dict[str, Any]]]:
    """How often verdicts name what gained most in the table's own sweep, and the largest disagreements."""
    if sweep is None or not sweep.gains:
        return [], []
    causes = diagnosis.causes.names()
    rooms = np.nan_to_num(np.stack([sweep.points(label) for label in sweep.gains]), nan=0.0)
    best = rooms.max(axis=0)
    asked = {cause.meaning: cause.label for cause in CAUSES}
    keys = list(sweep.gains)
    chosen = np.array([keys.index(asked[name]) if asked.get(name) in keys else -1 for name in causes])
    own = np.where(chosen >= 0, rooms[np.maximum(chosen, 0), np.arange(len(causes))], 0.0)
    room = best >= NOTICEABLE
    right, other = room & (chosen >= 0) & (best - own < NOTICEABLE), room & (chosen >= 0) & (best - own >= NOTICEABLE)
    silent = room & (causes == NO_CLEAR_FAILURE)
    lines = [
        f"The table holds a sweep. In it {count(int(room.sum()), 'configuration')} of {count(len(causes))} could gain "
        f"a point of test accuracy or more: the verdict names the change that gained most, or one less than a point "
        f"behind, for {count(int(right.sum()))}, another for {count(int(other.sum()))}, none for "
        f"{count(int((room & ~right & ~other).sum()))}."
    ]
    missed = np.where(other | silent, best - own, 0.0)
    worst = [int(row) for row in np.argsort(-missed, kind="stable")[:_MAX_DISAGREEMENTS] if missed[row] >= NOTICEABLE]
    found = []
    for row in worst:
        evidence = sweep.evidence(row, causes[row])
        if evidence is not None and evidence.disagreement is not None:
            found.append({"row": row, "name": labels[row], "text": evidence.disagreement.to_text()})
    return lines, found
