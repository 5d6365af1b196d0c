"""How was the default method chosen? On the published `basic` table and on zoos grown for it, and on nothing else.

    python bench/default_method.py --data DIR --fresh DIR [--out FILE]

The first DIR holds basic.csv of the Model Diagnosis Dataset; noisy.csv is never opened. Each task imitates a transfer:
a method grows on few cells, data shares or widths of a part of `basic`, and is tested on whole widths, data shares or
batch sizes that were left out; or on the larger (or smaller) part of an axis. A fifth of the tasks is tested again
with the test rows' losses, errors, sharpness and similarity moved as another data set might move them.

The second DIR holds the tables of bench/fresh_zoos.py: other data, networks and scales. Trees grow on parts of each
table, `basic` among them, and are asked about all fresh ones.

The rules. A candidate's accuracy is the mean over plain tasks, shifted tasks and fresh zoos. Of the structures of one
question the one with the highest accuracy wins; among those within a quarter of a point of it, the one with the fewest
splits, and among equals the one with the lowest log loss. Beside it, what to fall back on is the structure that brings
the accuracy highest, if any raises it. A
setting, one for all questions, must gain more than a quarter of a point to replace the shipped one; reliability and
drift, which hardly move the accuracy, must lower the calibration error on plain and shifted tasks by more than 0.005.
A cause is named from the least probability on at which seven of ten named causes are right.

Centres and spreads of the prior beliefs come from coordinate searches on a quarter of the plain and shifted tasks;
their ends are among the candidates below.

Writes all candidates to bench/results/default_method.json; the last line of the output is JSON with the choice.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mdjax import __version__
from mdjax.beliefs import BeliefSettings, fit_beliefs
from mdjax.diagnosis import CAUSES, MDTree, diagnose, grow, likeliest
from mdjax.fitting import METHODS, Fitted, Method
from mdjax.labels import RFI_COLUMNS
from mdjax.protocols import calibration_error
from mdjax.quantities import quantity
from mdjax.questions import QUESTIONS, Split, Tree, believed, named

BLOCKS = {
    "width": {
        "data": [[32, 45], [64], [91, 128]],
        None: [[2, 3, 4, 6], [8, 11, 16, 23], [32, 45, 64, 91, 128]],
    },
    "data": {None: [[1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]},
    "bs": {None: [[16, 24, 32, 44], [64, 92, 128, 180], [256, 364, 512, 724, 1024]]},
}
EXPLORED = {
    "what": "tried before this script was written, on an earlier draw of the plain tasks: accuracy, log loss",
    "published fit": [80.67, 0.588],
    "exact average over all thresholds of the published trees, flat priors on log scales": [80.74, 0.454],
    "the same, priors uniform within the published bounds": [80.41, 0.463],
    "the same, log-normal priors between the published starts and bounds": [81.30, 0.447],
    "extra trees, logs of train error, peak, sharpness": [69.78, 0.690],
    "extra trees, logs of six landscape features": [74.60, 0.669],
    "logistic regression, logs of six landscape features": [74.73, 0.775],
    "optimizer alone: exact average, tree with the barrier": [94.07, 0.260],
    "optimizer alone: soft thresholds, tree with the barrier": [93.95, 0.271],
}
TOLERANCE = 0.25  # points of accuracy
CALIBRATION_TOLERANCE = 0.005
SURE = 0.7  # of the named causes that must be right at the cut-off


@dataclass(frozen=True)
class Task:
    """One transfer inside the table: where it is grown and where it is tested, as positions among the asked rows."""

    kind: str
    grown: np.ndarray
    tested: np.ndarray


def tasks(question: str, rows: pd.DataFrame, draws: int = 1) -> list[Task]:
    """All transfers of one question: blocks left out, with the protocols' ways to choose training rows, and scales."""
    found = []
    axes = {name: rows[name].to_numpy() for name in BLOCKS}
    folds = [
        (axis, np.isin(axes[axis], block))
        for axis, blocks in BLOCKS.items()
        for block in blocks.get(question, blocks[None])
    ]
    for fold, (left_out, test) in enumerate(folds):
        pool, tested = np.flatnonzero(~test), np.flatnonzero(test)
        cell = rows.loc[pool].groupby(["data", "width"]).ngroup().to_numpy()
        groups = [("cells", cell, (2, 4, 8, 16, 24))]
        groups += [(axis, axes[axis][pool], (1, 2)) for axis in ("data", "width")]
        for name, values, sizes in groups:
            known = np.unique(values)
            for size in sizes:
                for draw in range(draws):
                    random = np.random.default_rng([fold, size, draw, len(name)])
                    chosen = np.isin(values, random.choice(known, min(size, len(known)), replace=False))
                    found.append(Task(f"without {left_out}: {name} {size}", pool[chosen], tested))
        found.append(Task(f"without {left_out}: all", pool, tested))
    for axis, limits in (("data", (1, 2, 4)), ("width", (32, 45, 64) if question == "data" else (2, 3, 6, 16))):
        for limit in limits:
            low = axes[axis] <= limit
            found.append(Task(f"{axis} up", np.flatnonzero(low), np.flatnonzero(~low)))
        for limit in np.unique(axes[axis])[[-1, -2, -4]]:
            high = axes[axis] >= limit
            found.append(Task(f"{axis} down", np.flatnonzero(high), np.flatnonzero(~high)))
    labels = rows[named(question).label].to_numpy()
    return [task for task in found if len(set(labels[task.grown])) == 2]


