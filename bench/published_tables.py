"""Does the diagnosis layer reproduce the published tables, and does the default method beat them?

    python bench/published_tables.py --data DIR [--json] [--out FILE] [--load FILE.py ...]

DIR holds basic.csv and noisy.csv of the Model Diagnosis Dataset; trees grow on basic and are tested on noisy.
Accuracies in percent, mean over the published seeds; gains in points of test accuracy. The last line is JSON; `--json`
prints nothing else, `--out` keeps it in a file. `--load` runs Python files first, which may add methods to
mdjax.diagnosis.protocols.FACTORIES; every method there is evaluated. Keys of the JSON:

cases        case -> method -> accuracy
curves       curve -> size, rows, and accuracy and spread per method
one_step     question -> method -> gain of one step, a random one and the best
calibration  case -> method -> expected calibration error
reverse      cases, curves and calibration grown on noisy and tested on basic, where the default method was chosen
margin       both ways, the default method's least lead over the published tree on cases and on curves, and its mean
             lead over the tree for single models
"""

import argparse
import json
import runpy
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from mdjax import __version__
from mdjax.diagnosis.protocols import (
    CASES,
    CURVES,
    FACTORIES,
    Choice,
    choices,
    learning_curve,
    one_step_change,
    transfer,
)

ONE_STEP = {"optimizer": Choice("random", 8), "width": Choice("random_data", 1)}
BASELINES = ("hyperparameter", "validation", "combined", "landscape")


def accuracies(train: pd.DataFrame, test: pd.DataFrame) -> tuple[dict, dict]:
    """Accuracy and calibration error of every method on every case."""
    cases: dict[str, dict] = {}
    calibration: dict[str, dict] = {}
    for case in CASES:
        cases[case.name], calibration[case.name] = {}, {}
        for name in FACTORIES:
            found = transfer(name, case.question, train, test, case.choice)
            cases[case.name][name] = round(found.mean, 3)
            calibration[case.name][name] = round(float(found.calibration_errors.mean()), 4)
    return cases, calibration


def curves(train: pd.DataFrame, test: pd.DataFrame) -> dict:
    """The learning curves of the MD trees, and of methods that were added."""
    found = {}
    for question, mode, sizes in CURVES:
        columns: dict[str, list] = {}
        for name in FACTORIES:
            if name in BASELINES:
                continue
            curve = learning_curve(name, question, train, test, choices(mode, sizes))
            columns |= {"size": curve["size"].tolist(), "rows": curve["rows"].tolist()}
            columns |= {name: curve["accuracy"].round(3).tolist(), f"{name} spread": curve["spread"].round(3).tolist()}
        found[f"{question} {mode}"] = columns
    return found


def margin(cases: dict, lines: dict) -> dict[str, float]:
    """The least lead of the default method over the published tree, in points."""
    leads = [own - published for line in lines.values() for own, published in zip(line["default"], line["md_tree"])]
    return {
        "cases": round(min(row["default"] - row["md_tree"] for row in cases.values()), 3),
        "curves": round(min(leads), 3),
        "single_below_default": round(
            float(np.mean([row["default"] - row["md_tree_single"] for row in cases.values()])), 3
        ),
    }


def published_tables(basic: pd.DataFrame, noisy: pd.DataFrame) -> dict:
    """All figures as plain values."""
    cases, calibration = accuracies(basic, noisy)
    reverse, reverse_calibration = accuracies(noisy, basic)
    there, back = curves(basic, noisy), curves(noisy, basic)
    one_step = {
        question: one_step_change(question, basic, noisy, FACTORIES, choice).round(4).to_dict("index")
        for question, choice in ONE_STEP.items()
    }
    return {
        "cases": cases,
        "curves": there,
        "one_step": one_step,
        "calibration": calibration,
        "reverse": {"cases": reverse, "curves": back, "calibration": reverse_calibration},
        "margin": {"basic to noisy": margin(cases, there), "noisy to basic": margin(reverse, back)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON there too")
    parser.add_argument("--load", type=Path, action="append", default=[], metavar="FILE.py")
    arguments = parser.parse_args()
    for path in arguments.load:
        runpy.run_path(str(path))
    start = time.perf_counter()
    tables = published_tables(pd.read_csv(arguments.data / "basic.csv"), pd.read_csv(arguments.data / "noisy.csv"))
    seconds = time.perf_counter() - start
    if not arguments.json:
        for title, cases in (("basic to noisy", tables["cases"]), ("noisy to basic", tables["reverse"]["cases"])):
            print(f"{title}\n{pd.DataFrame.from_dict(cases, orient='index').round(2).to_string()}\n")
        print(f"calibration\n{pd.DataFrame.from_dict(tables['calibration'], orient='index').round(3).to_string()}\n")
        for name, curve in tables["curves"].items():
            print(f"{name}\n{pd.DataFrame(curve).round(2).to_string(index=False)}\n")
        for name, rows in tables["one_step"].items():
            print(f"one-step change, {name}\n{pd.DataFrame.from_dict(rows, orient='index').round(3).to_string()}\n")
    versions = {"mdjax": __version__} | {name: version(name) for name in ("numpy", "scipy", "scikit-learn", "pandas")}
    record = {**tables, "seconds": round(seconds, 2), "versions": versions}
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
