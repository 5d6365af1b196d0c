"""What a small zoo of the user's own task says of a table's rows: left by `mdjax calibrate`, read by `--tree CAL`."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd

from mdjax import file_sets
from mdjax.columns import CLASSES, TASK
from mdjax.diagnosis.causes import CLEAR, Weighed
from mdjax.diagnosis.checks import numeric_column, tasks
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.questions import QUESTIONS
from mdjax.diagnosis.stages import Stage, Stages
from mdjax.diagnosis.surface import CHANGES, SLACK, Surface
from mdjax.diagnosis.treefiles import NAMED
from mdjax.diagnosis.trees import load_trees, save_trees
from mdjax.errors import InputError, first_line
from mdjax.files import place, writing
from mdjax.inputs import parse_json, text_of

FORMAT, VERSION = "mdjax-calibration", 2
FILE, TREES = "calibration.json", "trees.json"

SHARED = ("family", "depth", "num_classes", TASK, "label_noise", "optimizer", "schedule", "augmentation")
"""What a row has to have in common with a calibration's networks, where both are known: of others it does not speak."""

STEPS = {"temperature": tuple(2.0**k for k in range(-8, 9) if k), "width": (2, 4), "data": (2, 4)}
"""Factors of what a configuration has, to which it could change; the nearest ones are one step."""

NAMES = {
    "hotter": "half the batch, or twice the learning rate",
    "colder": "twice the batch, or half the learning rate",
    "wider": "twice the width",
    "more data": "twice the data",
}
"""What one step of each change is."""


class Accuracy(NamedTuple):
    """How often answers about the larger networks of the zoo, learnt from its smaller ones, were right; in percent."""

    rows: int
    balanced: float  # mean over the two classes
    interval: tuple[float, float]  # of 95 %, by the number of rows
    majority: float  # of a constant answer
    validation: float  # of a decision tree on training and test losses and errors, balanced

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The accuracy that `_asdict` described; KeyError, TypeError or ValueError for anything else."""
        values = {name: float(content[name]) for name in ("balanced", "majority", "validation")}
        low, high = map(float, content["interval"])
        if not all(0 <= value <= 100 for value in (*values.values(), low, high)):
            raise ValueError("an accuracy is not from 0 to 100 %")
        return cls(rows=int(content["rows"]), interval=(low, high), **values)

    @property
    def is_better(self) -> bool:
        """Whether the answers are better than those of the validation tree and of a constant."""
        return self.balanced > max(self.validation, 50.0)

    def to_text(self, question: str) -> str:
        """One sentence."""
        low, high = self.interval
        text = (
            f"{question}: right in {self.balanced:.0f} % of {self.rows} larger networks of the zoo (balanced; 95 % "
            f"interval {low:.0f} to {high:.0f}), a validation tree in {self.validation:.0f} %, a constant one in 50 %"
        )
        return text if self.is_better else f"{text}: no better than looking at losses alone"


class Answered(NamedTuple):
    """What a calibration says of a table's rows; NaN in rows that it says nothing of."""

    rows: np.ndarray  # of which it speaks, bool[rows]
    probabilities: np.ndarray  # of each of CAUSES, [rows, causes]
    first: dict[str, np.ndarray]  # question → probability of its first class, [rows]
    one: np.ndarray  # points of test accuracy of one step of each change, [rows, changes]
    one_se: np.ndarray
    best: np.ndarray  # of its best step
    best_se: np.ndarray
    why_not: np.ndarray  # what keeps it from speaking, [rows] of str