def shift(loss: float = 1, error: float = 1, sharpness: float = 0, similarity: float = 0, noise: float = 0) -> Callable:
    """A change that another data set might make: factors of loss and errors, shifts, and errors on noisy labels."""

    def shifted(rows: pd.DataFrame) -> pd.DataFrame:
        # Noisy labels add to the error of models that do not fit them, at the ends of a curve and on it.
        own, peak = rows["train_error"], rows["mode_connectivity_peak"]
        return rows.assign(
            train_loss=rows["train_loss"] * loss,
            train_error=own * error + noise * (own / 5).clip(0, 1),
            mode_connectivity_peak=peak * error - noise * (-peak / 5).clip(0, 1),
            hessian_t=rows["hessian_t"] + sharpness,
            hessian_e=rows["hessian_e"] + sharpness,
            CKA=(rows["CKA"] + similarity).clip(0, 1),
        )

    return shifted


SHIFTS: dict[str, Callable] = {
    "loss x 2": shift(loss=2),
    "loss / 2": shift(loss=0.5),
    "errors x 1.7": shift(error=1.7),
    "errors x 0.6": shift(error=0.6),
    "sharpness + 0.6": shift(sharpness=0.6),
    "sharpness - 0.6": shift(sharpness=-0.6),
    "similarity + 0.08": shift(similarity=0.08),
    "similarity - 0.08": shift(similarity=-0.08),
    "8 % label noise": shift(noise=8),
    "all at once": shift(1.6, 1.3, 0.4, -0.04, 4),
}
EVERY = 5  # of the tasks is tested under shifts


FEATURES = ["train_error", "train_loss", "mode_connectivity_peak", "CKA", "hessian_t", "hessian_e"]
KEPT = [*FEATURES, *(question.label for question in QUESTIONS.values()), "data", "width", "bs"]


