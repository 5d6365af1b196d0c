"""One configuration's verdict in plain words: the cause, the evidence for it, and the change to make."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from mdjax.diagnosis import CAUSES, Trees, as_trees, diagnose, measured, tree_answers
from mdjax.errors import InputError
from mdjax.mdtree import MDTree
from mdjax.questions import named


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


@dataclass(frozen=True)
class Verdict:
    """Why one configuration underperforms, how sure that is, and what to change."""

    configuration: str | None
    cause: str
    probability: float | None
    recommendation: str
    probabilities: dict[str, float | None]  # meaning of each cause -> probability
    status: str
    flags: tuple[str, ...]
    answers: tuple[Answer, ...]

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain values that JSON can hold."""
        return asdict(self)

    def to_text(self) -> str:
        """The verdict as a short paragraph per question, for people."""
        subject = "Cause" if self.configuration is None else self.configuration
        lines = [f"{subject}: {self.cause}", f"What to change: {self.recommendation}."]
        if self.probability is not None:
            lines.append(f"Causes weighed: {self._weighed()}.")
        for answer in self.answers:
            lines += ["", answer.text]
            if answer.label is None:
                lines.append(f"  No answer: {answer.status}.")
                continue
            rows = ", ".join(f"{count} {label}" for label, count in answer.training_rows.items())
            note = "" if answer.status == "ok" else f"; {answer.status}"
            lines.append(f"  {answer.meaning}, probability {answer.probability:.2f} (rows grown on: {rows}{note})")
            lines += [f"  - {step.to_text()}" for step in answer.evidence]
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
    verdict = diagnose(table, trees).iloc[0]
    name = verdict.get("configuration")
    return Verdict(
        configuration=None if name is None or pd.isna(name) else str(name),
        cause=verdict["cause"],
        probability=_number(verdict["probability"]),
        recommendation=verdict["recommendation"],
        probabilities={cause.meaning: _number(verdict[f"p_{cause.key}"]) for cause in CAUSES},
        status=verdict["status"],
        flags=tuple(filter(None, verdict["flags"].split("; "))),
        answers=tuple(_answer(tree, table) for tree in trees.values()),
    )


def _one_row(row: pd.Series | pd.DataFrame | Mapping[str, Any]) -> pd.DataFrame:
    table = row if isinstance(row, pd.DataFrame) else pd.DataFrame([dict(row)])
    if len(table) != 1:
        raise InputError(f"explain takes one row, got {len(table)}. Pick one, for instance table.iloc[[0]].")
    return table


def _answer(tree: MDTree, table: pd.DataFrame) -> Answer:
    answers = tree_answers(tree, table)
    columns, errors = measured(tree, table)
    question = named(tree.question)
    label, leaf = answers.label[0], int(answers.leaf[0])
    flags = [text for text, mask in answers.flags.items() if mask[0]]
    evidence = []
    for i, side in tree.leaves_[leaf].path:
        name, threshold = tree.tree_[i].feature, tree.tree_[i].threshold
        value = _number(columns[name][0])
        evidence.append(
            Evidence(
                feature=name,
                value=value,
                standard_error=float(errors[name][0]) or None,
                threshold=threshold,
                at_most=side,
                distance=None if value is None else value - threshold,
                flags=tuple(text for text in flags if text.startswith(f"{name} ")),
            )
        )
    counts = dict(zip(tree.classes_.tolist(), tree.leaf_counts_[leaf].tolist()))
    return Answer(
        question=question.name,
        text=question.text,
        label=label,
        meaning=None if label is None else question.meaning[label],
        probability=_number(answers.probability[0]),
        status=answers.status[0],
        training_rows={} if label is None else counts,
        evidence=() if label is None else tuple(evidence),
    )


def _number(value: Any) -> float | None:
    """A float that JSON can hold; None for NaN and infinities."""
    return float(value) if math.isfinite(value) else None