@dataclass(frozen=True)
class Calibration:
    """A zoo of small networks of one task as a surface of test accuracy, and how far its answers can be trusted."""

    surface: Surface
    facts: Mapping[str, Any]  # what its networks share: family, num_classes, data, and the recipe
    accuracy: Mapping[str, Accuracy]  # by question; none for those that could not be tried
    num_models: int
    trees: Mapping[str, MDTree] = field(default_factory=dict)  # for rows whose settings are not known

    def reach(self) -> dict[str, tuple[float, float]]:
        """The least and greatest value of each axis among the zoo's networks."""
        return {
            name: (float(np.min(values)), float(np.max(values)))
            for name, values in self.surface.points._asdict().items()
        }

    def to_text(self) -> str:
        """What the zoo is, and how often it was right about its own larger networks."""
        reach = self.reach()
        widths, shares = ("{:g} to {:g}".format(*reach[name]) for name in ("width", "data"))
        kind = f"{self.facts['family']} networks" if self.facts.get("family") else "networks"
        line = f"{self.num_models} {kind} of width {widths} on {shares} of the data"
        return "\n".join([line, *(f"  {found.to_text(name)}" for name, found in self.accuracy.items())])

    def answered(self, table: pd.DataFrame) -> Answered:
        """What the zoo says of every row whose width, temperature, amount of data and test error are known.

        Reads `width`, `learning_rate`, `batch_size`, `data_share` (or `data`, in tenths) and `test_error`. Rows that
        differ from its networks in what `SHARED` names are left alone. Cost: some 10 ms a row.
        """
        asked, why_not = self._settings(table)
        rows = (why_not == "").astype(bool)
        shape = len(table), len(CHANGES)
        probabilities, one, one_se, best, best_se = (np.full(shape, np.nan) for _ in range(5))
        first = {name: np.full(len(table), np.nan) for name in QUESTIONS}
        coldest, hottest = (limit * factor for limit, factor in zip(self.reach()["temperature"], (0.99, 1.01)))
        for row in np.flatnonzero(rows):
            here = {name: float(values[row]) for name, values in asked.items() if name != "accuracy"}
            steps = {name: [here[name] * factor for factor in factors] for name, factors in STEPS.items()}
            # Width and data follow a trend beyond the zoo; what lies beyond its temperatures nobody has seen.
            steps["temperature"] = [value for value in steps["temperature"] if coldest <= value <= hottest]
            found = self.surface.gains(here, float(asked["accuracy"][row]), steps)
            probabilities[row] = found.is_right
            one[row], one_se[row], best[row], best_se[row] = found.one, found.one_se, found.best, found.best_se
            for name, value in found.beats.items():
                first[name][row] = value
        return Answered(rows, probabilities, first, one, one_se, best, best_se, why_not)

    def has_seen(self, table: pd.DataFrame) -> np.ndarray:
        """A mask of the rows that are observations of this calibration: of the same settings and test accuracy."""
        asked, _ = self._settings(table)
        points = self.surface.points
        own = np.column_stack([*points, self.surface.accuracy])
        rows = np.column_stack([asked[name] for name in ("temperature", "width", "data", "accuracy")])
        # Tables keep numbers in 32 or 64 bits.
        return np.array([(np.abs(row - own) <= 1e-6 * np.abs(own)).all(axis=1).any() for row in rows], dtype=bool)

    def _settings(self, table: pd.DataFrame) -> tuple[dict[str, np.ndarray], np.ndarray]:
        def column(name: str) -> np.ndarray:
            if name not in table.columns:
                return np.full(len(table), np.nan)
            return numeric_column(table, name)

        share = column("data_share")
        share = np.where(np.isnan(share), column("data") / 10, share)
        asked = {
            "temperature": column("learning_rate") / column("batch_size"),
            "width": column("width"),
            "data": share,
            "accuracy": 100 - column("test_error"),
        }
        needed = {
            "temperature": "learning_rate and batch_size",
            "width": "width",
            "data": "data_share",
            "accuracy": "test_error",
        }
        why_not = np.full(len(table), "", dtype=object)
        for name, values in asked.items():
            missing = ~np.isfinite(values) | ((values <= 0) & (name != "accuracy"))
            why_not[missing & (why_not == "")] = f"{needed[name]} not known"
        for name in SHARED:
            if name == TASK:
                own, expected = tasks(table), self.facts.get(TASK) or CLASSES
            elif self.facts.get(name) is None or name not in table.columns:
                continue
            else:
                own, expected = table[name].astype(object), self.facts[name]
            alike = [value == expected for value in own]  # numbers of any type, or texts
            other = own.notna().to_numpy() & ~np.array(alike, dtype=bool)
            why_not[other] = f"{name} is another than the calibration's {expected}"
        return asked, why_not

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the calibration into a folder; InputError where it cannot be written."""
        folder = place(folder)
        content: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "facts": dict(self.facts),
            "num_models": self.num_models,
            "accuracy": {name: found._asdict() for name, found in self.accuracy.items()},
            "surface": self.surface.to_dict(),
        }
        remedy = "Choose a folder that you may write."
        with writing(f"the calibration to {folder / FILE}", remedy), file_sets.changing(folder) as new:
            if self.trees:
                save_trees(self.trees.values(), new / TREES)
                content["trees"] = _digest((new / TREES).read_bytes())
            text = json.dumps({"trees": None, **content}, indent=1, allow_nan=False) + "\n"
            (new / FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> Self:
        """The calibration of a folder; InputError for a missing, foreign, damaged, older or newer one."""
        folder = Path(folder)
        found = file_sets.until_consistent(lambda: cls._read_together(folder))
        if found is None:
            raise InputError(
                f"{folder / TREES} is of another calibration than {FILE} beside it. Run mdjax calibrate again."
            )
        return found

    @classmethod
    def _read_together(cls, folder: Path) -> Self | None:
        """The calibration of a folder; None where its files were not written together."""
        path = folder / FILE
        try:
            with file_sets.open_newest(folder, FILE) as file:
                content = parse_json(text_of(file))
        except OSError as error:
            raise InputError(f"Cannot read {path}: {first_line(error)}. Run mdjax calibrate first.") from None
        except ValueError as error:
            raise InputError(f"{path} is not a JSON file ({first_line(error)}). Run mdjax calibrate again.") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
            raise InputError(f"{path} is no calibration of version {VERSION}. Run mdjax calibrate again.")
        try:
            accuracy = {str(name): Accuracy.from_dict(found) for name, found in content["accuracy"].items()}
            surface, num_models = Surface.from_dict(content["surface"]), int(content["num_models"])
            _check_facts(content["facts"])
            trees = _trees_beside(folder, content)
            return None if trees is None else cls(surface, content["facts"], accuracy, num_models, trees)
        except InputError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise InputError(f"{path} is damaged ({first_line(error)}). Run mdjax calibrate again.") from None


def _check_facts(facts: Any) -> None:
    """ValueError unless facts are texts and numbers by name."""
    if not isinstance(facts, dict):
        raise ValueError("its facts are no names with values")
    for name, value in facts.items():
        if not isinstance(value, str | int | float | None):
            raise ValueError(f"its {name} is a {type(value).__name__}")


def _trees_beside(folder: Path, content: Mapping[str, Any]) -> dict[str, MDTree] | None:
    """The trees that belong to what a calibration's file says; None where those of the folder are others."""
    if "trees" in content and content["trees"] is None:
        return {}
    kept = file_sets.newest(folder, TREES)
    if "trees" not in content:  # written by an earlier version
        return load_trees(kept) if kept.exists() else {}
    try:
        trees = load_trees(kept)
        with file_sets.open_newest(folder, TREES) as file:
            return trees if _digest(file.read()) == content["trees"] else None
    except (InputError, FileNotFoundError):
        if kept.exists():
            raise
        return None  # moved to its place, or missing


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def calibration_of(source: Any) -> Calibration | None:
    """The calibration that trees are given as, the object or its folder; None where they are something else.

    InputError for a folder without a whole one.
    """
    if isinstance(source, Calibration):
        return source
    if isinstance(source, str | PathLike) and source not in NAMED and Path(source).is_dir():
        return Calibration.load(source)
    return None