class Scorer:
    """Grows candidates on the tasks of each question and scores them, plain, shifted and on fresh zoos."""

    def __init__(self, table: pd.DataFrame, fresh: dict[str, pd.DataFrame] | None = None):
        self.rows = {name: question.rows(table)[KEPT].reset_index(drop=True) for name, question in QUESTIONS.items()}
        self.tasks = {name: tasks(name, rows) for name, rows in self.rows.items()}
        self.shifted = {
            name: {
                position: [change(self.rows[name].iloc[task.tested]) for change in SHIFTS.values()]
                for position, task in enumerate(found)
                if position % EVERY == 0
            }
            for name, found in self.tasks.items()
        }
        zoos = {"basic": table} | (fresh or {})
        self.fresh = {name: {zoo: fresh_rows(name, zoo, zoos[zoo]) for zoo in zoos} for name in QUESTIONS}

    def score(self, question: str, make: Callable[[], Any], columns: list[str] | None = None) -> dict[str, float]:
        """Accuracy (percent), log loss and overconfidence, means over the tasks; also over shifts and fresh zoos."""
        rows, asked = self.rows[question], named(question)
        labels = rows[asked.label].to_numpy(dtype=object)

        def judged(model: Any, test: pd.DataFrame) -> tuple[float, float, float]:
            features = test if columns is None else test[columns]
            proba, truth = model.predict_proba(features), test[asked.label].to_numpy(dtype=object)
            true = np.searchsorted(model.classes_, truth.astype(str))
            # The answer is the likelier class but for sharp trees.
            sharp = isinstance(model, MDTree) and not model.soft
            answers = model.predict(features) if sharp else model.classes_[proba.argmax(axis=1)]
            right = answers == truth
            loss = -np.log(np.clip(proba[np.arange(len(test)), true], 0.005, None))
            return 100 * right.mean(), loss.mean(), (proba.max(axis=1) - right).mean()

        plain, moved, fresh, near = [], [], [], []
        for position, task in enumerate(self.tasks[question]):
            grown, tested = rows.iloc[task.grown], rows.iloc[task.tested]
            model = make().fit(grown[columns or list(rows)], labels[task.grown])
            plain.append((*judged(model, tested), len(grown)))
            if position % EVERY == 0:
                moved += [judged(model, test) for test in self.shifted[question][position]]
        for zoo, known in self.fresh[question].items():
            for part in parts(known):
                grown = known[part]
                if grown[asked.label].nunique() < 2 or len(grown) < 6:
                    continue
                model = make().fit(grown[columns or list(grown)], grown[asked.label].to_numpy(dtype=object))
                for other, tested in self.fresh[question].items():
                    if other not in (zoo, "basic"):
                        fresh.append(judged(model, tested))
                        if other.rsplit("-", 1)[0] == zoo.rsplit("-", 1)[0]:
                            near.append(fresh[-1])
        accuracy, loss, over, num_rows = np.array(plain).T
        kinds = {"shifted": np.mean(moved, axis=0)}
        if fresh:
            kinds |= {"fresh": np.mean(fresh, axis=0), "clean_noisy": np.mean(near, axis=0)}
        means = [(accuracy.mean(), loss.mean()), *(kinds[kind][:2] for kind in kinds if kind != "clean_noisy")]
        found = {
            "accuracy": float(np.mean([mean[0] for mean in means])),
            "log_loss": float(np.mean([mean[1] for mean in means])),
            "plain_accuracy": float(accuracy.mean()),
            "plain_log_loss": float(loss.mean()),
            "below_200_rows": float(accuracy[num_rows < 200].mean()),
            "overconfidence": float(over.mean()),
        }
        for kind, mean in kinds.items():
            found |= {f"{kind}_{what}": float(value) for what, value in zip(("accuracy", "log_loss"), mean)}
        return {
            name: round(value, 4 if "loss" in name else 3 if "over" in name else 2) for name, value in found.items()
        }


def fresh_rows(question: str, zoo: str, table: pd.DataFrame) -> pd.DataFrame:
    """The asked rows that have all features; fresh networks count as wide from 16 units on."""
    asked = named(question)
    if zoo != "basic" and asked.min_width:
        asked = replace(asked, min_width=16)
    return asked.rows(table.dropna(subset=FEATURES))[KEPT].reset_index(drop=True)


def parts(rows: pd.DataFrame) -> list[np.ndarray]:
    """What is grown on of one table: all, three draws of 6 cells, the smaller data shares, the smaller widths."""
    cell = rows.groupby(["data", "width"]).ngroup().to_numpy()
    found = [np.ones(len(rows), dtype=bool)]
    for draw in range(3):
        random = np.random.default_rng([1, draw])
        found.append(np.isin(cell, random.choice(np.unique(cell), min(6, len(np.unique(cell))), replace=False)))
    for axis, share in (("data", 0.34), ("width", 0.4)):
        found.append(rows[axis].to_numpy() <= np.quantile(np.unique(rows[axis]), share))
    return found


