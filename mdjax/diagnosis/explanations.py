"""One configuration's verdict: its values, the evidence behind them, and both in plain words."""

from dataclasses import asdict, dataclass
from typing import Any

from mdjax.diagnosis.own_sweeps import SweepEvidence
from mdjax.diagnosis.stages import Stage
from mdjax.escapes import printable


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
    second_seed: str | None = None  # what features of pairs would add, and how to have them


@dataclass(frozen=True)
class CalibrationText:
    """What a calibration says of one configuration."""

    zoo: str  # what it was grown on, and how often it was right about its own larger networks
    gains: tuple[str, ...]  # what one step of each change is expected to bring, the largest first
    why_not: str  # what keeps it from speaking; "" where it speaks

    def to_text(self) -> str:
        """A paragraph."""
        if self.why_not:
            return f"The calibration does not speak of this configuration: {self.why_not}."
        lines = ["What small networks of this task say that one step would bring:"]
        return "\n".join([*lines, *(f"  - {text}" for text in self.gains), f"Calibrated on {self.zoo}"])


@dataclass(frozen=True)
class Verdict:
    """Why one configuration underperforms, how sure that is, what to change, and what that brought others.

    `gain` holds the points of test accuracy that one step (`one`) and the best step (`best`) of the recommended
    change brought on average in the sweep that the tree was grown on; None without a recommendation or a sweep.
    `sweep` is what the other configurations of its own table say of it; None where that holds no sweep.
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
    sweep: SweepEvidence | None = None
    stage: str = Stage.TREES.value
    stage_evidence: tuple[StageEvidence, ...] = ()
    calibration: CalibrationText | None = None

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain values that JSON can hold."""
        return asdict(self)

    def to_text(self) -> str:
        """The verdict as a short paragraph per question, for people."""
        subject = "Cause" if self.configuration is None else printable(self.configuration)
        lines = [f"{subject}: {self.cause}", f"What to change: {self.recommendation}."]
        if self.gain is not None and self.stage != Stage.CALIBRATION:
            lines.append(
                f"In the sweep that the tree was grown on, this brought {self.gain['one']:.1f} points of test accuracy "
                f"in one step and {self.gain['best']:.1f} in the best one, on average."
            )
        lines += [f"  - {step.text}" for step in self.stage_evidence]
        if self.probability is not None:
            lines.append(f"Causes weighed: {self._weighed()}.")
        if self.calibration is not None:
            lines += ["", self.calibration.to_text()]
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
            lines += ["", f"Status: {printable(self.status)}."]
        if self.sweep is not None:
            lines += ["", self.sweep.to_text()]
        return "\n".join(lines)

    def _weighed(self) -> str:
        """The causes with the probability that is left to each, likeliest first."""
        ranked = sorted(((p, meaning) for meaning, p in self.probabilities.items() if p is not None), reverse=True)
        return ", ".join(f"{meaning} {p:.2f}" for p, meaning in ranked if p >= 0.005)

    __str__ = to_text
