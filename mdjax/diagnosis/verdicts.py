"""The verdict on every configuration of a table as a frame, and on one configuration in plain words."""

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from mdjax.columns import TASK
from mdjax.diagnosis.answers import (
    NUM_ERRORS,
    Answers,
    PresetMismatch,
    TreeAnswers,
    answers_to,
    has_features,
    joined_flags,
    preset_mismatches,
    status_codes,
    troubles,
)
from mdjax.diagnosis.beliefs import interval
from mdjax.diagnosis.calibrations import Answered, Calibration, calibration_of, gain_texts, with_calibration
from mdjax.diagnosis.causes import CAUSES, CHANGES, Weighed, gains, weighed_causes
from mdjax.diagnosis.checks import known_numbers, numeric_column, tasks
from mdjax.diagnosis.explanations import Answer, CalibrationText, Evidence, StageEvidence, Verdict
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.own_sweeps import IN_SAMPLE, LEARNT_FROM, OwnSweep, Reading, agreement_lines, own_sweep
from mdjax.diagnosis.populations import TAIL
from mdjax.diagnosis.quantities import quantity
from mdjax.diagnosis.questions import named
from mdjax.diagnosis.sentences import (
    answer_statuses,
    distance_text,
    flag_text,
    flag_texts,
    foreign_text,
    furthest_text,
    measured_text,
    nearest_text,
    preset_caution,
    row_statuses,
    second_seed,
)
from mdjax.diagnosis.stages import Outside, Stage, Stages, stages
from mdjax.diagnosis.trees import SHIPPED, Trees, as_trees
from mdjax.errors import InputError


