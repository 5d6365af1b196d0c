"""How was the default method chosen? On the published `basic` table and on zoos grown for it.

    python bench/default_method.py --data DIR --fresh DIR [--jobs N] [--out FILE]

The first DIR holds basic.csv of the Model Diagnosis Dataset. This script never opens noisy.csv; what earlier looks at
it led to is told in docs/diagnosis.md. Each task imitates a transfer: a method grows on few cells, data shares or
widths of a part of `basic`, and is tested on whole widths, data shares or batch sizes that were left out; or on the
larger (or smaller) part of an axis. A fifth of the tasks is tested again with the test rows' losses, errors, sharpness
and similarity moved as another data set might move them.

The second DIR holds the tables of bench/fresh_zoos.py: other data, networks and scales. Trees grow on parts of each
table, `basic` among them, and are asked about all fresh ones.

The rules. A candidate's accuracy is the mean of four: over plain tasks, over those of them that grow on the small end
of an axis (as most published protocols do), over shifted tasks and over fresh zoos. Of the structures of one question
the one with the highest accuracy wins; among those within a quarter of a point of it, the one with the fewest splits,
and among equals the one with the lowest log loss. What stands beside it to fall back on is, within a quarter of a
point of what brings the accuracy highest, that with the highest accuracy on fresh zoos, which it is there for. A
setting, one for all questions and for pairs and single models alike, must gain more than a quarter of a point to
replace the shipped one; reliability and drift, which hardly move the accuracy, must lower the calibration error on
plain and shifted tasks, of trees of pairs, by more than 0.005 and not raise the mean log loss over all four kinds, and
another drift of one quantity must lower the log loss on plain and shifted tasks by more than 0.002. Scores are compared
as they are recorded, to two digits: the data question's first structure stands on the edge of the tolerance.
A cause is named from the least probability on at which seven of ten named causes are right.

Means and spreads of the priors come from coordinate searches on a quarter of the plain and shifted tasks.

Writes all candidates to bench/results/default_method.json; the last line of the output is JSON with the choice.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from belief_candidates import (
    BLOCKS,
    DROPPED,
    EVERY,
    EXPLORED,
    KEPT,
    LEARNERS,
    SHIFTS,
    SINGLE,
    STRUCTURES,
    TOLERANCE,
    Candidate,
    chosen,
    fallback,
    fresh_rows,
    parts,
    settings_tried,
    split,
    tasks,
    trial,
    widened,
)

from mdjax import __version__
from mdjax.diagnosis.beliefs import BeliefSettings
from mdjax.diagnosis.causes import CAUSES, likeliest
from mdjax.diagnosis.growing import grow
from mdjax.diagnosis.labels import RFI_COLUMNS
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.protocols import calibration_error
from mdjax.diagnosis.quantities import quantity
from mdjax.diagnosis.questions import QUESTIONS, named
from mdjax.diagnosis.verdicts import diagnose

CALIBRATION_TOLERANCE = 0.005
LOG_LOSS_TOLERANCE = 0.002
DRIFTS = (0.5, 1.0, 1.5)
Variant = tuple[float, str | None, float]  # the setting `drift`, a quantity, and the factor of its own drift
SURE = 0.7  # of the named causes that must be right at the cut-off


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
        scale = [task.kind in ("data up", "width up") for task in self.tasks[question]]
        kinds = {"scale": np.array(plain)[scale, :3].mean(axis=0), "shifted": np.mean(moved, axis=0)}
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
        shares = {"rows": inside.mean(), "right": hit[inside].mean()}
        shares |= {"rows_from_here_on": above.mean(), "right_from_here_on": hit[above].mean()}
        bands.append({"from": low} | {name: round(float(share), 3) for name, share in shares.items()})
    return bands


_ROOMS = ("rfi_inc_temp", "rfi_dec_temp", "rfi_width", "rfi_data")  # in the order of CAUSES
assert _ROOMS == RFI_COLUMNS


class Workers:
    """Processes that each hold the tasks, and score candidates one after the other."""

    scorer: Scorer

    def __init__(self, table: pd.DataFrame, fresh: dict[str, pd.DataFrame], jobs: int):
        self.pool = ProcessPoolExecutor(jobs, initializer=Workers.prepare, initargs=(table, fresh))

    @classmethod
    def prepare(cls, table: pd.DataFrame, fresh: dict[str, pd.DataFrame]) -> None:
        cls.scorer = Scorer(table, fresh)

    @classmethod
    def score(cls, candidate: Candidate) -> dict[str, float]:
        question = candidate.question
        if candidate.learner is None:
            return cls.scorer.score(question, lambda: trial(candidate.trees, candidate.settings, question))
        make, columns = LEARNERS[candidate.learner]
        return cls.scorer.score(question, lambda: make(question), columns)

    @classmethod
    def calibrated(cls, question: str, reliability: float, variants: Sequence[Variant]) -> list[tuple[float, float]]:
        return calibrated(cls.scorer, question, reliability, variants)

    def scores(self, candidates: dict[tuple[str, ...], Candidate]) -> dict[tuple[str, ...], dict[str, float]]:
        """The score of each candidate, under its key, with the number of its splits."""
        found = {}
        for key, score in zip(candidates, self.pool.map(Workers.score, candidates.values())):
            trees = candidates[key].trees
            found[key] = {"splits": sum(map(len, trees)), **score} if trees else score
            print(*key, found[key]["accuracy"], flush=True)
        return found


def search(table: pd.DataFrame, fresh: dict[str, pd.DataFrame], jobs: int = 1) -> dict[str, Any]:
    """All candidates with their scores, and the choice."""
    workers, scorer = Workers(table, fresh, jobs), Scorer(table, fresh)
    record: dict[str, Any] = {
        "data": "basic.csv of the Model Diagnosis Dataset, and the tables of bench/fresh_zoos.py",
        "mdjax": __version__,
        "tasks": {name: len(found) for name, found in scorer.tasks.items()},
        "fresh": {name: {zoo: len(rows) for zoo, rows in found.items()} for name, found in scorer.fresh.items()},
        "shifts": list(SHIFTS),
        "tolerance": TOLERANCE,
        "explored": EXPLORED,
        "dropped": DROPPED,
    }
    learned = workers.scores(
        {(name, question): Candidate(question, learner=name) for name in LEARNERS for question in QUESTIONS}
    )
    record["for comparison"] = {
        name: {question: learned[name, question] for question in QUESTIONS} for name in LEARNERS
    }
    kinds = {"structures": STRUCTURES, "single": SINGLE}
    trees = {
        (kind, question, name): tuple(split(*one) for one in splits)
        for kind, structures in kinds.items()
        for question, candidates in structures.items()
        for name, splits in candidates.items()
    }
    # First each alone, then each as what to fall back on beside the winner.
    alone = workers.scores({key: Candidate(key[1], (tree,)) for key, tree in trees.items()})
    for kind, structures in kinds.items():
        record[kind] = {}
        for question in structures:
            scores = {name: alone[kind, question, name] for name in structures[question]}
            record[kind][question] = {"candidates": scores, "chosen": chosen(scores)}
    winners = {key: trees[key[0], key[1], record[key[0]][key[1]]["chosen"]] for key in trees}
    beside = workers.scores(
        {key: Candidate(key[1], tuple(dict.fromkeys((winners[key], tree)))) for key, tree in trees.items()}
    )
    for kind, structures in kinds.items():
        for question in structures:
            scores = {name: beside[kind, question, name] for name in structures[question]}
            record[kind][question]["fallback"] = {"candidates": scores, "chosen": fallback(scores)}
    record["settings"] = settings_chosen(workers)
    record["calibration"] = calibration(workers, record["settings"]["candidates"])
    workers.pool.shutdown()
    bands = certainty(table)
    record["clear"] = {"bands": bands, "chosen": next(band["from"] for band in bands if band["right"] >= SURE)}
    return record


def settings_chosen(workers: Workers) -> dict[str, Any]:
    """The scores of the shipped structures, for pairs and for single models, under each setting; the rule's choice."""
    tried = settings_tried()
    shipped = {
        (kind, question): trees
        for question, asked in QUESTIONS.items()
        for kind, trees in (("structures", asked.default_trees), ("single", asked.single_trees))
    }
    scored = workers.scores(
        {
            (name, *key): Candidate(key[1], tuple(widened(tree, factor) for tree in trees), settings)
            for name, (settings, factor) in tried.items()
            for key, trees in shipped.items()
        }
    )
    found = {}
    for name, (settings, factor) in tried.items():
        scores = {" ".join(key): scored[name, *key] for key in shipped}
        measures = [measure for measure in scored[name, "single", "data"] if measure != "splits"]
        found[name] = {
            "values": asdict(settings) | {"prior spreads": factor},
            **{one: round(float(np.mean([score[one] for score in scores.values()])), 4) for one in measures},
            "questions": scores,
        }
    best = max(found, key=lambda name: found[name]["accuracy"])
    gained = found[best]["accuracy"] - found["as shipped"]["accuracy"]
    return {"candidates": found, "chosen": best if gained > TOLERANCE else "as shipped"}