def trial(trees: list[Tree], settings: BeliefSettings, question: str) -> MDTree:
    """An MD tree of the default method with other structures or other settings."""
    METHODS["trial"] = Method(
        start=lambda _: tuple(trees),
        fit=lambda trees, columns, labels: Fitted(*fit_beliefs(trees, columns, labels, settings)),
    )
    return MDTree(question, method="trial")


E, P, B, H, C, L = "train_error", "mode_connectivity_peak", "barrier", "hessian_t", "CKA", "train_loss"
T_, V = "trace_for_loss", "eigenvalue_for_loss"


def split(feature: str, at_most: int | str, above: int | str, *prior: float) -> Split:
    """A believed split, with a centre and a spread other than the usual ones where they are given."""
    threshold, spread = prior or (None, None)
    return believed(feature, at_most, above, threshold=threshold, spread=spread)


FITS = (E, "small", 1, 0.1, 0.5)
STRUCTURES: dict[str, dict[str, list[tuple]]] = {
    "optimizer": {
        "published": [(E, "small", 1), (P, 2, "large", -10, 1), (H, "large", "small", 6, 1)],
        "barrier": [FITS, (B, "large", "small")],
        "barrier, sharpness": [FITS, (B, "large", 2), (H, "large", "small", 6, 1)],
        "barrier, sharpness for loss": [FITS, (B, "large", 2), (V, "large", "small", 2.5, 0.35)],
        "the same, wide": [(E, "small", 1), (B, "large", 2, 2, 0.7), (V, "large", "small", 3.3, 0.7)],
        "barrier, CKA": [FITS, (B, "large", 2), (C, "small", "large")],
        "peak, barrier": [FITS, (P, 2, "large"), (B, "large", "small")],
        "peak, sharpness for loss": [(E, "small", 1), (P, 2, "large", -1, 1), (V, "large", "small", 3.3, 0.7)],
    },
    "width": {
        "published": [(E, 1, 2), (P, "width", "batch", -10, 1), (P, "width", "batch", -10, 1)],
        "peak": [(E, 1, 2), (P, "width", "batch"), (P, "width", "batch")],
        "barrier": [(E, 1, 2), (P, "width", "batch"), (B, "batch", "width")],
        "loss | peak": [(E, 1, 2), (L, "batch", "width"), (P, "width", "batch")],
        "CKA | peak": [(E, 1, 2), (C, "width", "batch"), (P, "width", "batch")],
        "CKA | peak, wide": [(E, 1, 2), (C, "width", "batch"), (P, "width", "batch", -10, 0.8)],
        "CKA": [(E, 1, 2), (C, "width", "batch"), (C, "width", "batch")],
        "peak, loss | peak": [(E, 1, 2), (P, "width", 3), (P, "width", "batch"), (L, "batch", "width")],
        "the same, wide": [
            (E, 1, 2), (P, "width", 3, -1, 1), (P, "width", "batch", -1, 1), (L, "batch", "width", 0.002, 0.7),
        ],
        "peak, loss | peak, CKA": [
            (E, 1, 2), (P, "width", 3), (P, 4, "batch"), (L, "batch", "width"), (C, "width", "batch"),
        ],
    },
    "data": {
        "published": [
            (E, 1, 3), (P, 4, 2, -10, 1), (H, "data", "batch"), (P, "batch", 5, -10, 1), (H, "data", "batch"),
            (H, "data", "batch"),
        ],
        "sharpness": [(H, "data", "batch")],
        "sharpness, wide": [(H, "data", "batch", 6, 1)],
        "error": [(E, "data", "batch")],
        "error, sharpness": [(E, 1, "batch"), (H, "data", "batch")],
        "CKA": [(C, "batch", "data")],
        "CKA, sharpness": [(C, "batch", 1), (H, "data", "batch", 6, 1)],
        "peak, sharpness": [(P, "batch", 1), (H, "data", "batch")],
    },
}  # fmt: skip
SINGLE: dict[str, dict[str, list[tuple]]] = {
    "optimizer": {
        "sharpness": [FITS, (H, "large", "small", 6, 1)],
        "sharpness for loss": [FITS, (T_, "large", "small")],
        "the same, wide": [(E, "small", 1), (T_, "large", "small", 5.3, 1.4)],
        "eigenvalue for loss": [FITS, (V, "large", "small")],
        "eigenvalue for loss, wide": [(E, "small", 1), (V, "large", "small", 3.3, 1.4)],
    },
    "width": {
        "loss": [(E, 1, "width"), (L, "batch", "width")],
        "loss | sharpness": [(E, 1, 2), (L, "batch", "width"), (H, "batch", "width", 6, 1)],
        "loss | sharpness for loss": [(E, 1, 2), (L, "batch", "width", 0.0007, 0.35), (T_, "batch", "width")],
        "loss | eigenvalue for loss": [(E, 1, 2), (L, "batch", "width", 0.0007, 0.35), (V, "batch", "width")],
        "the same, wide": [(E, 1, 2), (L, "batch", "width", 0.002, 0.7), (V, "batch", "width", 3.3, 1)],
    },
    "data": {
        "sharpness": [(H, "data", "batch")],
        "sharpness, wide": [(H, "data", "batch", 6, 1)],
        "error, sharpness": [(E, 1, "batch"), (H, "data", "batch")],
    },
}  # fmt: skip


