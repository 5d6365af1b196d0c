"""The verdict on every configuration of a table as a frame, and on one configuration in plain words."""

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from mdjax.diagnosis.answers import (
    NUM_ERRORS,
    Answers,
    PresetMismatch,
    TreeAnswers,
    answers_to,
    joined_flags,
    preset_mismatches,
    status_codes,
)
from mdjax.diagnosis.beliefs import interval
from mdjax.diagnosis.causes import CAUSES, CHANGES, Weighed, gains, weighed_causes
from mdjax.diagnosis.checks import numeric_column
from mdjax.diagnosis.mdtree import MDTree
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
class Evidence:
    """One step of the path through a tree: a measured value against a threshold, in the feature's own unit."""

    feature: str
    value: float | None  # None: not measured, both ways were weighed
    standard_error: float | None  # None: not known
    threshold: float
    at_most: bool  # whether the path went to the side `value <= threshold`
    distance: float | None  # the value minus the threshold
    flags: tuple[str, ...]
    crossed: bool = False  # whether the threshold lies within two standard errors of the value
    interval: tuple[float, float] | None = None  # the threshold, give or take what the training rows leave open
    meaning: str = ""  # of a feature that is computed from measured ones

    def to_text(self) -> str:
        """One line: the value, its standard error, the threshold, the distance and what to beware of."""
        side = "at or below" if self.at_most else "above"
        if self.value is None or self.distance is None:
            line = f"{self.feature} was not measured; training rows mostly lie {side} {self.threshold:.4g}"
        else:
            error = "" if self.standard_error is None else f" ± {self.standard_error:.2g}"
            line = (
                f"{self.feature} = {self.value:.4g}{error} is {side} the threshold {self.threshold:.4g} "
                f"(by {abs(self.distance):.3g})"
            )
        if self.interval is not None:
            line += f", which is believed to lie from {self.interval[0]:.3g} to {self.interval[1]:.3g}"
        if self.meaning:
            line += f"; {self.feature}: {self.meaning}"
        return line + "".join(f" [{flag}]" for flag in self.flags)


@dataclass(frozen=True)
class StageEvidence:
    """A number that held a network back from the trees, against its threshold or the range that the trees have seen."""

    feature: str
    value: float | None  # None: not finite, or no number
    threshold: float | None
    unit: str
    text: str
    seen: tuple[float, float] | None = None


@dataclass(frozen=True)
class Answer:
    """One question's answer with the path that led to it."""

    question: str
    text: str
    label: str | None  # the published class; None: not asked, or it cannot be told
    meaning: str | None
    probability: float | None
    status: str
    training_rows: dict[str, int]  # class -> rows of the leaf that the tree was grown on
    evidence: tuple[Evidence, ...]
    tree: str = "full"  # which tree spoke: "full", or "single" where what takes pairs of models is missing
    second_seed: str | None = None  # what a second, equally trained model would add


