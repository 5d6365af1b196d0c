"""From a table of measured configurations to the cause of each one's failure, its evidence and one change to make.

How the answers are joined. The width tree weighs `model too small` against the temperature, the data tree (asked from
width 32 on) weighs `too little data` against it; each answer is kept as odds, so the three knobs get probabilities
in the ratio width odds : data odds : 1. The likeliest knob is the one to turn; for the temperature the optimizer tree
gives the direction and shares the temperature's probability between too low and too high. A cause is named when its
probability is at least `CLEAR`; otherwise the verdict is `no clear failure`.

Rows that lack what needs pairs of models (connectivity, CKA) are answered by the tree for single models, where there
is one. Standard errors (`<feature>_se` columns) and other missing features are carried into the probabilities; see
`MDTree.leaf_weights`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd

from mdjax.diagnosis.baselines import CombinedTree, HyperparameterTree, LandscapeTree, ValidationTree
from mdjax.diagnosis.checks import numeric_column
from mdjax.diagnosis.growing import grow
from mdjax.diagnosis.mdtree import MDTree, load_trees, save_trees
from mdjax.diagnosis.quantities import Columns, quantity, with_errors, with_quantities
from mdjax.diagnosis.questions import QUESTIONS, features_of, leaf_positions
from mdjax.errors import InputError

__all__ = [
    "CAUSES",
    "CombinedTree",
    "HyperparameterTree",
    "LandscapeTree",
    "MDTree",
    "ValidationTree",
    "diagnose",
    "grow",
    "load_trees",
    "save_trees",
]

NO_CLEAR_FAILURE, UNKNOWN = "no clear failure", "unknown"
CLEAR = 0.65  # the least probability of a cause that is named; see bench/default_method.py for how it was chosen
NUM_ERRORS = 2  # a threshold this many standard errors away, or nearer, is flagged as crossed


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

Trees = Mapping[str, MDTree] | str | PathLike[str] | None


@dataclass(frozen=True)
class Answers:
    """One tree's answers to every row; label None and probabilities NaN where it was not asked or cannot say."""

    label: np.ndarray
    first: np.ndarray  # the probability of the question's first class
    probability: np.ndarray  # that of the label
    status: np.ndarray
    leaf: np.ndarray  # position of the (likeliest) leaf, in the tree that spoke
    flags: dict[str, np.ndarray]  # text -> mask
    single: np.ndarray  # whether the tree for single models spoke


