"""Does the diagnosis layer reproduce the published tables? Every case, learning curve and one-step change.

    python bench/published_tables.py --data DIR [--json]

DIR holds basic.csv and noisy.csv of the Model Diagnosis Dataset; trees grow on basic and are tested on noisy.
Accuracies in percent, mean over the published seeds; gains in points of test accuracy. The last line is JSON with
the keys `cases`, `curves` and `one_step`; `--json` prints nothing else.
"""

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from mdjax.diagnosis import HyperparameterTree, MDTree, ValidationTree
from mdjax.protocols import CASES, CURVES, learning_curve, one_step_change, transfer

METHODS = {"hyperparameter": HyperparameterTree, "validation": ValidationTree, "md_tree": MDTree}
ONE_STEP = {"optimizer": ("random", 8), "width": ("random_data", 1)}


def published_tables(train: pd.DataFrame, test: pd.DataFrame) -> dict:
    """All figures as plain values."""
    cases = {
        case.name: {
            name: transfer(method, case.question, train, test, mode=case.mode, size=case.size).mean
            for name, method in METHODS.items()
        }
        for case in CASES
    }
    curves = {
        f"{question} {mode}": learning_curve(MDTree, question, train, test, mode=mode, sizes=sizes).to_dict("list")
        for question, mode, sizes in CURVES
    }
    one_step = {
        question: one_step_change(question, train, test, METHODS, mode=mode, size=size).to_dict("index")
        for question, (mode, size) in ONE_STEP.items()
    }
    return {"cases": cases, "curves": curves, "one_step": one_step}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    arguments = parser.parse_args()
    start = time.perf_counter()
    tables = published_tables(pd.read_csv(arguments.data / "basic.csv"), pd.read_csv(arguments.data / "noisy.csv"))
    seconds = time.perf_counter() - start
    if not arguments.json:
        print(pd.DataFrame.from_dict(tables["cases"], orient="index").round(2).to_string(), end="\n\n")
        for name, curve in tables["curves"].items():
            print(f"{name}\n{pd.DataFrame(curve).round(2).to_string(index=False)}\n")
        for name, rows in tables["one_step"].items():
            print(f"one-step change, {name}\n{pd.DataFrame.from_dict(rows, orient='index').round(3).to_string()}\n")
    versions = {name: version(name) for name in ("numpy", "scipy", "scikit-learn", "pandas")}
    print(json.dumps({**tables, "seconds": round(seconds, 2), "versions": versions}))


if __name__ == "__main__":
    main()