@dataclass(frozen=True)
class Verdict:
    """Why one configuration underperforms, how sure that is, what to change, and what that brought others.

    `gain` holds the points of test accuracy that one step (`one`) and the best step (`best`) of the recommended
    change brought on average in the sweep that the tree was grown on; None without a recommendation or a sweep.
    Where a `stage` before the trees gives the verdict, `stage_evidence` says by what, and `answers` is empty.
    """

    configuration: str | None
    cause: str
    probability: float | None
    recommendation: str
    probabilities: dict[str, float | None]  # meaning of each cause -> probability
    status: str
    flags: tuple[str, ...]
    answers: tuple[Answer, ...]
    gain: dict[str, float] | None = None
    stage: str = Stage.TREES.value
    stage_evidence: tuple[StageEvidence, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain values that JSON can hold."""
        return asdict(self)

    def to_text(self) -> str:
        """The verdict as a short paragraph per question, for people."""
        subject = "Cause" if self.configuration is None else self.configuration
        lines = [f"{subject}: {self.cause}", f"What to change: {self.recommendation}."]
        if self.gain is not None:
            lines.append(
                f"In the sweep that the tree was grown on, this brought {self.gain['one']:.1f} points of test accuracy "
                f"in one step and {self.gain['best']:.1f} in the best one, on average."
            )
        lines += [f"  - {step.text}" for step in self.stage_evidence]
        if self.probability is not None:
            lines.append(f"Causes weighed: {self._weighed()}.")
        for answer in self.answers:
            lines += ["", answer.text]
            if answer.label is None:
                lines.append(f"  No answer: {answer.status}.")
                continue
            rows = ", ".join(f"{count} {label}" for label, count in answer.training_rows.items())
            note = "" if answer.status == "ok" else f"; {answer.status}"
            note += "; by the tree for single models" if answer.tree == "single" else ""
            lines.append(f"  {answer.meaning}, probability {answer.probability:.2f} (rows grown on: {rows}{note})")
            lines += [f"  - {step.to_text()}" for step in answer.evidence]
            lines += [f"  {answer.second_seed}"] if answer.second_seed else []
        if self.flags:
            lines += ["", "Caution: " + "; ".join(self.flags) + "."]
        if self.status != "ok":
            lines += ["", f"Status: {self.status}."]
        return "\n".join(lines)

    def _weighed(self) -> str:
        """The causes with the probability that is left to each, likeliest first."""
        ranked = sorted(((p, meaning) for meaning, p in self.probabilities.items() if p is not None), reverse=True)
        return ", ".join(f"{meaning} {p:.2f}" for p, meaning in ranked if p >= 0.005)

    __str__ = to_text


@dataclass(frozen=True)
class Diagnosis:
    """What trees say of every row of a table, asked once; the frame, the explanations and the report all read it."""

    table: pd.DataFrame
    trees: dict[str, MDTree]
    answers: dict[str, Answers]  # by question
    causes: Weighed
    mismatches: dict[PresetMismatch, np.ndarray]  # -> a mask of the rows
    stages: Stages

    @classmethod
    def of(cls, table: pd.DataFrame, trees: Trees = SHIPPED) -> Self:
        """The diagnosis of a table; arguments and errors are those of `diagnose`."""
        trees = as_trees(trees)
        answers = answers_to(trees, table)
        found = stages(table, trees)
        return cls(table, trees, answers, weighed_causes(answers, found.stage), preset_mismatches(table, trees), found)

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
        frame = pd.DataFrame(out, index=self.table.index)
        frame.attrs["cautions"] = [
            preset_caution(mismatch, int(mask.sum()), num_rows) for mismatch, mask in self.mismatches.items()
        ]
        return frame

    def verdict(self, row: int) -> Verdict:
        """The verdict on the row of that index, in words."""
        told = self.frame.iloc[row]
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
                _answer(self.trees[name], answer, row, told[f"{name}_status"]) for name, answer in self.answers.items()
            ),
            gain=None if None in gain.values() else {step: float(points or 0) for step, points in gain.items()},
            stage=told["stage"],
            stage_evidence=tuple(_stage_evidence(self.stages, self.table, row)),
        )


def diagnose(table: pd.DataFrame, trees: Trees = SHIPPED) -> pd.DataFrame:
    """The verdict on every configuration (row) of a table, one row each, in order and with the same index.

    `trees` maps questions to fitted trees, names those of the package ("shipped": by the default method; "published":
    by the paper's fit, both grown on the published Model Diagnosis Dataset), or is a file of trees. Costs no more than
    a few passes over the columns: 100,000 rows in about a second.

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


def explain(row: pd.Series | pd.DataFrame | Mapping[str, Any], trees: Trees = SHIPPED) -> Verdict:
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
            value = table[name].iloc[row]
            text = foreign_text(name, value, population.facts[name])
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


def _answer(tree: MDTree, answers: Answers, row: int, status: str) -> Answer:
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
        second_seed=second_seed(tree) if found.tree is not tree and label is not None else None,
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