def diagnose(table: pd.DataFrame, trees: Trees = None) -> pd.DataFrame:
    """The verdict on every configuration (row) of a table, one row each, in order and with the same index.

    `trees` maps questions to fitted trees, or is a file of them (default: the shipped trees, grown on the published
    Model Diagnosis Dataset). Costs no more than a few passes over the columns: 100,000 rows in about a second.

    Reads the features in their published units: errors and `mode_connectivity_peak` in percent, `hessian_t` and
    `hessian_e` the natural logarithm of the trace and the largest eigenvalue, `width` in channels of the first stage.
    Returns `configuration` (where the table has it), `cause`, `probability`, `recommendation`, `gain` and `gain_best`
    (points of test accuracy that one step, and the best step, of the recommended change brought on average in the
    sweep that the tree was grown on), `status` ("ok", or what is missing or went wrong), `flags` (reasons for
    caution, joined by "; "), `p_<cause>` for each of `CAUSES`, and for each question its `<question>_answer`
    (published class), `<question>_probability`, `<question>_status` and `<question>_tree` ("full", "single" or None).
    What is to be said once of the whole table is in the frame's `attrs["cautions"]`, a list of sentences.

    Trees with soft thresholds answer the likelier class; with sharp ones an answer is the class that the point values
    lead to, and its probability counts the error bars, so it can be below one half.

    A broken row never raises: it is told in its `status`. Raises InputError when no tree finds any of its features.
    """
    trees = as_trees(trees)
    _check_table(table, trees)
    answers = {name: answers_to(tree, table) for name, tree in trees.items()}
    probabilities = _cause_probabilities(answers, len(table))
    turned = likeliest(probabilities)
    known = turned >= 0
    probability = np.where(known, probabilities[np.arange(len(table)), turned], np.nan)
    clear = known & (np.nan_to_num(probability) >= CLEAR)

    meanings = np.array([cause.meaning for cause in CAUSES], dtype=object)[turned]
    changes = np.array([cause.change for cause in CAUSES], dtype=object)[turned]
    missing = "measure what is missing first"
    out: dict[str, Any] = {}
    if "configuration" in table.columns:
        out["configuration"] = table["configuration"].to_numpy()
    out["cause"] = np.where(clear, meanings, np.where(known, NO_CLEAR_FAILURE, UNKNOWN))
    out["probability"] = probability
    out["recommendation"] = np.where(clear, changes, np.where(known, "no single change stands out", missing))
    gains = _gains(trees, answers, turned, clear)
    out["gain"], out["gain_best"] = gains["one"], gains["best"]
    out["status"] = _row_status(table, answers.values())
    out["flags"] = _row_flags(answers, len(table))
    for k, cause in enumerate(CAUSES):
        out[f"p_{cause.key}"] = probabilities[:, k]
    for name, answer in answers.items():
        out[f"{name}_answer"] = answer.label
        out[f"{name}_probability"] = answer.probability
        out[f"{name}_status"] = answer.status
        spoke = np.where(answer.single, "single", "full").astype(object)
        spoke[pd.isna(answer.label)] = None
        out[f"{name}_tree"] = spoke
    verdicts = pd.DataFrame(out, index=table.index)
    verdicts.attrs["cautions"] = table_cautions(table, trees)
    return verdicts


def as_trees(trees: Trees) -> dict[str, MDTree]:
    """Fitted trees by question, from a mapping, a file or (None) the shipped file; InputError for anything else."""
    if trees is None or isinstance(trees, (str, PathLike)):
        return load_trees(trees)
    for name, tree in trees.items():
        if not isinstance(tree, MDTree) or not hasattr(tree, "tree_") or tree.question != name:
            raise InputError(
                f"trees[{name!r}] must be a fitted MDTree of that question, got {tree!r}. "
                "Grow it with mdjax.diagnosis.grow(table, question), or load a file."
            )
    if not trees:
        raise InputError(f"trees is empty. Give a tree for one or more of {', '.join(QUESTIONS)}.")
    return dict(trees)


def _check_table(table: pd.DataFrame, trees: Mapping[str, MDTree]) -> None:
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"The table must be a pandas DataFrame, got {type(table).__name__}. Load it first.")
    heard = [one for tree in trees.values() for one in (tree, tree.single_) if one is not None]
    wanted = dict.fromkeys(name for tree in heard for name in tree.features)
    if not any(name in table.columns for name in wanted):
        raise InputError(
            f"The table has none of the features {', '.join(wanted)}; it has "
            f"{', '.join(map(str, table.columns)) or 'no columns'}. Measure the models first."
        )


def measured(tree: MDTree, table: pd.DataFrame) -> tuple[Columns, Columns]:
    """What the tree reads and splits on, and the standard errors; NaN for what is missing, 0 for unknown errors."""
    columns, errors = {}, {}
    for name in tree.features:
        values = numeric_column(table, name) if name in table.columns else np.full(len(table), np.nan)
        columns[name] = np.where(np.isfinite(values), values, np.nan)
        spread = numeric_column(table, f"{name}_se") if f"{name}_se" in table.columns else np.zeros(len(table))
        errors[name] = np.where(np.isfinite(spread) & (spread > 0), spread, 0.0)
    features = features_of(tree.tree_)
    return with_quantities(features, columns), with_errors(features, columns, errors)