def chosen(candidates: dict[str, dict]) -> str:
    """The rule: within the tolerance of the most accurate the fewest splits, then the lowest log loss."""
    best = max(score["accuracy"] for score in candidates.values())
    near = [name for name, score in candidates.items() if score["accuracy"] >= best - TOLERANCE]
    return min(near, key=lambda name: (candidates[name].get("splits", 0), candidates[name]["log_loss"]))


def fallback(candidates: dict[str, dict]) -> str:
    """The rule for what stands beside the winner, which is itself a candidate: whatever is most accurate."""
    return max(candidates, key=lambda name: candidates[name]["accuracy"])


def settings_tried() -> dict[str, tuple[BeliefSettings, float]]:
    """The settings, one changed at a time, with the factor by which prior spreads are widened."""
    usual = BeliefSettings()
    found = {"as shipped": (usual, 1.0)}
    for field, values in {
        "reliability": (0.8, 0.85, 0.95),
        "weight": (10.0, 40.0),
        "rate": (0.2, 0.5, 0.7),
        "trust": (0.0, 2.0, 4.0),
        "drift": (0.0, 0.5, 1.5),
    }.items():
        found |= {f"{field} {value}": (replace(usual, **{field: value}), 1.0) for value in values}
    return found | {f"prior spreads x {factor}": (usual, factor) for factor in (0.7, 1.5)}


def certainty(table: pd.DataFrame) -> list[dict[str, float]]:
    """How often the likeliest cause is that of the most room, by its probability.

    Trees grow on the rows outside a block of widths or data shares, all or 8 cells of them, and name causes inside.
    """
    probability, right = [], []
    for axis in ("width", "data"):
        for block in BLOCKS[axis][None]:
            test = table[axis].isin(block)
            for draw in range(3):
                pool = table[~test]
                if draw:
                    cell = pool.groupby(["data", "width"]).ngroup()
                    random = np.random.default_rng([len(block), draw])
                    pool = pool[cell.isin(random.choice(cell.nunique(), 8, replace=False))]
                labelled = [name for name in QUESTIONS if named(name).rows(pool)[named(name).label].nunique() == 2]
                told = diagnose(table[test], {name: grow(pool, name) for name in labelled})
                p = told[[f"p_{cause.key}" for cause in CAUSES]].to_numpy()
                rooms = np.where(np.isnan(p), -1.0, table.loc[test, list(_ROOMS)].to_numpy())
                named_cause = likeliest(p)
                probability.append(told["probability"].to_numpy())
                right.append((named_cause == rooms.argmax(axis=1)) & (rooms.max(axis=1) > 0))
    p, hit = np.concatenate(probability), np.concatenate(right)
    edges = [0.0, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 1.0]
    bands = []
    for low, high in itertools.pairwise(edges):
        inside, above = (p >= low) & (p < high), p >= low
        bands.append(
            {
                "from": low,
                "rows": round(float(inside.mean()), 3),
                "right": round(float(hit[inside].mean()), 3),
                "rows_from_here_on": round(float(above.mean()), 3),
                "right_from_here_on": round(float(hit[above].mean()), 3),
            }
        )
    return bands


