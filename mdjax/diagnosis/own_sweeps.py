"""What a table's own sweep says beside the verdicts: its labels, what each change gained, and where they disagree."""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from mdjax.diagnosis.causes import CAUSES, NO_CLEAR_FAILURE
from mdjax.diagnosis.labels import LABEL_COLUMNS, RFI_COLUMNS, Axes
from mdjax.diagnosis.questions import QUESTIONS
from mdjax.diagnosis.sweep_axes import ACCURACY, ERROR, SIZES, labelled, sweep_axes, with_accuracy
from mdjax.errors import InputError

NOTICEABLE = 1.0
"""Points of test accuracy: gains that differ by less are not told apart, as seeds alone move an accuracy by that."""

_GAINS = {"small": "gain_inc_temp", "large": "gain_dec_temp", "width": "gain_width", "data": "gain_data"}
"""Direction, by the class that asks for it -> the column of what it gained."""


@dataclass(frozen=True)
class Disagreement:
    """A verdict that names another change than the one that gained most in the sweep."""

    change: str | None  # what the verdict asks for; None where it names nothing
    gain: float | None  # what that gained, in points of test accuracy; None where the sweep holds no such configuration
    best: str | None  # what gained most, `NOTICEABLE` points at least; None where nothing did
    best_gain: float

    def to_text(self) -> str:
        """One sentence."""
        most = None if self.best is None else f"{self.best} gained {self.best_gain:.1f} points"
        if self.change is None:
            return f"The verdict names no change, but {most} in the sweep."
        if self.gain is None:
            other = "" if most is None else f", while {most}"
            return f"The sweep holds nothing with {self.change} to hold the verdict against{other}."
        if most is None:
            return (
                f"Verdict and sweep disagree: the verdict asks for {self.change}, but no change gained "
                f"{NOTICEABLE:.0f} point in the sweep."
            )
        return (
            f"Verdict and sweep disagree: {self.change}, as the verdict asks for, gained {self.gain:.1f} points in the "
            f"sweep, and {most}."
        )


@dataclass(frozen=True)
class SweepEvidence:
    """What the other configurations of its sweep say of one configuration.

    `gains`: change, as "more width" -> the points of test accuracy that it gained at best; None where the sweep holds
    nothing further that way.
    """

    gains: dict[str, float | None]
    disagreement: Disagreement | None

    def to_text(self) -> str:
        """The gains in one line, and a sentence where the verdict disagrees."""
        told = ", ".join(f"{change} {'–' if gain is None else f'{gain:.1f}'}" for change, gain in self.gains.items())
        ends = " (–: the sweep goes no further that way)" if None in self.gains.values() else ""
        text = f"What the sweep itself shows, points of test accuracy gained at best by: {told}{ends}."
        return text if self.disagreement is None else f"{text} {self.disagreement.to_text()}"