def single_rows(tree: MDTree, table: pd.DataFrame) -> np.ndarray:
    """A mask of the rows that the tree's companion for single models answers: those that lack what takes pairs."""
    if tree.single_ is None:
        return np.zeros(len(table), dtype=bool)
    columns, _ = measured(tree, table)
    of_pairs = [name for name in tree.features if quantity(name).of_pairs]
    return np.logical_or.reduce([np.isnan(columns[name]) for name in of_pairs])


def speaking(tree: MDTree, table: pd.DataFrame) -> MDTree:
    """The tree that answers for a table (or one row): the companion for single models where all rows need it."""
    return tree.single_ if tree.single_ is not None and single_rows(tree, table).all() else tree


def answers_to(tree: MDTree, table: pd.DataFrame) -> Answers:
    """The answers to all rows, each by the tree or, where pairs are missing, by its companion for single models."""
    single = single_rows(tree, table)
    full = tree_answers(tree, table)
    if tree.single_ is None or not single.any():
        return full
    other = tree_answers(tree.single_, table)
    flags = {text: mask & ~single for text, mask in full.flags.items()}
    for text, mask in other.flags.items():
        flags[text] = flags.get(text, False) | (mask & single)
    return Answers(
        label=np.where(single, other.label, full.label),
        first=np.where(single, other.first, full.first),
        probability=np.where(single, other.probability, full.probability),
        status=np.where(single, other.status, full.status),
        leaf=np.where(single, other.leaf, full.leaf),
        flags=flags,
        single=single,
    )


def tree_answers(tree: MDTree, table: pd.DataFrame) -> Answers:
    """One tree's own answers to all rows of a table, whatever is missing."""
    question = tree.asked_question
    columns, errors = measured(tree, table)
    asked = question.asked(table)
    absent = {name: np.isnan(columns[name]) for name in tree.features}
    incomplete = np.logical_or.reduce(list(absent.values()))
    # Every tree asks its root first; where that is missing, the rest says nothing about this row.
    answered = asked & ~np.isnan(columns[tree.tree_[0].feature])

    weights = tree.leaf_weights(columns, errors)
    weighed = incomplete | tree.soft
    leaf = np.where(weighed, weights.argmax(axis=1), leaf_positions(tree.tree_, columns))
    proba = weights @ tree.leaf_shares()
    first = proba[:, list(tree.classes_).index(question.classes[0])]
    label = np.array([found.label for found in tree.leaves_], dtype=object)[leaf]
    likelier = np.where(first >= 0.5, *question.classes).astype(object)
    label = np.where(weighed, likelier, label)
    label[~answered] = None
    probability = np.where(label == question.classes[0], first, 1 - first)

    status = np.full(len(table), "ok", dtype=object)
    for name, gone in absent.items():
        status[gone & (status == "ok")] = "missing"
        status[gone] = status[gone] + " " + name
    if question.min_width:
        known = ~table["width"].isna().to_numpy() if "width" in table.columns else np.zeros(len(table), dtype=bool)
        status[~asked] = "not asked: width unknown"
        status[~asked & known] = f"not asked: width below {question.min_width:g}"
    return Answers(
        label=label,
        first=np.where(answered, first, np.nan),
        probability=np.where(answered, probability, np.nan),
        status=status,
        leaf=leaf,
        flags={text: mask & answered for text, mask in _cautions(tree, columns, errors, leaf).items()},
        single=np.full(len(table), bool(tree.single)),
    )


def _cautions(tree: MDTree, columns: Columns, errors: Columns, leaf: np.ndarray) -> dict[str, np.ndarray]:
    """Reasons to doubt a tree's answer: features outside the range it has seen, thresholds within the error bar."""
    masks = {}
    for name, (least, greatest) in tree.feature_ranges_.items():
        masks[f"{name} below the range seen"] = columns[name] < least
        masks[f"{name} above the range seen"] = columns[name] > greatest
        crossed = np.zeros(len(leaf), dtype=bool)
        for i, split in enumerate(tree.tree_):
            if split.feature == name:
                on_path = np.array([i in dict(found.path) for found in tree.leaves_])[leaf]
                near = np.abs(columns[name] - split.threshold) <= NUM_ERRORS * errors[name]
                crossed |= on_path & (errors[name] > 0) & near
        masks[f"{name} within {NUM_ERRORS} standard errors of its threshold"] = crossed
    return masks


