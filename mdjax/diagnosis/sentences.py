"""Facts about answers in words: the one place where a diagnosis becomes text for people."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mdjax.diagnosis.answers import (
    NUM_ERRORS,
    Answers,
    AnswerState,
    Flag,
    FlagKind,
    PresetMismatch,
    joined_flags,
    troubles,
)
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.populations import ALLOWANCE, NUM_NEIGHBOURS, TAIL, Fact
from mdjax.diagnosis.quantities import PAIR_FEATURES, quantity
from mdjax.diagnosis.questions import QUESTIONS
from mdjax.diagnosis.stages import Measured, Stage
from mdjax.statuses import StatusCode


def flag_text(flag: Flag) -> str:
    """The flag as people read it, beginning with the name of its feature."""
    said = {
        FlagKind.BELOW_RANGE: "below the range seen",
        FlagKind.ABOVE_RANGE: "above the range seen",
        FlagKind.NEAR_THRESHOLD: f"within {NUM_ERRORS} standard errors of its threshold",
    }
    return f"{flag.feature} {said[flag.kind]}"


def flag_texts(answers: Mapping[str, Answers], num_rows: int) -> np.ndarray:
    """All flags of each row, joined by "; ", [rows] of str."""
    texts = np.full(num_rows, "", dtype=object)
    for flag, mask in joined_flags(answers).items():
        texts[mask] = np.where(texts[mask] == "", "", texts[mask] + "; ") + flag_text(flag)
    return texts


def answer_statuses(answers: Answers) -> np.ndarray:
    """What is to be said of each row's answer to one question, [rows] of str: "ok", what is missing, or why none."""
    texts = np.full(len(answers.label), StatusCode.OK.value, dtype=object)
    for found, rows in answers.speakers:
        for name, gone in found.missing.items():
            here = gone & rows
            texts[here] = np.where(texts[here] == StatusCode.OK.value, "missing", texts[here]) + f" {name}"
        least = f"{found.tree.asked_question.min_width or 0:g}"
        here = rows & (found.state == AnswerState.ANSWERED_WIDTH_UNKNOWN)
        although = f"asked although the width is not known; the published sweeps ask it from width {least} on"
        texts[here] = np.where(texts[here] == StatusCode.OK.value, although, texts[here] + f"; {although}")
        texts[rows & (found.state == AnswerState.WIDTH_BELOW_LEAST)] = f"not asked: width below {least}"
    return texts


def row_statuses(table: pd.DataFrame, answers: Mapping[str, Answers]) -> np.ndarray:
    """What the table says of each row, then the features that are missing, [rows] of str; "ok" for nothing to say."""
    missing = np.full(len(table), "", dtype=object)
    said: dict[str, np.ndarray] = {}
    for answer in answers.values():
        for found, rows in answer.speakers:
            for name, gone in found.missing.items():
                before = said.get(name, np.zeros(len(table), dtype=bool))
                new = gone & rows & ~before
                missing[new] = np.where(missing[new] == "", "missing ", missing[new] + ", ") + name
                said[name] = before | new
    told = troubles(table)
    texts = np.where((told != "") & (missing != ""), told + "; " + missing, told + missing)
    return np.where(texts == "", StatusCode.OK.value, texts)


def preset_caution(mismatch: PresetMismatch, num_rows: int, total: int) -> str:
    """What it means that `num_rows` of a table's `total` rows were measured by another preset than the trees' rows."""
    rows = "" if num_rows == total else f"{num_rows:,} of {total:,} rows "
    return (
        f"{rows}measured with preset {mismatch.measured}, tree grown on preset {mismatch.grown}: the features mean the "
        "same, but probabilities near a threshold are less sure"
    )


def second_seed(tree: MDTree, *, has_seeds: bool = False) -> str:
    """How to have what the full tree reads that one model cannot give, and how much oftener it was right.

    `has_seeds` says that there are several models already, so that it only has to be measured.
    """
    of_pairs = [name for name in tree.features if quantity(name).of_pairs]
    metrics = dict.fromkeys(PAIR_FEATURES[name] for name in of_pairs)
    way = f"Measuring {', '.join(metrics)} as well (mdjax measure --metrics)" if has_seeds else "A second seed"
    text = f"{way} would add {', '.join(of_pairs)}"
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


_HELD_BACK = {
    (Stage.CHANCE, "train_error"): "which is no better than a constant guess",
    (Stage.CHANCE, "train_loss"): "which is hardly better than a constant guess",
    (Stage.MISMATCH, "test_error"): "no better than a guess, although the network has learnt its training data",
    (Stage.MISMATCH, "relabelling_gain"): "so much test error would go if the classes were numbered otherwise there",
    (Stage.MISMATCH, "prediction_shift"): "so differently often are classes predicted on training and on test data",
    (Stage.NOT_CONVERGED, "negative_curvature"): "the most negative curvature as a fraction of the largest: training "
    "stopped before it came near a minimum",
}


def measured_text(stage: Stage, measured: Measured, row: int) -> str:
    """What a number of a row says at a stage that holds it back: the value, its threshold, and why that matters."""
    if stage is Stage.DIVERGED:
        return f"{measured.name} is not finite"
    unit = f" {measured.unit}" if measured.unit else ""
    value, threshold = (f"{number:.4g}{unit}" for number in (measured.values[row], measured.thresholds[row]))
    return f"{measured.name} = {value} is at or above {threshold}, {_HELD_BACK[stage, measured.name]}"


def foreign_text(name: str, value: Fact, seen: Sequence[Fact]) -> str:
    """A fact by which a row is of another kind than all that were seen."""

    def plain(fact: Fact) -> str:
        return fact if isinstance(fact, str) else f"{fact:g}"

    return f"{name} is {plain(value)}, and {' or '.join(map(plain, seen))} in all rows that the trees were grown on"


def distance_text(p_value: float) -> str:
    """How rare a row's distance is among those of the rows that trees were grown on."""
    return (
        f"{100 * p_value:.2g} % of the rows that the trees were grown on lie as far from their {NUM_NEIGHBOURS} "
        f"nearest, with an allowance of {100 * (ALLOWANCE - 1):.0f} %; at {100 * TAIL:g} % or less a network is outside"
    )


def furthest_text(name: str, value: float, seen: tuple[float, float], near: tuple[float, float]) -> str:
    """What sets a row apart the most: a feature, its value, all that was seen of it, and what the nearest rows have."""
    text = f"{name} = {value:.4g}, seen from {seen[0]:.4g} to {seen[1]:.4g}"
    if seen[0] <= value <= seen[1]:
        text += f", but from {near[0]:.4g} to {near[1]:.4g} in the nearest rows"
    return text


def nearest_text(labels: Mapping[str, np.ndarray], nearest: np.ndarray) -> str:
    """What the sweep itself showed of the rows nearest to one that is outside, most frequent first."""
    told = []
    for question in QUESTIONS.values():
        if question.label in labels:
            counts = Counter(labels[question.label][nearest])
            told.append(
                ", ".join(f"{num} {question.meaning.get(label, 'optimal')}" for label, num in counts.most_common())
            )
    return f"of the {len(nearest)} nearest rows, their own sweep showed: {'; '.join(told)}" if told else ""