@dataclass(frozen=True)
class OwnSweep:
    """A table that holds a sweep with its own test accuracies, labelled by them.

    `axes` are None where the table came with labels and its axes cannot be told.
    """

    table: pd.DataFrame
    axes: Axes | None

    @property
    def fingerprint(self) -> str:
        """A digest of the sweep's test accuracies, whatever their order; "" without them."""
        return sweep_fingerprint(self.table)

    def changes(self) -> dict[str, str]:
        """Direction, by the class that asks for it -> the change in words; those that the sweep varies."""
        if self.axes is None:
            return {
                "width": "more width",
                "data": "more data",
                "small": "a higher temperature",
                "large": "a lower temperature",
            }
        words = {}
        if self.axes.width is not None:
            words["width"] = f"more {self.axes.width}" if self.axes.width in SIZES else f"a larger {self.axes.width}"
        if self.axes.data is not None:
            words["data"] = "more data"
        if (batch := self.axes.batch) is not None:
            noun = {"bs": "batch", "batch_size": "batch"}.get(batch, batch.replace("_", " "))
            hotter, colder = ("smaller", "larger") if self.axes.hotter == "smaller" else ("larger", "smaller")
            words |= {"small": f"a {hotter} {noun}", "large": f"a {colder} {noun}"}
        return words

    def columns(self) -> pd.DataFrame:
        """`sweep_<question>`, the published label of each row, and `gain_*`, its rooms for improvement in points.

        `gain_inc_temp`: by a higher temperature, `gain_dec_temp`: by a lower one, `gain_width`, `gain_data`; 0 where
        nothing is better or the sweep goes no further. The index is the table's.
        """
        labels = {f"sweep_{name}": self.table[question.label] for name, question in QUESTIONS.items()}
        gains = {name: self.table[room] for name, room in zip(_GAINS.values(), RFI_COLUMNS, strict=True)}
        return pd.DataFrame(labels | gains, index=self.table.index)

    def agreement(self, verdicts: pd.DataFrame, counted: np.ndarray | None = None) -> pd.DataFrame:
        """How often answers agree with the sweep's labels: one row per question that has both.

        `verdicts`: as `mdjax.diagnose` returns them for this table. `counted`: a mask of the rows that count (default:
        all); of width and data only rows do for which the sweep holds more of it, as at an axis' end the label follows
        from the axis, whatever the network. Columns: `question`, `rows` (labelled and answered), `right` of them,
        `balanced_accuracy` (in percent, the mean over the classes that occur), `majority` (the more frequent class),
        `majority_right`, `majority_balanced_accuracy` and `unanswered` (labelled rows without an answer).
        """
        found = []
        counted = np.ones(len(self.table), dtype=bool) if counted is None else counted
        for name, question in QUESTIONS.items():
            if f"{name}_answer" not in verdicts:
                continue
            labels = self.table[question.label].to_numpy(dtype=object)
            answers = verdicts[f"{name}_answer"].to_numpy(dtype=object)
            is_labelled = counted & np.isin(labels, question.classes) & self.further(name)
            answered = np.isin(answers, question.classes)
            truth, told = labels[is_labelled & answered], answers[is_labelled & answered]
            if not len(truth):
                continue
            majority = max(question.classes, key=lambda label: int((truth == label).sum()))
            found.append(
                {
                    "question": name,
                    "rows": len(truth),
                    "right": int((truth == told).sum()),
                    "balanced_accuracy": balanced_accuracy(truth, told),
                    "majority": majority,
                    "majority_right": int((truth == majority).sum()),
                    "majority_balanced_accuracy": balanced_accuracy(truth, np.full(len(truth), majority, object)),
                    "unanswered": int((is_labelled & ~answered).sum()),
                }
            )
        columns = ["question", "rows", "right", "balanced_accuracy", "majority", "majority_right"]
        return pd.DataFrame(found, columns=[*columns, "majority_balanced_accuracy", "unanswered"])

    def further(self, question: str) -> np.ndarray:
        """A mask of the rows for which the sweep holds a larger width (or more data): all for the optimizer question.

        All, too, where the axes are not known. Costs one grouping.
        """
        axis = None if self.axes is None else {"width": self.axes.width, "data": self.axes.data}.get(question)
        if self.axes is None or axis is None:
            return np.ones(len(self.table), dtype=bool)
        held = [name for name in (*self.axes.varied, *self.axes.within) if name != axis]
        known = self.table[axis].where(self.table[self.axes.accuracy].notna())
        most = (
            known.groupby([self.table[name] for name in held], dropna=False).transform("max") if held else known.max()
        )
        return (self.table[axis] < most).to_numpy(dtype=bool)

    @functools.cached_property
    def gains(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Class that asks for a change -> the points that it gained at best, and whether the sweep goes on that way.

        Both are arrays [rows]. NaN points: the row cannot be compared. Without known axes every row counts as going on.
        Those of changes that the sweep varies. Costs one grouping per change.
        """
        found = {}
        for label, room in zip(_GAINS, RFI_COLUMNS, strict=True):
            if label in self.changes():
                points = self.table[room].to_numpy(dtype=float, na_value=np.nan)
                found[label] = points, self._goes_on(label)
        return found

    def points(self, label: str) -> np.ndarray:
        """The points that a change gained at best, [rows]; NaN where the sweep holds nothing further that way."""
        points, goes_on = self.gains[label]
        return np.where((points == 0) & ~goes_on, np.nan, points)

    def evidence(self, row: int, cause: str) -> SweepEvidence | None:
        """What the sweep says of the row of that index, beside the cause that its verdict names; None where nothing."""
        words, told = self.changes(), {}
        for label, (points, goes_on) in self.gains.items():
            if not np.isnan(points[row]):
                told[label] = None if points[row] == 0 and not goes_on[row] else float(points[row])
        if not told:
            return None
        in_words = {words[label]: told[label] for label in words if label in told}
        return SweepEvidence(in_words, _disagreement(cause, told, words))

    def _goes_on(self, label: str) -> np.ndarray:
        """Whether the sweep holds a configuration further along one direction, all else equal: [rows]."""
        if self.axes is None:
            return np.ones(len(self.table), dtype=bool)
        axis, larger = self.axes.directions[label]
        assert axis is not None
        held = [name for name in (*self.axes.varied, *self.axes.within) if name != axis]
        known = self.table[axis].where(self.table[self.axes.accuracy].notna())
        extreme = "max" if larger else "min"
        if held:
            end = known.groupby([self.table[name] for name in held], dropna=False).transform(extreme)
        else:
            end = pd.Series(known.agg(extreme), self.table.index)
        return (self.table[axis] < end if larger else self.table[axis] > end).to_numpy(dtype=bool)


class Reading(NamedTuple):
    """A table's own sweep, or None; and why there is none where the table looks as if it held one."""

    sweep: OwnSweep | None
    problem: str | None = None


def own_sweep(table: pd.DataFrame) -> Reading:
    """The sweep that a table holds by itself: its test accuracies over at least two values of an axis.

    Labels that the table brings (all of `RFI_COLUMNS` and `LABEL_COLUMNS`) are taken as they are; else those of the
    axes that `sweep_axes` chooses. Costs one sort per axis. Never raises for a table that holds none.
    """
    if len(table) < 2:
        return Reading(None)
    if _is_labelled(table):
        try:
            return Reading(OwnSweep(with_accuracy(table), sweep_axes(table)))
        except InputError:
            return Reading(OwnSweep(table, None))
    if not {ACCURACY, ERROR} & set(table.columns):
        return Reading(None)
    try:
        axes = sweep_axes(table)
    except InputError:
        return Reading(None)
    try:
        return Reading(OwnSweep(labelled(table, axes), axes))
    except InputError as error:
        return Reading(None, f"What the table's own sweep shows cannot be told: {error}")


def _is_labelled(table: pd.DataFrame) -> bool:
    """Whether a table brings the labels of a sweep, and what they were made from."""
    columns = [*RFI_COLUMNS, *LABEL_COLUMNS]
    if not set(columns) <= set(table.columns) or not table.columns.is_unique:
        return False
    return all(pd.api.types.is_numeric_dtype(table[name]) for name in RFI_COLUMNS)


def sweep_fingerprint(table: pd.DataFrame) -> str:
    """A digest of a table's test accuracies, whatever the order of its rows; "" without any."""
    if ACCURACY not in table.columns:
        return ""
    values = np.sort(pd.to_numeric(table[ACCURACY], errors="coerce").dropna().to_numpy(dtype=float))
    return hashlib.blake2b(values.round(6).tobytes(), digest_size=8).hexdigest() if len(values) else ""


def balanced_accuracy(truth: np.ndarray, answers: np.ndarray) -> float:
    """The mean over the classes that occur of the percentage of their rows that are answered right."""
    return float(np.mean([100 * np.mean(answers[truth == label] == label) for label in dict.fromkeys(truth)]))


IN_SAMPLE = (
    "Trees were grown on this very sweep: they agree with it more than with other networks, for which "
    "'mdjax grow' tells their accuracy."
)
"""What is to be said of agreement where `Diagnosis.grown_on_own_sweep`."""


LEARNT_FROM = "The configurations that the calibration was learnt from are not counted."


def agreement_lines(agreement: pd.DataFrame) -> list[str]:
    """The rows of `OwnSweep.agreement` as lines, one per question, under a heading; none for none."""
    lines = ["How often the answers agree with what the table's own sweep shows:"] if len(agreement) else []
    for row in agreement.to_dict("records"):
        meaning = QUESTIONS[row["question"]].meaning[row["majority"]]
        lines.append(
            f"  {row['question']:<9}  {row['balanced_accuracy']:.1f} % balanced accuracy, {row['right']:,} of "
            f"{row['rows']:,} right; always '{meaning}': {row['majority_balanced_accuracy']:.1f} %, "
            f"{row['majority_right']:,} right"
            + (f"; {row['unanswered']:,} more not asked or without an answer" if row["unanswered"] else "")
        )
    return lines


def _disagreement(cause: str, gains: Mapping[str, float | None], words: Mapping[str, str]) -> Disagreement | None:
    known = {label: gain for label, gain in gains.items() if gain is not None}
    best = max(known, key=lambda label: known[label], default=None)
    best_gain = 0.0 if best is None else known[best]
    most = words[best] if best is not None and best_gain >= NOTICEABLE else None
    asked = next((one.label for one in CAUSES if one.meaning == cause), None)
    if asked is None:
        return Disagreement(None, None, most, best_gain) if cause == NO_CLEAR_FAILURE and most is not None else None
    if asked not in gains:  # the sweep does not vary it, or it cannot be compared
        return None
    gain = gains[asked]
    if gain is None or best_gain < NOTICEABLE or best_gain - gain >= NOTICEABLE:
        return Disagreement(words[asked], gain, most, best_gain)
    return None
