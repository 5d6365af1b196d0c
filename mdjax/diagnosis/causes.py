"""From the answers to the probability of each cause, the likeliest one, and what its change brought elsewhere.

How the answers are joined. The width tree weighs `model too small` against the temperature, the data tree (asked from
width 32 on, and where the width is not known) weighs `too little data` against it; each answer is kept as odds, so the
three knobs (temperature, width, data) get probabilities in the ratio 1 : width odds : data odds. The likeliest knob is
the one to turn; for the temperature the optimizer tree gives the direction, and splits the temperature's probability
between too low and too high. A cause is named when its probability is at least `CLEAR`; otherwise no failure is clear.
Rows that the stages before the trees hold back (`stages`) have no probabilities, and are told what held them back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mdjax.diagnosis.answers import Answers
from mdjax.diagnosis.questions import QUESTIONS
from mdjax.diagnosis.stages import Stage

CLEAR = 0.65
"""The least probability of a cause that is named; see bench/default_method.py for how it was chosen."""

NO_CLEAR_FAILURE, UNKNOWN = "no clear failure", "unknown"


@dataclass(frozen=True)
class Cause:
    """One possible verdict: its key in column names, what it means, the change that it asks for, and who says so."""

    key: str
    meaning: str
    change: str
    question: str
    label: str  # the question's class


CAUSES = tuple(
    Cause(key, QUESTIONS[question].meaning[label], QUESTIONS[question].change[label], question, label)
    for key, question, label in (
        ("temperature_low", "optimizer", "small"),
        ("temperature_high", "optimizer", "large"),
        ("width", "width", "width"),
        ("data", "data", "data"),
    )
)

HELD_BACK = {
    Stage.DIVERGED: (
        "diverged",
        "make the training stable first: a lower learning rate, a warm-up, clipped gradients, or wider number formats",
    ),
    Stage.CHANCE: (
        "at chance",
        "make it learn first: check that labels belong to inputs and that gradients reach the weights, and try other "
        "learning rates",
    ),
    Stage.MISMATCH: (
        "training and test data differ",
        "check the test data first: the numbering of its classes, and how its inputs are scaled and laid out",
    ),
    Stage.NOT_CONVERGED: ("not converged", "train it longer first"),
    Stage.OUTSIDE: (
        "outside what this tree has seen",
        "grow trees on networks like this one, such as small versions of it, and ask those",
    ),
}
"""Stage before the trees -> the cause that is told, and what to do."""

OTHER_CAUSES = (*(cause for cause, _ in HELD_BACK.values()), UNKNOWN)
"""What is told of rows that the trees give no verdict on."""

# Cause -> what to do, also for rows without one.
CHANGES = (
    {cause.meaning: cause.change for cause in CAUSES}
    | {NO_CLEAR_FAILURE: "no single change stands out"}
    | dict(HELD_BACK.values())
    | {UNKNOWN: "measure what is missing first"}
)


class Weighed(NamedTuple):
    """The causes of every row of a table."""

    probabilities: np.ndarray  # of each of CAUSES, [rows, causes]; NaN for causes whose question was not answered
    likeliest: np.ndarray  # index in CAUSES, [rows]; -1 where it is unknown
    probability: np.ndarray  # of that cause, [rows]; NaN where it is unknown
    clear: np.ndarray  # whether that is enough to name it, [rows]
    stage: np.ndarray  # values of Stage, [rows] of str

    def names(self) -> np.ndarray:
        """The cause as it is told, [rows] of str: its meaning, that none is clear or known, or what held it back."""
        meanings = np.array([cause.meaning for cause in CAUSES], dtype=object)[self.likeliest]
        names = np.where(self.clear, meanings, np.where(self.likeliest >= 0, NO_CLEAR_FAILURE, UNKNOWN))
        for stage, (cause, _) in HELD_BACK.items():
            names[self.stage == stage] = cause
        return names


def weighed_causes(answers: Mapping[str, Answers], stage: np.ndarray) -> Weighed:
    """The causes of every row, from the answers of all questions and the rows' stages."""
    num_rows = len(stage)
    probabilities = _probabilities(answers, num_rows)
    probabilities[stage != Stage.TREES] = np.nan
    found = likeliest(probabilities)
    known = found >= 0
    probability = np.where(known, probabilities[np.arange(num_rows), found], np.nan)
    return Weighed(probabilities, found, probability, known & (np.nan_to_num(probability) >= CLEAR), stage)


def _probabilities(answers: Mapping[str, Answers], num_rows: int) -> np.ndarray:
    unanswered = np.full(num_rows, np.nan)
    low, width, data = (
        answers[name].first if name in answers else unanswered for name in ("optimizer", "width", "data")
    )
    # Temperature : width : data = 1 : w/(1-w) : d/(1-d), free of divisions.
    w, d = np.nan_to_num(width), np.nan_to_num(data)
    weights = np.stack([(1 - w) * (1 - d), w * (1 - d), d * (1 - w)])
    temperature, wider, more_data = weights / weights.sum(axis=0)
    wider[np.isnan(width)], more_data[np.isnan(data)] = np.nan, np.nan
    return np.column_stack([temperature * low, temperature * (1 - low), wider, more_data])


def likeliest(probabilities: np.ndarray) -> np.ndarray:
    """The index of the cause to name, [rows]: the likeliest knob first, then the temperature's direction; -1: unknown.

    `probabilities` are those of `CAUSES`, [rows, causes].
    """
    low, high = probabilities[:, 0], probabilities[:, 1]
    width, data = np.nan_to_num(probabilities[:, 2:]).T
    knob = np.stack([1 - width - data, width, data]).argmax(axis=0)
    return np.where(knob > 0, knob + 1, np.where(np.isnan(low), -1, np.where(low >= high, 0, 1)))


def gains(answers: Mapping[str, Answers], causes: Weighed) -> dict[str, np.ndarray]:
    """The points of test accuracy that the recommended change brought on average where the trees were grown, [rows].

    Under `one` those of its first step, under `best` those of its best one; NaN where no change is recommended or no
    gain is known.
    """
    found = {step: np.full(len(causes.clear), np.nan) for step in ("one", "best")}
    for k, cause in enumerate(CAUSES):
        if cause.question not in answers:
            continue
        for speaker in answers[cause.question].speakers:
            if cause.label in speaker.answers.tree.gains_:
                for step, values in found.items():
                    here = causes.clear & (causes.likeliest == k) & speaker.rows
                    values[here] = speaker.answers.tree.gains_[cause.label][step]
    return found