_OVERRULED = (Stage.TREES, Stage.OUTSIDE, Stage.CHANCE, Stage.NOT_CONVERGED)
"""Stages whose rows a calibration speaks of: its zoo has seen such networks of this very task."""


def with_calibration(causes: Weighed, found: Stages, answered: Answered) -> tuple[Weighed, Stages]:
    """The causes and stages of all rows, where a calibration speaks those that it says."""
    rows = answered.rows & np.isin(found.stage, _OVERRULED)
    stage = np.where(rows, Stage.CALIBRATION, found.stage).astype(object)
    probabilities = np.where(rows[:, None], answered.probabilities, causes.probabilities)
    likeliest, probability, clear = likeliest_changes(answered.probabilities, answered.best)
    told = Weighed(
        probabilities,
        np.where(rows, likeliest, causes.likeliest),
        np.where(rows, probability, causes.probability),
        np.where(rows, clear, causes.clear).astype(bool),
        stage,
    )
    return told, replace(found, stage=stage)


def likeliest_changes(is_right: np.ndarray, best: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The change to make, the probability that it is right, and whether that is clear enough to name it: all [rows].

        is_right: the probability of each of `CHANGES` that no other brings clearly more, [rows, changes].
        best: what each is expected to bring, [rows, changes].

    Of equally right ones it is the one that brings most. Where that is less than `SLACK` points, none is clear.
    """
    right, gain = np.nan_to_num(is_right), np.nan_to_num(best)
    likeliest = np.lexsort((gain, right))[:, -1] if len(right) else np.zeros(0, int)
    rows = np.arange(len(right))
    probability = right[rows, likeliest]
    return likeliest, probability, (probability >= CLEAR) & (gain[rows, likeliest] >= SLACK)


def gain_texts(answered: Answered, row: int) -> tuple[str, ...]:
    """What one step of each change is expected to bring a row, the largest first."""
    order = np.argsort(-np.nan_to_num(answered.one[row], nan=-math.inf))
    return tuple(
        f"{NAMES[CHANGES[k]]}: {answered.one[row, k]:+.1f} ± {answered.one_se[row, k]:.1f} points of test accuracy"
        for k in order
        if math.isfinite(answered.one[row, k])
    )
