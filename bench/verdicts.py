"""Are verdicts on networks unlike the published ones right, and what does following them bring?

    python bench/verdicts.py --zoos DIR [--only a,b] [--held-out] [--out FILE]

DIR/<zoo>.parquet are the tables of bench/verdict_zoos.py; one that is missing is grown there first (all: 40 minutes on
two cores). With the tables at hand this takes under a minute on one core. Two zoos, resnet-digits-noisy and
mlp-diamonds-adamw, are held out: nobody looks at them while methods are chosen, and only --held-out asks about them.

Of each zoo the cells that `mdjax calibrate` would grow with 5 and with 20 % of the zoo's training cost are grown on,
and the configurations in neither are asked about, the same ones for every method. Measured, per zoo and as means over
zoos:

<question>            balanced accuracy in percent, of rows that could still go further along the question's axis
<question> published  the same of all labelled rows, as published: at an axis' end the answer follows from the axis
gain one, gain best   what one step, or the best step, of the likeliest change brings, as a fraction of what the best
                      choice among the four changes would bring; a step that loses counts as 0
coverage              the fraction of rows whose verdict names a cause
right                 of these, the fraction where no other change gains over 0.5 points more (at best)
calibration error     of the likeliest cause's probability, ten bins, against being right in that sense

A zoo has some 30 such rows, and so few make a calibration error large by chance alone: `pooled` gives the last three of
the rows of all zoos together.
A row without an answer counts as wrong, and as no gain. A zoo counts for a question only where both classes occur.
`scale_transfer` is another protocol, on the two zoos of the demo's kind alone: trees grown on the smallest data share
and asked about the larger ones, and the shipped trees asked about these and about the larger half by width; balanced
accuracy in percent, of all rows that the question is asked of. The last line of the output is JSON:

methods         method -> metric -> mean, se (over zoos), open, held_out (means over these) and zoos (zoo -> value)
pooled          group of zoos -> method -> coverage, right, calibration error
rows            zoo -> asked about, and question -> those that could go further
calibration     zoo -> budget -> rows and fraction of the zoo's training cost
scale_transfer  case -> question -> zoo -> balanced accuracy
tables          zoo -> a digest of its table, as another growth trains slightly other networks; and the columns of the
                stages before the trees that the table lacks, whose tests then are not made
"""

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from environment import environment
from sklearn.ensemble import ExtraTreesClassifier
from verdict_methods import DIRECTIONS, LARGE, METHODS, SMALL, Sweep, Verdicts
from verdict_zoos import HELD_OUT, ZOOS, grown

from mdjax.calibration.sweeps import training_costs
from mdjax.diagnosis.baselines import ValidationTree
from mdjax.diagnosis.checks import has_all
from mdjax.diagnosis.labels import RFI_COLUMNS, step_gains
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.own_sweeps import balanced_accuracy
from mdjax.diagnosis.protocols import calibration_error
from mdjax.diagnosis.quantities import quantity
from mdjax.diagnosis.questions import LANDSCAPE, QUESTIONS, Question
from mdjax.diagnosis.trees import load_trees
from mdjax.diagnosis.verdicts import Diagnosis

SLACK = 0.5
"""Points of test accuracy by which another change may gain more than that of a right cause."""

STAGE_COLUMNS = ("chance_error", "chance_loss", "relabelling_gain", "prediction_shift", "negative_curvature")

DEMO = ("mlp-digits", "mlp-digits-noisy")


def both_answered(truth: np.ndarray, answers: np.ndarray) -> float | None:
    """`balanced_accuracy` in percent; None where only one class occurs."""
    return balanced_accuracy(truth, answers) if len(set(truth)) > 1 else None


def scores(sweep: Sweep, found: Verdicts) -> dict[str, float | None]:
    """Every metric of one method's verdicts on one zoo."""
    asked = sweep.asked
    values: dict[str, float | None] = {}
    for name, question in QUESTIONS.items():
        labelled = asked[question.label].isin(question.classes).to_numpy()
        answers = found.answers.get(name, np.full(len(asked), None))
        for suffix, rows in (("", labelled & sweep.asked_further(question)), (" published", labelled)):
            values[name + suffix] = both_answered(asked[question.label].to_numpy()[rows], answers[rows])
    gains = {name: step_gains(sweep.table, name, axes=sweep.axes).loc[asked.index] for name in DIRECTIONS}
    for step in ("one", "best"):
        reachable = np.column_stack([gains[name][step] for name in DIRECTIONS])
        values[f"gain {step}"] = float(_picked(reachable, found.likeliest, 0.0).sum() / reachable.max(axis=1).sum())
    return values | trust(asked[list(RFI_COLUMNS)].to_numpy(float), found)


