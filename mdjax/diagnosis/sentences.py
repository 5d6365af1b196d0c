"""Facts about answers in words: the one place where a diagnosis becomes text for people."""

from collections.abc import Mapping

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
from mdjax.diagnosis.quantities import quantity
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


def second_seed(tree: MDTree) -> str:
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