def _cause_probabilities(answers: Mapping[str, Answers], num_rows: int) -> np.ndarray:
    """The probability of each of CAUSES, (rows, 4); NaN for causes whose question was not answered."""
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
    """The cause to name: the likeliest knob first, then the temperature's direction; -1 where it is unknown."""
    low, high = probabilities[:, 0], probabilities[:, 1]
    width, data = np.nan_to_num(probabilities[:, 2:]).T
    knob = np.stack([1 - width - data, width, data]).argmax(axis=0)
    return np.where(knob > 0, knob + 1, np.where(np.isnan(low), -1, np.where(low >= high, 0, 1)))


def _row_status(table: pd.DataFrame, answers: Iterable[Answers]) -> np.ndarray:
    """What the table said of the row, then the features that are missing; "ok" where there is nothing to say."""
    missing: dict[str, np.ndarray] = {}
    for answer in answers:
        for text in pd.unique(answer.status):
            if text.startswith("missing "):
                for name in text.split()[1:]:
                    missing[name] = missing.get(name, False) | (answer.status == text)
    status = np.full(len(table), "", dtype=object)
    for name, mask in missing.items():
        status[mask] = np.where(status[mask] == "", "missing ", status[mask] + ", ") + name
    if "status" in table.columns:
        told = table["status"].astype(object).where(table["status"].notna(), "").astype(str).to_numpy(dtype=object)
        told = np.where(np.isin(told, ["ok", ""]), "", told)
        status = np.where((told != "") & (status != ""), told + "; " + status, told + status)
    return np.where(status == "", "ok", status)


def _row_flags(answers: Mapping[str, Answers], num_rows: int) -> np.ndarray:
    masks: dict[str, np.ndarray] = {}
    for answer in answers.values():
        for text, mask in answer.flags.items():
            masks[text] = masks.get(text, False) | mask
    flags = np.full(num_rows, "", dtype=object)
    for text, mask in masks.items():
        flags[mask] = np.where(flags[mask] == "", "", flags[mask] + "; ") + text
    return flags


def _gains(
    trees: Mapping[str, MDTree], answers: Mapping[str, Answers], turned: np.ndarray, clear: np.ndarray
) -> dict[str, np.ndarray]:
    """What the recommended change brought on average where the trees were grown; NaN where that is not known."""
    gains = {step: np.full(len(turned), np.nan) for step in ("one", "best")}
    for k, cause in enumerate(CAUSES):
        if cause.question not in trees:
            continue
        tree, single = trees[cause.question], answers[cause.question].single
        for speaker, spoke in ((tree, ~single), (tree.single_, single)):
            if speaker is not None and cause.label in speaker.gains_:
                for step, values in gains.items():
                    values[clear & (turned == k) & spoke] = speaker.gains_[cause.label][step]
    return gains


def table_cautions(table: pd.DataFrame, trees: Mapping[str, MDTree]) -> list[str]:
    """What is to be said once of a whole table: how its presets differ from that of the trees."""
    if "preset" not in table.columns:
        return []
    counts = table["preset"].astype(object).value_counts()
    cautions = []
    for grown in dict.fromkeys(tree.preset_ for tree in trees.values() if tree.preset_ is not None):
        for preset, count in counts.items():
            if preset != grown:
                rows = "" if count == len(table) else f"{count:,} of {len(table):,} rows "
                cautions.append(
                    f"{rows}measured with preset {preset}, tree grown on preset {grown}: the features mean the same, "
                    "but probabilities near a threshold are less sure"
                )
    return cautions