def trust(rooms: np.ndarray, found: Verdicts) -> dict[str, float | None]:
    """How often a cause is named, how often it is right, and how well its probability says so; rooms [rows, causes]."""
    enough = rooms.max(axis=1) - SLACK
    told, right = found.told >= 0, _picked(rooms, found.told, -np.inf) >= enough
    known, likely = found.likeliest >= 0, _picked(rooms, found.likeliest, -np.inf) >= enough
    truth = np.where(likely, "right", "wrong").astype(object)[known]
    probability = found.probability[known, None]
    return {
        "coverage": float(told.mean()),
        "right": float(right[told].mean()) if told.any() else None,
        "calibration error": calibration_error(probability, np.array(["right"]), truth) if known.any() else None,
    }


def _picked(values: np.ndarray, causes: np.ndarray, otherwise: float) -> np.ndarray:
    """Of values [rows, causes] the one of each row's cause, [rows]; `otherwise` for rows without."""
    return np.where(causes >= 0, values[np.arange(len(values)), causes], otherwise)


def scale_transfer(tables: dict[str, pd.DataFrame]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Trees of the demo's zoos at their smallest data share, and the shipped ones, asked about larger networks."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for zoo, table in tables.items():
        little = (table["data_share"] == table["data_share"].min()).to_numpy()
        wide = (table["width"] > table["width"].median()).to_numpy()
        shipped = Diagnosis.of(table, {name: _alone(tree) for name, tree in load_trees().items()}).answers
        for name, question in QUESTIONS.items():
            asked = table[question.label].isin(question.classes).to_numpy() & question.asked(table)
            train, test = table[little & asked], table[~little & asked]
            answers = {
                "published fit": _transferred(MDTree(name), train, test, question),
                "extra trees on logs of the landscape features": _extra_trees(train, test, question),
                "validation tree": _transferred(ValidationTree(name), train, test, question),
                "shipped trees, larger data": shipped[name].label[~little & asked],
            }
            for case, answer in answers.items():
                score = both_answered(test[question.label].to_numpy(), answer)
                found.setdefault(case, {}).setdefault(name, {})[zoo] = score
            score = both_answered(table[question.label].to_numpy()[wide & asked], shipped[name].label[wide & asked])
            found.setdefault("shipped trees, larger half by width", {}).setdefault(name, {})[zoo] = score
    return found


def _alone(tree: MDTree) -> MDTree:
    return MDTree.from_dict(tree.to_dict() | {"population": None})


def _transferred(method: Any, train: pd.DataFrame, test: pd.DataFrame, question: Question) -> np.ndarray:
    train = train[has_all(train, method.features)]
    fitted = method.fit(train, train[question.label])
    complete = has_all(test, fitted.features)
    answers = np.full(len(test), None, dtype=object)
    answers[complete] = fitted.predict(test[complete])
    return answers


def _extra_trees(train: pd.DataFrame, test: pd.DataFrame, question: Question) -> np.ndarray:
    def logs(table: pd.DataFrame) -> np.ndarray:
        return np.column_stack([quantity(name).to_scale(table[name].to_numpy(float)) for name in LANDSCAPE])

    train, complete = train[has_all(train, LANDSCAPE)], has_all(test, LANDSCAPE)
    forest = ExtraTreesClassifier(500, random_state=0).fit(logs(train), train[question.label].astype(str))
    answers = np.full(len(test), None, dtype=object)
    answers[complete] = forest.predict(logs(test[complete]))
    return answers


def table_of(name: str, folder: Path) -> pd.DataFrame:
    """The labelled table of a zoo; grown where it is not there yet."""
    path = folder / f"{name}.parquet"
    if not path.exists():
        grown(name, folder).to_parquet(path, index=False)
    return pd.read_parquet(path).reset_index(drop=True)


def provenance(table: pd.DataFrame) -> dict[str, Any]:
    """Which table was asked about: a digest of its accuracies, and which columns of the stages it lacks."""
    told = table[["configuration", "test_acc"]].sort_values("configuration").round(4).to_csv(index=False)
    digest = hashlib.sha256(told.encode()).hexdigest()[:12]
    return {"digest": digest, "lacks": [name for name in STAGE_COLUMNS if name not in table.columns]}


def benchmark(sweeps: dict[str, Sweep]) -> dict[str, Any]:
    """All methods on all sweeps, and how much was grown and asked."""
    found = {method: {zoo: say(sweep) for zoo, sweep in sweeps.items()} for method, say in METHODS.items()}
    groups = {
        "open": [zoo for zoo in sweeps if zoo not in HELD_OUT],
        "held_out": [zoo for zoo in sweeps if zoo in HELD_OUT],
    }
    methods, pooled = {}, {name: {} for name, zoos in groups.items() if zoos}
    for method, verdicts in found.items():
        by_zoo = pd.DataFrame({zoo: scores(sweep, verdicts[zoo]) for zoo, sweep in sweeps.items()}, dtype=float)
        methods[method] = {
            metric: {
                "mean": _rounded(values.mean()),
                "se": _rounded(values.sem()),
                **{name: _rounded(values[zoos].mean()) for name, zoos in groups.items()},
                "zoos": {zoo: _rounded(value) for zoo, value in values.items()},
            }
            for metric, values in by_zoo.iterrows()
        }
        for name in pooled:
            rooms = np.vstack([sweeps[zoo].asked[list(RFI_COLUMNS)].to_numpy(float) for zoo in groups[name]])
            parts = [verdicts[zoo] for zoo in groups[name]]
            likeliest, probability, told = (
                np.concatenate([getattr(part, field) for part in parts]) for field in Verdicts._fields[1:]
            )
            values = trust(rooms, Verdicts({}, likeliest, probability, told))
            pooled[name][method] = {metric: _rounded(value) for metric, value in values.items()}
    return {"methods": methods, "pooled": pooled, **amounts(sweeps)}


def amounts(sweeps: dict[str, Sweep]) -> dict[str, Any]:
    """How many rows are asked about, and how much is grown."""
    rows, calibration = {}, {}
    for zoo, sweep in sweeps.items():
        rows[zoo] = {"asked": len(sweep.asked)}
        for name, question in QUESTIONS.items():
            rows[zoo][name] = sweep.asked[question.label][sweep.asked_further(question)].value_counts().to_dict()
        costs = training_costs(sweep.table)
        masks = {f"{budget:.0%}": sweep.calibration(budget) for budget in (SMALL, LARGE)}
        calibration[zoo] = {
            budget: {"rows": int(mask.sum()), "cost": _rounded(costs[mask].sum() / costs.sum())}
            for budget, mask in masks.items()
        }
    return {"rows": rows, "calibration": calibration}


def _rounded(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 3)


def _print(record: dict[str, Any]) -> None:
    methods = record["methods"]
    for group in ("open", "held_out"):
        means = {name: {metric: found[group] for metric, found in rows.items()} for name, rows in methods.items()}
        frame = pd.DataFrame.from_dict(means, orient="index").dropna(how="all")
        if len(frame):
            print(f"means over the {group.replace('_', '-')} zoos\n{frame.astype(float).round(2).to_string()}\n")
            pooled = pd.DataFrame.from_dict(record["pooled"][group], orient="index").astype(float)
            print(f"all rows of these together\n{pooled.round(2).to_string()}\n")
    for metric in next(iter(methods.values())):
        values = {name: rows[metric]["zoos"] for name, rows in methods.items()}
        print(f"{metric}\n{pd.DataFrame.from_dict(values, orient='index').astype(float).round(2).T.to_string()}\n")
    for case, questions in record["scale_transfer"].items():
        told = {name: " / ".join(_text(value) for value in zoos.values()) for name, zoos in questions.items()}
        print(f"{case}, clean / noisy: " + ", ".join(f"{name} {text}" for name, text in told.items()))


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoos", type=Path, required=True, metavar="DIR", help="the tables of bench/verdict_zoos.py")
    parser.add_argument("--only", help="ask about these zoos alone, separated by commas")
    parser.add_argument("--held-out", action="store_true", help="ask about the zoos that are held out as well")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON there too")
    arguments = parser.parse_args()
    arguments.zoos.mkdir(parents=True, exist_ok=True)
    names = [name for name in ZOOS if arguments.held_out or name not in HELD_OUT]
    if arguments.only:
        wanted = arguments.only.split(",")
        if strange := sorted(set(wanted) - set(names)):
            parser.error(f"there is no zoo {strange[0]!r}, or it is held out; choose of {', '.join(names)}")
        names = [name for name in names if name in wanted]
    tables = {name: table_of(name, arguments.zoos) for name in names}
    start = time.perf_counter()
    record = benchmark({name: Sweep(table, ZOOS[name].axes) for name, table in tables.items()})
    transfer = scale_transfer({name: tables[name] for name in DEMO if name in tables})
    record["tables"] = {name: provenance(table) for name, table in tables.items()}
    record |= {"scale_transfer": transfer, "held_out": list(HELD_OUT), "seconds": round(time.perf_counter() - start)}
    record |= environment("numpy", "scipy", "scikit-learn", "pandas")
    _print(record)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
