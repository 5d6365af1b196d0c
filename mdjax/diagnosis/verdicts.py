"""One configuration's verdict in plain words: the cause, the evidence for it, and the change to make."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from mdjax.diagnosis.answers import CAUSES, NUM_ERRORS, Trees, as_trees, diagnose, measured, speaking, tree_answers
from mdjax.diagnosis.beliefs import interval
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.quantities import quantity
from mdjax.diagnosis.questions import named
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


def explain(row: pd.Series | pd.DataFrame | Mapping[str, Any], trees: Trees = None) -> Verdict:
    """The verdict on one configuration: a table's row, a one-row table or a mapping of column names to values.

    `trees` is what `mdjax.diagnose` takes, and the cause and probabilities are the ones it gives.
    """
    table = _one_row(row)
    trees = as_trees(trees)
    verdicts = diagnose(table, trees)
    verdict = verdicts.iloc[0]
    gain = {"one": _number(verdict["gain"]), "best": _number(verdict["gain_best"])}
    name = verdict.get("configuration")
    return Verdict(
        configuration=None if name is None or pd.isna(name) else str(name),
        cause=verdict["cause"],
        probability=_number(verdict["probability"]),
        recommendation=verdict["recommendation"],
        probabilities={cause.meaning: _number(verdict[f"p_{cause.key}"]) for cause in CAUSES},
        status=verdict["status"],
        flags=(*filter(None, verdict["flags"].split("; ")), *verdicts.attrs["cautions"]),
        answers=tuple(_answer(tree, table) for tree in trees.values()),
        gain=None if None in gain.values() else {step: float(points or 0) for step, points in gain.items()},
    )


def _one_row(row: pd.Series | pd.DataFrame | Mapping[str, Any]) -> pd.DataFrame:
    table = row if isinstance(row, pd.DataFrame) else pd.DataFrame([dict(row)])
    if len(table) != 1:
        raise InputError(f"explain takes one row, got {len(table)}. Pick one, for instance table.iloc[[0]].")
    return table


def _answer(tree: MDTree, table: pd.DataFrame) -> Answer:
    speaker = speaking(tree, table)
    answers = tree_answers(speaker, table)
    question = named(tree.question)
    label, leaf = answers.label[0], int(answers.leaf[0])
    flags = [text for text, mask in answers.flags.items() if mask[0]]
    counts = dict(zip(speaker.classes_.tolist(), speaker.leaf_counts_[leaf].tolist()))
    return Answer(
        question=question.name,
        text=question.text,
        label=label,
        meaning=None if label is None else question.meaning[label],
        probability=_number(answers.probability[0]),
        status=answers.status[0],
        training_rows={} if label is None else counts,
        evidence=() if label is None else _evidence(speaker, table, leaf, flags),
        tree="single" if speaker.single else "full",
        second_seed=_second_seed(tree) if speaker is not tree and label is not None else None,
    )


def _evidence(tree: MDTree, table: pd.DataFrame, leaf: int, flags: list[str]) -> tuple[Evidence, ...]:
    columns, errors = measured(tree, table)
    steps = []
    for i, side in tree.leaves_[leaf].path:
        split = tree.tree_[i]
        value, error = _number(columns[split.feature][0]), float(errors[split.feature][0])
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
                flags=tuple(text for text in flags if text.startswith(f"{split.feature} ")),
                crossed=distance is not None and error > 0 and abs(distance) <= NUM_ERRORS * error,
                interval=interval(split),
                meaning="" if this.reads == (split.feature,) else this.text,
            )
        )
    return tuple(steps)


def _second_seed(tree: MDTree) -> str:
    """What the full tree reads that one model cannot give, and how much oftener it was right."""
    of_pairs = ", ".join(name for name in tree.features if quantity(name).of_pairs)
    text = f"A second seed would add {of_pairs}"
    full = tree.provenance_.get("transfer_accuracy")
    single = tree.single_.provenance_.get("transfer_accuracy") if tree.single_ is not None else None
    if full and single:
        ways = "when trees grown on one published sweep diagnosed the other"
        if round(full) > round(single):
            text += (
                f"; with it this question was answered right in {full:.0f} % of cases instead of {single:.0f} %, {ways}"
            )
        else:
            text += f"; this question was answered as well without it, right in {single:.0f} % of cases, {ways}"
    return text + "."


def _number(value: Any) -> float | None:
    """A float that JSON can hold; None for NaN and infinities."""
    return float(value) if math.isfinite(value) else None