_ROOMS = ("rfi_inc_temp", "rfi_dec_temp", "rfi_width", "rfi_data")  # in the order of CAUSES
assert _ROOMS == RFI_COLUMNS


def search(table: pd.DataFrame, fresh: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """All candidates with their scores, and the choice."""
    scorer = Scorer(table, fresh)
    usual = BeliefSettings()
    record: dict[str, Any] = {
        "data": "basic.csv of the Model Diagnosis Dataset, and the tables of bench/fresh_zoos.py",
        "mdjax": __version__,
        "tasks": {name: len(found) for name, found in scorer.tasks.items()},
        "fresh": {name: {zoo: len(rows) for zoo, rows in found.items()} for name, found in scorer.fresh.items()},
        "shifts": list(SHIFTS),
        "tolerance": TOLERANCE,
        "explored": EXPLORED,
    }
    logs = [E, P, H, C, L]
    learners = {
        "published fit": lambda question: MDTree(question),
        "logistic regression on the same features' scales": lambda _: make_pipeline(
            _Scales(logs), StandardScaler(), LogisticRegression()
        ),
    }
    record["for comparison"] = {
        name: {
            question: scorer.score(question, lambda: make(question), None if "fit" in name else logs)
            for question in QUESTIONS
        }
        for name, make in learners.items()
    }
    for key, structures in (("structures", STRUCTURES), ("single", SINGLE)):
        record[key] = {}
        for question, candidates in structures.items():
            trees = {name: tuple(split(*one) for one in splits) for name, splits in candidates.items()}
            rounds: list[dict[str, Any]] = []
            beside: list[Tree] = []
            # First each alone, then each as what to fall back on beside the winner.
            for number in range(2):
                scores = {}
                for name, tree in trees.items():
                    tried = [*beside, tree] if tree not in beside else beside
                    splits = sum(map(len, tried))
                    scores[name] = {"splits": splits, **scorer.score(question, lambda: trial(tried, usual, question))}
                    print(f"{question:10s}{number} {name:32s}{scores[name]}", flush=True)
                rounds.append({"candidates": scores, "chosen": (fallback if beside else chosen)(scores)})
                beside = [trees[rounds[0]["chosen"]]]
            record[key][question] = {**rounds[0], "fallback": rounds[1]}
    record["settings"] = {"candidates": {}}
    for name, (settings, factor) in settings_tried().items():
        scores = []
        for question, asked in QUESTIONS.items():
            trees = [tuple(replace(one, spread=one.spread * factor) for one in tree) for tree in asked.default_trees]
            scores.append(scorer.score(question, lambda: trial(trees, settings, question)))
        record["settings"]["candidates"][name] = {
            "values": asdict(settings) | {"prior spreads": factor},
            **{key: round(float(np.mean([score[key] for score in scores])), 4) for key in scores[0]},
            "questions": dict(zip(QUESTIONS, scores)),
        }
        print(f"{name:24s}{record['settings']['candidates'][name]['accuracy']}", flush=True)
    tried = record["settings"]["candidates"]
    best = max(tried, key=lambda name: tried[name]["accuracy"])
    gained = tried[best]["accuracy"] - tried["as shipped"]["accuracy"]
    record["settings"]["chosen"] = best if gained > TOLERANCE else "as shipped"
    record["calibration"] = calibration(scorer)
    bands = certainty(table)
    record["clear"] = {"bands": bands, "chosen": next(band["from"] for band in bands if band["right"] >= SURE)}
    return record


def calibration(scorer: Scorer, every: int = 2) -> dict[str, Any]:
    """Expected calibration errors and log losses over plain and shifted tasks, by `reliability` and `drift`."""
    found: dict[str, dict[str, Any]] = {}
    drifts = (0.5, 1.0, 1.5)
    for reliability in (0.85, 0.9, 0.95):
        told: dict[float, list[tuple[float, float]]] = {drift: [] for drift in drifts}
        for question, asked in QUESTIONS.items():
            rows, first = scorer.rows[question], min(asked.classes)
            answers: dict[float, list[np.ndarray]] = {drift: [] for drift in drifts}
            truths = []
            for position, task in list(enumerate(scorer.tasks[question]))[::every]:
                grown = rows.iloc[task.grown]
                tree = trial(list(asked.default_trees), BeliefSettings(reliability=reliability, drift=0), question)
                tree.fit(grown, grown[asked.label])
                tests = [rows.iloc[task.tested], *scorer.shifted[question].get(position, [])]
                truths += [test[asked.label].to_numpy(dtype=object) for test in tests]
                known = tree.tree_
                for drift in drifts:  # which acts after the fit
                    spreads = [np.hypot(one.spread, drift * quantity(one.feature).drift) for one in known]
                    tree.tree_ = tuple(replace(one, spread=float(spread)) for one, spread in zip(known, spreads))
                    answers[drift] += [tree.predict_proba(test) for test in tests]
            truth = np.concatenate(truths)
            for drift, proba in answers.items():
                p = np.concatenate(proba)
                true = np.clip(np.where(truth == first, p[:, 0], p[:, 1]), 0.005, None)
                error = calibration_error(p, np.array(sorted(asked.classes)), truth)
                told[drift].append((error, float(-np.log(true).mean())))
        for drift, values in told.items():
            error, loss = np.mean(values, axis=0)
            found[f"reliability {reliability}, drift {drift}"] = {
                "values": {"reliability": reliability, "drift": drift},
                "calibration_error": round(float(error), 3),
                "log_loss": round(float(loss), 4),
            }
    usual = BeliefSettings()
    shipped = f"reliability {usual.reliability}, drift {usual.drift}"
    best = min(found, key=lambda name: (found[name]["calibration_error"], found[name]["log_loss"]))
    gained = found[shipped]["calibration_error"] - found[best]["calibration_error"]
    return {"candidates": found, "chosen": best if round(gained, 3) > CALIBRATION_TOLERANCE else shipped}


class _Scales:
    """The features on the scales on which the trees compare them."""

    def __init__(self, names: list[str]):
        self.names = names

    def fit(self, X: pd.DataFrame, y: Any = None) -> "_Scales":
        return self

    def transform(self, X: pd.DataFrame) -> np.ndarray:
        return np.column_stack([quantity(name).to_scale(X[name].to_numpy()) for name in self.names])

    def fit_transform(self, X: pd.DataFrame, y: Any = None, **_: Any) -> np.ndarray:
        return self.transform(X)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--fresh", type=Path, required=True, metavar="DIR", help="what bench/fresh_zoos.py left")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "default_method.json")
    arguments = parser.parse_args()
    start = time.perf_counter()
    fresh = {path.stem: pd.read_csv(path) for path in sorted(arguments.fresh.glob("*.csv"))}
    record = search(pd.read_csv(arguments.data / "basic.csv"), fresh)
    record["seconds"] = round(time.perf_counter() - start)
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    choice = {
        key: {name: [one["chosen"], one["fallback"]["chosen"]] for name, one in record[key].items()}
        for key in ("structures", "single")
    }
    print(json.dumps({**choice, "settings": record["settings"]["chosen"], "clear": record["clear"]["chosen"]}))


if __name__ == "__main__":
    main()
