"""How was the default method chosen? By cross-validation inside the published `basic` table, and by nothing else.

    python bench/default_method.py --data DIR [--out FILE]

DIR holds basic.csv of the Model Diagnosis Dataset; noisy.csv is never opened. Each task imitates a transfer: a method
grows on few cells, data shares or widths of a part of `basic`, and is tested on whole widths, data shares or batch
sizes that were left out; or on the larger (or smaller) part of an axis. A method that will meet other data sets must
also stand shifts of its features, so every candidate is tested again with the test rows' losses, errors, sharpness
and similarity moved as another data set might move them.

The rules: of the structures of one question the one with the highest accuracy (mean of plain and shifted) wins; among
those within a quarter of a point of it, the one with the fewest splits, and among equals the one with the lowest log
loss. A setting, one for all questions, must gain more than a quarter of a point to replace the shipped one. A cause is
named from the least probability on at which seven of ten named causes are right.

Writes all candidates to bench/results/default_method.json; the last line of the output is JSON with the choice. Takes
about ten minutes on one core.
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
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mdjax import __version__
from mdjax.beliefs import BeliefSettings, fit_beliefs
from mdjax.diagnosis import CAUSES, MDTree, diagnose, grow, likeliest
from mdjax.fitting import METHODS, Fitted, Method
from mdjax.labels import RFI_COLUMNS
from mdjax.quantities import QUANTITIES, Quantity, quantity
from mdjax.questions import QUESTIONS, Tree, believed, named

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
SURE = 0.7  # of the named causes that must be right at the cut-off


@dataclass(frozen=True)
class Task:
    """One transfer inside the table: where it is grown and where it is tested, as positions among the asked rows."""

    kind: str
    grown: np.ndarray
    tested: np.ndarray


def tasks(question: str, rows: pd.DataFrame, draws: int = 2) -> list[Task]:
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
EVERY = 4  # of the tasks is tested under shifts


class Scorer:
    """Grows candidates on the tasks of each question and scores them, plain and shifted."""

    def __init__(self, table: pd.DataFrame):
        self.rows = {name: question.rows(table).reset_index(drop=True) for name, question in QUESTIONS.items()}
        self.tasks = {name: tasks(name, rows) for name, rows in self.rows.items()}

    def score(self, question: str, make: Callable[[], Any], columns: list[str] | None = None) -> dict[str, float]:
        """Accuracy (percent), log loss and overconfidence, means over the tasks; `shifted` ones over the shifts too."""
        rows, asked = self.rows[question], named(question)
        labels = rows[asked.label].to_numpy(dtype=object)
        plain, moved = [], []
        for position, task in enumerate(self.tasks[question]):
            grown, tested = rows.iloc[task.grown], rows.iloc[task.tested]
            model = make().fit(grown[columns or list(rows)], labels[task.grown])
            first = list(model.classes_).index(asked.classes[0])

            def judged(test: pd.DataFrame, model=model, first=first, task=task) -> tuple[float, float, float]:
                test = test[columns or list(rows)]
                p = model.predict_proba(test)[:, first]
                true = labels[task.tested] == asked.classes[0]
                right = model.predict(test) == labels[task.tested]
                answered = np.where(model.predict(test) == asked.classes[0], p, 1 - p)
                loss = -np.log(np.clip(np.where(true, p, 1 - p), 0.005, None))
                return 100 * right.mean(), loss.mean(), (answered - right).mean()

            plain.append((*judged(tested), len(grown)))
            if position % EVERY == 0:
                moved += [judged(change(tested)) for change in SHIFTS.values()]
        accuracy, loss, over, num_rows = np.array(plain).T
        shifted = np.array(moved).mean(axis=0)
        return {
            "accuracy": round(float(accuracy.mean() + shifted[0]) / 2, 2),
            "log_loss": round(float(loss.mean() + shifted[1]) / 2, 4),
            "plain_accuracy": round(float(accuracy.mean()), 2),
            "plain_log_loss": round(float(loss.mean()), 4),
            "below_200_rows": round(float(accuracy[num_rows < 200].mean()), 2),
            "overconfidence": round(float(over.mean()), 3),
            "shifted_accuracy": round(float(shifted[0]), 2),
            "shifted_log_loss": round(float(shifted[1]), 4),
        }


def trial(tree: Tree, settings: BeliefSettings, question: str) -> MDTree:
    """An MD tree of the default method with another structure or other settings."""
    METHODS["trial"] = Method(
        start=lambda _: tree, fit=lambda tree, columns, labels: Fitted(*fit_beliefs(tree, columns, labels, settings))
    )
    return MDTree(question, method="trial")


E, P, B, H, C, L = "train_error", "mode_connectivity_peak", "barrier", "hessian_t", "CKA", "train_loss"
# Combinations that were tried and are not in the package.
for power in (0.5, 0.75, 1.0):
    for name, sharp in (("trace", "hessian_t"), ("eigenvalue", "hessian_e")):
        key = f"{name}*loss^{power}"
        QUANTITIES[key] = Quantity(
            key, (sharp, L), combine=lambda h, loss, power=power: h + power * np.log(np.maximum(loss, 0) + 1e-5)
        )


def split(feature: str, at_most: int | str, above: int | str) -> Any:
    """A believed split; combinations get the median of basic's rows that do not fit as centre, as the others did."""
    if "*" not in feature:
        return believed(feature, at_most, above)
    name, power = feature.split("*loss^")
    centre = {"trace": 6.2, "eigenvalue": 4.2}[name] - 1.2 * float(power)
    return replace(believed("trace_for_loss", at_most, above), feature=feature, threshold=centre)


