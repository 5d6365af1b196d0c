"""Small made tables with labels, and rows, for the tests of the diagnosis."""

import numpy as np
import pandas as pd

from mdjax.diagnosis.baselines import CombinedTree, HyperparameterTree, LandscapeTree, ValidationTree
from mdjax.diagnosis.labels import failure_labels
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.questions import QUESTIONS, named

BASELINES = (HyperparameterTree, ValidationTree, CombinedTree, LandscapeTree)


def default_tree(question: str = "optimizer") -> MDTree:
    return MDTree(question, method="default")


def single_tree(question: str = "optimizer") -> MDTree:
    return MDTree(question, method="default", single=True)


def zoo(num_rows: int = 400, seed: int = 0) -> pd.DataFrame:
    """A labelled table in which the published structures hold, up to one row in ten."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "train_error": np.where(rng.random(num_rows) < 0.5, 0.6, 30) * rng.random(num_rows),
            "mode_connectivity_peak": -30 * rng.random(num_rows),
            "hessian_t": 4 + 5 * rng.random(num_rows),
            "hessian_e": 2 + 5 * rng.random(num_rows),
            "CKA": rng.random(num_rows),
            "test_error": 40 * rng.random(num_rows),
            "train_loss": rng.random(num_rows),
            "test_loss": 2 * rng.random(num_rows),
            "log_data_amount": rng.choice([8.5, 9.2, 10.8], num_rows),
            "log_para_amount": rng.choice([9.3, 13.4, 17.6], num_rows),
            "width": rng.choice([2, 8, 32, 64], num_rows),
            "data": rng.choice([1, 5, 10], num_rows),
            "bs": rng.choice([16, 128, 1024], num_rows),
        }
    )
    table["configuration"] = [f"c{i}" for i in range(num_rows)]
    for question in QUESTIONS.values():
        label = by_hand(question.name, table, [split.threshold for split in question.tree])
        other = np.where(label == question.classes[0], question.classes[1], question.classes[0])
        drawn = rng.random(num_rows)
        table[question.label] = np.where(drawn < 0.1, other, np.where(drawn > 0.95, "optimal", label))
    return table


def by_hand(question: str, table: pd.DataFrame, t: list[float]) -> np.ndarray:
    """The published rules written out one by one, to hold the tables of splits against."""
    error, peak, sharp = (table[name] for name in ("train_error", "mode_connectivity_peak", "hessian_t"))
    answers = []
    for e, p, h in zip(error, peak, sharp):
        if question == "optimizer":
            if e <= t[0]:
                answers.append("small")
            elif p <= t[1]:
                answers.append("large" if h <= t[2] else "small")
            else:
                answers.append("large")
        elif question == "width":
            answers.append("width" if p <= (t[1] if e <= t[0] else t[2]) else "batch")
        elif e <= t[0]:
            answers.append("data" if h <= (t[4] if p <= t[1] else t[2]) else "batch")
        else:
            answers.append("batch" if p <= t[3] else "data" if h <= t[5] else "batch")
    return np.array(answers, dtype=object)


def labelled(name: str) -> tuple[pd.DataFrame, pd.Series]:
    rows = named(name).rows(zoo())
    return rows, rows[named(name).label]


def one_row(**features: object) -> pd.DataFrame:
    measured = {"train_error": 20.0, "mode_connectivity_peak": -2.0, "hessian_t": 5.0, "width": 64}
    return pd.DataFrame([measured | features])


def sweep(seed: int = 0) -> pd.DataFrame:
    """A labelled 6 x 4 x 3 sweep in which all features are random but the training errors."""
    rng = np.random.default_rng(seed)
    grid = [(b, w, d) for d in (1, 5, 10) for w in (8, 32, 64, 128) for b in (16, 32, 64, 128, 256, 512)]
    table = pd.DataFrame(grid, columns=["bs", "width", "data"])
    n = len(table)
    table["test_acc"] = 60 + 10 * rng.random(n)
    table["train_error"] = np.where(table["bs"] > 64, 0.0, 20.0) * rng.random(n)
    table["train_loss"] = 10 ** rng.uniform(-4, 0, n)
    table["mode_connectivity_peak"] = -40 * rng.random(n)
    table["hessian_t"], table["hessian_e"] = 4 + 4 * rng.random(n), 2 + 4 * rng.random(n)
    table["configuration"] = [f"c{k}" for k in range(n)]
    return failure_labels(table)