def calibrated(
    scorer: Scorer, question: str, reliability: float, variants: Sequence[Variant]
) -> list[tuple[float, float]]:
    """Expected calibration error and log loss under each variant, over every second task of one question."""
    asked = QUESTIONS[question]
    rows, first = scorer.rows[question], min(asked.classes)
    answers: list[list[np.ndarray]] = [[] for _ in variants]
    truths = []
    for position, task in list(enumerate(scorer.tasks[question]))[::2]:
        grown = rows.iloc[task.grown]
        tree = trial(asked.default_trees, BeliefSettings(reliability=reliability, drift=0), question)
        tree.fit(grown, grown[asked.label])
        tests = [rows.iloc[task.tested], *scorer.shifted[question].get(position, [])]
        truths += [test[asked.label].to_numpy(dtype=object) for test in tests]
        known = tree.tree_
        for told, (drift, name, factor) in zip(answers, variants):  # drifts act after the fit
            tree.tree_ = tuple(
                replace(one, spread=float(np.hypot(one.spread, drift * quantity(one.feature).drift * times)))
                for one in known
                for times in [factor if one.feature == name else 1.0]
            )
            told += [tree.predict_proba(test) for test in tests]
    truth, found = np.concatenate(truths), []
    for told in answers:
        p = np.concatenate(told)
        true = np.clip(np.where(truth == first, p[:, 0], p[:, 1]), 0.005, None)
        error = calibration_error(p, np.array(sorted(asked.classes)), truth)
        found.append((error, float(-np.log(true).mean())))
    return found