STRUCTURES: dict[str, dict[str, list[tuple]]] = {
    "optimizer": {
        "published": [(E, "small", 1), (P, 2, "large"), (H, "large", "small")],
        "barrier": [(E, "small", 1), (B, "large", "small")],
        "barrier, sharpness": [(E, "small", 1), (B, "large", 2), (H, "large", "small")],
        "barrier, CKA": [(E, "small", 1), (B, "large", 2), (C, "small", "large")],
        "peak, barrier": [(E, "small", 1), (P, 2, "large"), (B, "large", "small")],
        "loss, barrier": [(L, "small", 1), (B, "large", "small")],
        "CKA": [(E, "small", 1), (C, "small", "large")],
    },
    "width": {
        "published": [(E, 1, 2), (P, "width", "batch"), (P, "width", "batch")],
        "peak alone": [(P, "width", "batch")],
        "barrier": [(E, 1, 2), (P, "width", "batch"), (B, "batch", "width")],
        "loss | peak": [(E, 1, 2), (L, "batch", "width"), (P, "width", "batch")],
        "CKA | peak": [(E, 1, 2), (C, "width", "batch"), (P, "width", "batch")],
        "sharpness | peak": [(E, 1, 2), (H, "batch", "width"), (P, "width", "batch")],
        "peak, loss | peak": [(E, 1, 2), (P, "width", 3), (P, "width", "batch"), (L, "batch", "width")],
        "peak, CKA | peak": [(E, 1, 2), (P, "width", 3), (P, "width", "batch"), (C, "width", "batch")],
        "peak, loss, CKA | peak": [
            (E, 1, 2), (P, "width", 3), (P, "width", "batch"), (L, 4, "width"), (C, "width", "batch"),
        ],
        "peak, CKA, loss | peak": [
            (E, 1, 2), (P, "width", 3), (P, "width", "batch"), (C, 4, "batch"), (L, "batch", "width"),
        ],
        "loss | peak, barrier": [(E, 1, 2), (L, "batch", "width"), (P, 3, "batch"), (B, "batch", "width")],
    },
    "data": {
        "published": [
            (E, 1, 3), (P, 4, 2), (H, "data", "batch"), (P, "batch", 5), (H, "data", "batch"), (H, "data", "batch"),
        ],
        "sharpness": [(H, "data", "batch")],
        "eigenvalue": [("hessian_e", "data", "batch")],
        "error, sharpness": [(E, 1, "batch"), (H, "data", "batch")],
        "sharpness | sharpness": [(E, 1, 2), (H, "data", "batch"), (H, "data", "batch")],
        "sharpness | CKA": [(E, 1, 2), (H, "data", "batch"), (C, "data", "batch")],
        "sharpness, CKA": [(H, "data", 1), (C, "data", "batch")],
        "peak, sharpness": [(P, "batch", 1), (H, "data", "batch")],
    },
}  # fmt: skip
SINGLE: dict[str, dict[str, list[tuple]]] = {
    "optimizer": {
        "sharpness": [(E, "small", 1), (H, "large", "small")],
        "eigenvalue": [(E, "small", 1), ("hessian_e", "large", "small")],
        "loss, sharpness": [(L, "small", 1), (H, "large", "small")],
        **{
            f"{sharp}*loss^{power}": [(E, "small", 1), (f"{sharp}*loss^{power}", "large", "small")]
            for sharp in ("trace", "eigenvalue")
            for power in (0.5, 0.75, 1.0)
        },
    },
    "width": {
        "loss": [(E, 1, "width"), (L, "batch", "width")],
        "loss | sharpness": [(E, 1, 2), (L, "batch", "width"), (H, "batch", "width")],
        "loss | eigenvalue": [(E, 1, 2), (L, "batch", "width"), ("hessian_e", "batch", "width")],
        **{
            f"loss | {sharp}*loss^{power}": [
                (E, 1, 2), (L, "batch", "width"), (f"{sharp}*loss^{power}", "batch", "width"),
            ]
            for sharp in ("trace", "eigenvalue")
            for power in (0.5, 0.75, 1.0)
        },
    },
    "data": {
        "sharpness": [(H, "data", "batch")],
        "eigenvalue": [("hessian_e", "data", "batch")],
        "error, sharpness": [(E, 1, "batch"), (H, "data", "batch")],
        "sharpness | sharpness": [(E, 1, 2), (H, "data", "batch"), (H, "data", "batch")],
    },
}  # fmt: skip