@dataclass(frozen=True)
class Diagnosis:
    """What trees say of every row of a table, asked once; the frame, the explanations and the report all read it."""

    table: pd.DataFrame
    trees: dict[str, MDTree]
    answers: dict[str, Answers]  # by question
    causes: Weighed
    mismatches: dict[PresetMismatch, np.ndarray]  # -> a mask of the rows
    stages: Stages
    calibration: Calibration | None = None
    calibrated: Answered | None = None  # what the calibration says of the rows

    @classmethod
    def of(cls, table: pd.DataFrame, trees: Trees | Calibration = SHIPPED) -> Self:
        """The diagnosis of a table; arguments and errors are those of `diagnose`."""
        calibration = calibration_of(trees)
        fitted = dict(calibration.trees) if calibration is not None else as_trees(trees)  # pyright: ignore[reportArgumentType]
        # A calibration speaks also where its trees, if there are any, have nothing to read.
        answers = answers_to(fitted, table) if calibration is None or has_features(table, fitted) else {}
        found = stages(table, fitted)
        causes, calibrated = weighed_causes(answers, found.stage), None
        if calibration is not None:
            calibrated = calibration.answered(table)
            causes, found = with_calibration(causes, found, calibrated)
        mismatches = preset_mismatches(table, fitted)
        return cls(table, fitted, answers, causes, mismatches, found, calibration, calibrated)

    @functools.cached_property
    def frame(self) -> pd.DataFrame:
        """The verdicts as `diagnose` returns them."""
        num_rows = len(self.table)
        out: dict[str, Any] = {}
        if "configuration" in self.table.columns:
            out["configuration"] = self.table["configuration"].to_numpy()
        out["cause"] = self.causes.names()
        out["probability"] = self.causes.probability
        out["recommendation"] = np.array([CHANGES[name] for name in out["cause"]], dtype=object)
        out["stage"] = self.stages.stage
        gained = gains(self.answers, self.causes)
        out["gain"], out["gain_best"] = gained["one"], gained["best"]
        if self.calibrated is not None:
            out |= self._calibrated_gains(gained)
        out["status"] = row_statuses(self.table, self.answers)
        out["status_code"] = status_codes(self.table, self.answers)
        out["flags"] = flag_texts(self.answers, num_rows)
        for k, cause in enumerate(CAUSES):
            out[f"p_{cause.key}"] = self.causes.probabilities[:, k]
        for name, answer in self.answers.items():
            out[f"{name}_answer"] = answer.label
            out[f"{name}_probability"] = answer.probability
            out[f"{name}_status"] = answer_statuses(answer)
            spoke = np.where(answer.single, "single", "full").astype(object)
            spoke[pd.isna(answer.label)] = None
            out[f"{name}_tree"] = spoke
        if self.calibrated is not None:
            out |= self._calibrated_answers(out)
        frame = pd.DataFrame(out, index=self.table.index)
        frame.attrs["cautions"] = [
            preset_caution(mismatch, int(mask.sum()), num_rows) for mismatch, mask in self.mismatches.items()
        ]
        return frame

    def _calibrated_gains(self, gained: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The expected gains of the named changes, where the calibration names them, with their standard deviations."""
        assert self.calibrated is not None
        spoken, index = self.stages.rows(Stage.CALIBRATION), np.maximum(self.causes.likeliest, 0)
        rows = np.arange(len(index))

        def named_gain(values: np.ndarray) -> np.ndarray:
            return np.where(self.causes.clear, values[rows, index], np.nan)

        nothing = np.full(len(index), np.nan)
        return {
            "gain": np.where(spoken, named_gain(self.calibrated.one), gained["one"]),
            "gain_best": np.where(spoken, named_gain(self.calibrated.best), gained["best"]),
            "gain_se": np.where(spoken, named_gain(self.calibrated.one_se), nothing),
        }

    def _calibrated_answers(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """The columns of each question's answer, where the calibration gives it."""
        assert self.calibrated is not None
        spoken, out = self.stages.rows(Stage.CALIBRATION), {}
        for name, first in self.calibrated.first.items():
            question = named(name)
            label = np.where(np.nan_to_num(first) >= 0.5, *question.classes).astype(object)
            empty = np.full(len(first), None, dtype=object)
            columns = {
                "answer": label,
                "probability": np.maximum(first, 1 - first),
                "status": np.full(len(first), "ok", dtype=object),
                "tree": np.full(len(first), "calibration", dtype=object),
            }
            for column, values in columns.items():
                before = told.get(f"{name}_{column}", np.full(len(first), np.nan) if column == "probability" else empty)
                out[f"{name}_{column}"] = np.where(spoken, values, before)
        return out

    @functools.cached_property
    def own_sweep(self) -> Reading:
        """The sweep that the table holds by itself, to hold the verdicts against."""
        return own_sweep(self.table)

    def sweep_lines(self) -> list[str]:
        """How often the answers agree with the table's own sweep, in lines; why that cannot be told; or nothing."""
        sweep, problem = self.own_sweep
        if sweep is None:
            return [] if problem is None else [problem]
        lines = agreement_lines(self.agreement(sweep))
        return [*lines, *self.agreement_notes()] if lines else []

    def agreement(self, sweep: OwnSweep) -> pd.DataFrame:
        """How often the answers agree with the table's own sweep, but for rows that a calibration was learnt from."""
        seen = None if self.calibration is None else self.calibration.has_seen(self.table)
        return sweep.agreement(self.frame, None if seen is None else ~seen)

    def agreement_notes(self) -> list[str]:
        """Sentences on what the agreement is worth."""
        learnt = self.calibration is not None and self.calibration.has_seen(self.table).any()
        return [*([IN_SAMPLE] if self.grown_on_own_sweep() else []), *([LEARNT_FROM] if learnt else [])]

    def grown_on_own_sweep(self) -> bool:
        """Whether a tree was grown on the table's own sweep, so that it agrees with it more than with others."""
        sweep = self.own_sweep.sweep
        return sweep is not None and sweep.fingerprint in {
            tree.provenance_.get("sweep") for tree in self.trees.values()
        }

    def frame_with_sweep(self) -> pd.DataFrame:
        """The verdicts with the columns of `OwnSweep.columns` beside them, where the table holds a sweep."""
        sweep = self.own_sweep.sweep
        return (
            self.frame
            if sweep is None
            else self.frame.assign(**{str(name): column for name, column in sweep.columns().items()})
        )

    def verdict(self, row: int) -> Verdict:
        """The verdict on the row of that index, in words."""
        told, sweep = self.frame.iloc[row], self.own_sweep.sweep
        gain = {"one": _number(told["gain"]), "best": _number(told["gain_best"])}
        name = told.get("configuration")
        flags = [flag_text(flag) for flag, mask in joined_flags(self.answers).items() if mask[row]]
        cautions = [preset_caution(mismatch, 1, 1) for mismatch, mask in self.mismatches.items() if mask[row]]
        return Verdict(
            configuration=None if name is None or pd.isna(name) else str(name),
            cause=told["cause"],
            probability=_number(told["probability"]),
            recommendation=told["recommendation"],
            probabilities={
                cause.meaning: _number(p) for cause, p in zip(CAUSES, self.causes.probabilities[row], strict=True)
            },
            status=told["status"],
            flags=(*flags, *cautions),
            answers=()
            if self.stages.before_trees[row]
            else tuple(
                _answer(self.trees[name], answer, row, told[f"{name}_status"], self._advice(name, row))
                for name, answer in self.answers.items()
            ),
            gain=None if None in gain.values() else {step: float(points or 0) for step, points in gain.items()},
            sweep=None if sweep is None else sweep.evidence(row, told["cause"]),
            stage=told["stage"],
            stage_evidence=tuple(_stage_evidence(self.stages, self.table, row)),
            calibration=self._calibration_text(row),
        )

    def _calibration_text(self, row: int) -> CalibrationText | None:
        if self.calibration is None or self.calibrated is None:
            return None
        if self.stages.stage[row] == Stage.CALIBRATION:
            return CalibrationText(self.calibration.to_text(), gain_texts(self.calibrated, row), "")
        return CalibrationText(self.calibration.to_text(), (), str(self.calibrated.why_not[row]))

    def _advice(self, question: str, row: int) -> str | None:
        """What features of pairs would add to an answer that the tree for single models gave; None where nothing."""
        tree, answer, here = self.trees[question], self.answers[question], self.table.iloc[[row]]
        if answer.speaker(row).tree is tree or answer.label[row] is None:
            return None
        has_seeds = bool(known_numbers(here, "num_models")[0] > 1)
        was_tried = any(name in here.columns for name in tree.features if quantity(name).of_pairs)
        if has_seeds and was_tried and troubles(here)[0]:
            # Its status says what went wrong; neither more seeds nor measuring again is sure to help.
            return None
        return second_seed(tree, has_seeds=has_seeds)


def diagnose(table: pd.DataFrame, trees: Trees | Calibration = SHIPPED) -> pd.DataFrame:
    """The verdict on every configuration (row) of a table, one row each, in order and with the same index.

    `trees` maps questions to fitted trees, names those of the package ("shipped": by the default method; "published":
    by the paper's fit, both grown on the published Model Diagnosis Dataset), is a file of trees, or the folder of
    `mdjax calibrate`, which then speaks of the rows whose settings are known (`stage` "calibration") with expected
    gains and their standard deviation (`gain_se`). Costs no more than a few passes over the columns: 100,000 rows in
    about a second; a calibration takes some 10 ms a row.

    Reads the features in their published units: errors and `mode_connectivity_peak` in percent, `hessian_t` and
    `hessian_e` the natural logarithm of the trace and the largest eigenvalue, `width` in channels of the first stage.
    Before the trees a cascade of tests (`mdjax.diagnosis.stages`) tells networks that diverged, are at chance, or whose
    test data are not what they learnt, and those outside of the population that the trees were grown on: `stage` names
    the test, or is "trees"; such rows have a cause of their own and no probabilities.

    Returns `configuration` (where the table has it), `cause`, `probability`, `recommendation`, `stage`, `gain` and
    `gain_best` (points of test accuracy that one step, and the best step, of the recommended change brought on average
    in the sweep that the tree was grown on), `status` ("ok", or what is missing or went wrong), `status_code` (the same
    as a value of `mdjax.statuses.StatusCode`), `flags` (reasons for caution, joined by "; "), `p_<cause>` for each of
    `CAUSES`, and for each question its `<question>_answer` (published class), `<question>_probability`,
    `<question>_status` and `<question>_tree` ("full", "single" or None). What is to be said once of the whole table is
    in the frame's `attrs["cautions"]`, a list of sentences.

    Trees with soft splits answer the likelier class; with sharp ones an answer is the class that the point values
    lead to, and its probability counts the error bars, so it can be below one half.

    A broken row never raises: it is told in its `status`. Raises InputError when no tree finds any of its features.
    """
    return Diagnosis.of(table, trees).frame


def explain(row: pd.Series | pd.DataFrame | Mapping[str, Any], trees: Trees | Calibration = SHIPPED) -> Verdict:
    """The verdict on one configuration: a table's row, a one-row table or a mapping of column names to values.

    `trees` is what `diagnose` takes, and the cause and probabilities are the ones it gives.
    """
    table = row if isinstance(row, pd.DataFrame) else pd.DataFrame([dict(row)])
    if len(table) != 1:
        raise InputError(f"explain takes one row, got {len(table)}. Pick one, for instance table.iloc[[0]].")
    return Diagnosis.of(table, trees).verdict(0)


def _stage_evidence(found: Stages, table: pd.DataFrame, row: int) -> Iterator[StageEvidence]:
    stage = Stage(found.stage[row])
    for measured in found.tests.get(stage, ()):
        if measured.failed[row]:
            numbers = _number(measured.values[row]), _number(measured.thresholds[row])
            yield StageEvidence(measured.name, *numbers, measured.unit, measured_text(stage, measured, row))
    if stage is not Stage.OUTSIDE:
        return
    for outside in found.outside:
        if outside.rows[row]:
            yield from _outside_evidence(outside, table, row)


def _outside_evidence(outside: Outside, table: pd.DataFrame, row: int) -> Iterator[StageEvidence]:
    population, distances = outside.population, outside.distances
    for name, mask in distances.foreign.items():
        if mask[row]:
            value = (tasks(table) if name == TASK else table[name]).iloc[row]
            text = foreign_text(name, value, population.seen(name))
            yield StageEvidence(name, None if isinstance(value, str) else _number(value), None, "", text)
    furthest, p_value = distances.furthest[row], float(distances.p_value[row])
    if furthest < 0 or p_value > TAIL:
        return
    yield StageEvidence("p_value", p_value, TAIL, "", distance_text(p_value))
    name, nearest = population.features[furthest], distances.nearest[row]
    value, seen = float(numeric_column(table, name)[row]), population.ranges[name]
    text = furthest_text(name, value, seen, population.near(name, nearest))
    yield StageEvidence(name, value, None, quantity(name).unit, text, seen)
    if text := nearest_text(population.labels, nearest):
        yield StageEvidence("nearest_rows", float(len(nearest)), None, "", text)


def _answer(tree: MDTree, answers: Answers, row: int, status: str, advice: str | None) -> Answer:
    found = answers.speaker(row)
    question = named(tree.question)
    label, leaf = found.label[row], int(found.leaf[row])
    counts = dict(zip(found.tree.classes_.tolist(), found.tree.leaf_counts_[leaf].tolist()))
    return Answer(
        question=question.name,
        text=question.text,
        label=label,
        meaning=None if label is None else question.meaning[label],
        probability=_number(found.probability[row]),
        status=status,
        training_rows={} if label is None else counts,
        evidence=() if label is None else _evidence(found, row),
        tree="single" if found.tree.single else "full",
        second_seed=advice,
    )


def _evidence(found: TreeAnswers, row: int) -> tuple[Evidence, ...]:
    steps = []
    for i, side in found.tree.leaves_[found.leaf[row]].path:
        split = found.tree.tree_[i]
        value, error = _number(found.values[split.feature][row]), float(found.errors[split.feature][row])
        distance = None if value is None else value - split.threshold
        this = quantity(split.feature)
        steps.append(
            Evidence(
                feature=split.feature,
                value=value,
                standard_error=error or None,
                threshold=split.threshold,
                at_most=side,
                distance=distance,
                flags=tuple(
                    flag_text(flag) for flag, mask in found.flags.items() if flag.feature == split.feature and mask[row]
                ),
                crossed=distance is not None and error > 0 and abs(distance) <= NUM_ERRORS * error,
                interval=interval(split),
                meaning="" if this.reads == (split.feature,) else this.text,
            )
        )
    return tuple(steps)


def _number(value: Any) -> float | None:
    """A float that JSON can hold; None for NaN and infinities."""
    return float(value) if math.isfinite(value) else None