def _harmless(settings: dict[str, dict], name: str, value: float) -> bool:
    """Whether a setting's value does not raise the log loss over all four kinds of tasks."""
    shipped = settings["as shipped"]
    tried = shipped if shipped["values"][name] == value else settings[f"{name} {value}"]
    return tried["log_loss"] <= shipped["log_loss"]


def calibration(workers: Workers, settings: dict[str, dict]) -> dict[str, Any]:
    """Expected calibration errors and log losses, means over the questions, by reliability and drifts."""
    usual = BeliefSettings()
    used = dict.fromkeys(one.feature for asked in QUESTIONS.values() for tree in asked.default_trees for one in tree)
    own = [(usual.drift, name, factor) for name in used for factor in (1 / 3, 3.0)]
    tried = {
        reliability: [*((drift, None, 1.0) for drift in DRIFTS), *(own if reliability == usual.reliability else [])]
        for reliability in (0.85, 0.9, 0.95)
    }
    jobs = [(question, reliability, variants) for reliability, variants in tried.items() for question in QUESTIONS]
    told = list(workers.pool.map(Workers.calibrated, *zip(*jobs)))
    found: dict[str, dict[str, Any]] = {}
    drifts: dict[str, dict[str, Any]] = {}
    for reliability, variants in tried.items():
        means = np.mean([one for (_, known, _), one in zip(jobs, told) if known == reliability], axis=0)
        for (drift, name, factor), (error, loss) in zip(variants, means):
            score = {"calibration_error": round(float(error), 3), "log_loss": round(float(loss), 4)}
            if name is None:
                values = {"reliability": reliability, "drift": drift}
                found[f"reliability {reliability}, drift {drift}"] = {"values": values, **score}
            else:
                drifts[f"{name} x {factor:.2g}"] = score
    shipped = f"reliability {usual.reliability}, drift {usual.drift}"
    allowed = [name for name, one in found.items() if all(_harmless(settings, *item) for item in one["values"].items())]
    best = min(allowed, key=lambda name: (found[name]["calibration_error"], found[name]["log_loss"]))
    gained = found[shipped]["calibration_error"] - found[best]["calibration_error"]
    other = min(drifts, key=lambda name: drifts[name]["log_loss"])
    lowered = found[shipped]["log_loss"] - drifts[other]["log_loss"]
    return {
        "candidates": found,
        "chosen": best if round(gained, 3) > CALIBRATION_TOLERANCE else shipped,
        "drifts": {"candidates": drifts, "chosen": other if lowered > LOG_LOSS_TOLERANCE else "as shipped"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--fresh", type=Path, required=True, metavar="DIR", help="what bench/fresh_zoos.py left")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "default_method.json")
    arguments = parser.parse_args()
    start = time.perf_counter()
    fresh = {path.stem: pd.read_csv(path) for path in sorted(arguments.fresh.glob("*.csv"))}
    record = search(pd.read_csv(arguments.data / "basic.csv"), fresh, arguments.jobs)
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