def chosen(candidates: dict[str, dict]) -> str:
    """The rule: within the tolerance of the most accurate the fewest splits, then the lowest log loss."""
    best = max(score["accuracy"] for score in candidates.values())
    near = [name for name, score in candidates.items() if score["accuracy"] >= best - TOLERANCE]
    return min(near, key=lambda name: (candidates[name].get("splits", 0), candidates[name]["log_loss"]))


def settings_tried() -> dict[str, tuple[BeliefSettings, float]]:
    """The settings, one changed at a time, with the factor by which prior spreads are widened."""
    usual = BeliefSettings()
    found = {"as shipped": (usual, 1.0)}
    for field, values in {
        "reliability": (0.8, 0.85, 0.95),
        "weight": (5.0, 10.0, 40.0),
        "rate": (0.1, 0.2, 0.5, 0.7, 1.0),
        "cycles": (2, 10),
    }.items():
        found |= {f"{field} {value}": (replace(usual, **{field: value}), 1.0) for value in values}
    return found | {f"prior spreads x {factor}": (usual, factor) for factor in (0.5, 0.7, 1.5, 2.0)}


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


def search(table: pd.DataFrame) -> dict[str, Any]:
    """All candidates with their scores, and the choice."""
    scorer = Scorer(table)
    usual = BeliefSettings()
    record: dict[str, Any] = {
        "data": "basic.csv of the Model Diagnosis Dataset alone",
        "mdjax": __version__,
        "tasks": {name: len(found) for name, found in scorer.tasks.items()},
        "shifts": list(SHIFTS),
        "tolerance": TOLERANCE,
        "explored": EXPLORED,
    }
    logs = [E, P, H, C, L]
    learners = {
        "published fit": lambda question: MDTree(question),
        "extra trees on the same features": lambda _: ExtraTreesClassifier(60, min_samples_leaf=3, random_state=0),
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
            scores = {}
            for name, splits in candidates.items():
                tree = tuple(split(*one) for one in splits)
                scores[name] = {"splits": len(tree), **scorer.score(question, lambda: trial(tree, usual, question))}
                print(f"{question:10s}{name:32s}{scores[name]}", flush=True)
            record[key][question] = {"candidates": scores, "chosen": chosen(scores)}
    record["settings"] = {"candidates": {}}
    for name, (settings, factor) in settings_tried().items():
        scores = []
        for question, asked in QUESTIONS.items():
            tree = tuple(replace(one, spread=one.spread * factor) for one in asked.default_tree)
            scores.append(scorer.score(question, lambda: trial(tree, settings, question)))
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
    bands = certainty(table)
    record["clear"] = {"bands": bands, "chosen": next(band["from"] for band in bands if band["right"] >= SURE)}
    return record


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
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "default_method.json")
    arguments = parser.parse_args()
    start = time.perf_counter()
    record = search(pd.read_csv(arguments.data / "basic.csv"))
    record["seconds"] = round(time.perf_counter() - start)
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    choice = {key: {name: one["chosen"] for name, one in record[key].items()} for key in ("structures", "single")}
    print(json.dumps({**choice, "settings": record["settings"]["chosen"], "clear": record["clear"]["chosen"]}))


if __name__ == "__main__":
    main()
