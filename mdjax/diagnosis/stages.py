"""What is asked of a network before the trees are: whether a knob is the answer at all, each time with its evidence.

The stages are a cascade: a row's verdict is that of the first test that it fails, and only what passes all of them is
given to the trees. A test whose columns a table lacks, or has as text, is not made.
"""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from mdjax.diagnosis.checks import known_numbers
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.populations import TAIL, Distances, Population
from mdjax.statuses import StatusCode

NEAR_CHANCE = 0.95
"""A network whose error is this fraction of that of a constant guess has learnt nothing."""

LOSS_NEAR_CHANCE, ERROR_BESIDE_IT = 0.9, 0.8
"""So has one whose loss is this fraction of a constant guess's, with an error that is the second fraction of its."""

RELABELLING_GAIN, PREDICTION_SHIFT = 10.0, 10.0
"""Points of `relabelling_gain` and `prediction_shift` from which test data are of another kind."""

NEGATIVE_CURVATURE = 0.25
"""A network whose most negative curvature is this fraction of its largest has not come near a minimum."""

LEARNT = 0.5
"""A network whose training error is at most this fraction of that of a constant guess has learnt its training data."""


class Stage(enum.StrEnum):
    """Which part of the cascade gives a row's verdict; the values stand in the column `stage`."""

    DIVERGED = "diverged"  # its training: the loss is not finite
    CHANCE = "chance"  # no better than a constant guess on its own training data
    MISMATCH = "mismatch"  # what it learnt from the training data does not hold for the test data
    NOT_CONVERGED = "not_converged"  # its training stopped early
    OUTSIDE = "outside"  # of the population that the trees were grown on
    TREES = "trees"
    CALIBRATION = "calibration"  # a small zoo of the user's own task, in place of the trees


@dataclass(frozen=True)
class Measured:
    """One number of every row, held against a threshold; arrays of shape [rows]."""

    name: str
    unit: str
    values: np.ndarray
    thresholds: np.ndarray
    failed: np.ndarray  # a mask: whether the row fails the test by this number


class Outside(NamedTuple):
    """Rows that lie outside a population, and how far."""

    population: Population
    distances: Distances
    rows: np.ndarray  # a mask


@dataclass(frozen=True)
class Stages:
    """The cascade's result for every row of a table."""

    stage: np.ndarray  # values of Stage, [rows] of str
    tests: dict[Stage, tuple[Measured, ...]]
    outside: tuple[Outside, ...]  # one for each population that the trees were grown on

    def rows(self, stage: Stage) -> np.ndarray:
        """A mask of the rows whose verdict the stage gives."""
        return self.stage == stage

    @property
    def before_trees(self) -> np.ndarray:
        """A mask of the rows that the trees are not asked about."""
        return self.stage != Stage.TREES


def stages(table: pd.DataFrame, trees: Mapping[str, MDTree]) -> Stages:
    """The stage of every row of a table: that of the first test it fails. Costs a few passes over the columns."""
    tests = {stage: test(table) for stage, test in TESTS.items()}
    found = np.full(len(table), Stage.TREES.value, dtype=object)
    outside = tuple(_outside(table, population) for population in populations(trees))
    for one in outside:
        found[one.rows] = Stage.OUTSIDE.value
    for stage, measured in reversed(tests.items()):
        for one in measured:
            found[one.failed] = stage.value
    return Stages(found, tests, outside)


def populations(trees: Mapping[str, MDTree]) -> list[Population]:
    """The populations that trees were grown on, each once."""
    found = {tree.population_.key: tree.population_ for tree in trees.values() if tree.population_ is not None}
    return list(found.values())


def _outside(table: pd.DataFrame, population: Population) -> Outside:
    distances = population.distances(table)
    rows = np.nan_to_num(distances.p_value, nan=1.0) <= TAIL
    return Outside(population, distances, np.logical_or.reduce([rows, *distances.foreign.values()]))


class Chance(NamedTuple):
    """What a constant guess gets, [rows]: error in percent and loss in nats; NaN where the classes are not known."""

    error: np.ndarray
    loss: np.ndarray


def chance(table: pd.DataFrame) -> Chance:
    """What the best constant guess gets on the training data (`chance_error`, `chance_loss`), or else a uniform one.

    The uniform guess over `num_classes` = c classes has error 100 (1 - 1/c) percent and loss ln c.
    """
    classes = known_numbers(table, "num_classes")
    classes = np.where(classes >= 2, classes, np.nan)
    error, loss = known_numbers(table, "chance_error"), known_numbers(table, "chance_loss")
    return Chance(np.where(error > 0, error, 100 * (1 - 1 / classes)), np.where(loss > 0, loss, np.log(classes)))


def _diverged(table: pd.DataFrame) -> tuple[Measured, ...]:
    """An infinite training loss; one that is NaN only with a status that says so: otherwise it was not measured."""
    loss = known_numbers(table, "train_loss")
    codes = table["status_code"].astype(object) if "status_code" in table.columns else pd.Series("", table.index)
    told = codes.isin([StatusCode.WEIGHTS_NOT_FINITE, StatusCode.NOT_FINITE]).to_numpy()
    return (
        Measured("train_loss", "nats", loss, np.full(len(table), np.inf), np.isinf(loss) | (np.isnan(loss) & told)),
    )


def _at_chance(table: pd.DataFrame) -> tuple[Measured, ...]:
    error, loss = known_numbers(table, "train_error"), known_numbers(table, "train_loss")
    guess = chance(table)
    least_error, least_loss = NEAR_CHANCE * guess.error, LOSS_NEAR_CHANCE * guess.loss
    return (
        Measured("train_error", "%", error, least_error, error >= least_error),
        Measured(
            "train_loss", "nats", loss, least_loss, (loss >= least_loss) & (error >= ERROR_BESIDE_IT * guess.error)
        ),
    )


def _mismatched(table: pd.DataFrame) -> tuple[Measured, ...]:
    """What fits the training data, and yet on the test data is no better than a guess, or takes its classes for others.

    How far training and test error lie apart does not count: on few or noisy examples a network may memorise them all.
    """
    train, test = known_numbers(table, "train_error"), known_numbers(table, "test_error")
    guess = chance(table)
    learnt = train <= LEARNT * guess.error
    least = NEAR_CHANCE * guess.error
    found = [Measured("test_error", "%", test, least, (test >= least) & learnt)]
    for name, threshold in (("relabelling_gain", RELABELLING_GAIN), ("prediction_shift", PREDICTION_SHIFT)):
        values = known_numbers(table, name)
        thresholds = np.full(len(table), threshold)
        found.append(Measured(name, "points", values, thresholds, (values >= thresholds) & learnt))
    return tuple(found)


def _not_converged(table: pd.DataFrame) -> tuple[Measured, ...]:
    """A Hessian that is far from positive semi-definite: training stopped where the loss still falls steeply.

    The sizes of gradient or loss alone do not tell: at a high temperature both stay large however long one trains.
    """
    values = known_numbers(table, "negative_curvature")
    thresholds = np.full(len(table), NEGATIVE_CURVATURE)
    return (Measured("negative_curvature", "", values, thresholds, values >= thresholds),)


TESTS: dict[Stage, Callable[[pd.DataFrame], tuple[Measured, ...]]] = {
    Stage.DIVERGED: _diverged,
    Stage.CHANCE: _at_chance,
    Stage.MISMATCH: _mismatched,
    Stage.NOT_CONVERGED: _not_converged,
}
"""The cascade in its order: each test reads a table and says which rows fail it, by which numbers."""
