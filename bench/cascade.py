"""What do the stages before the trees take, and are the causes that are still named the right ones?

    python bench/cascade.py --data DIR --fresh DIR [--shifts] [--out FILE]

--data holds basic.csv and noisy.csv of the Model Diagnosis Dataset, --fresh the labelled tables (and zoos) that
bench/fresh_zoos.py leaves. A named cause is right where no change gains, at best, over 0.5 points of test accuracy more
than its own does in the sweep. With --shifts the test data of the clean zoos on digits are spoilt in several ways and
the losses measured again: how many networks that have learnt their training data are told so? The last line of the
output is JSON:

published  sweep -> trees -> rows at each stage
coverage   "grown on -> asked about", columns -> fraction of rows inside the population
fresh      zoo -> trees -> named and right: by the trees alone, by the density of features (without the columns of
           facts), and as shipped
shifts     way to spoil -> networks, fraction caught
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mdjax.diagnosis.causes import CAUSES
from mdjax.diagnosis.labels import RFI_COLUMNS
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.populations import FACTS, FEATURES, TAIL, Population
from mdjax.diagnosis.stages import LEARNT, Stage, chance
from mdjax.diagnosis.treefiles import PUBLISHED, SHIPPED
from mdjax.diagnosis.trees import load_trees
from mdjax.diagnosis.verdicts import diagnose

TREES = (SHIPPED, PUBLISHED)
SLACK = 0.5
COLUMNS = {
    "all": FEATURES,
    "no test data": tuple(name for name in FEATURES if not name.startswith("test")),
    "single models": FEATURES[:6],
}


def named_and_right(table: pd.DataFrame, trees: dict[str, MDTree]) -> dict[str, int]:
    """How many rows are given a cause with a change, and in how many no other change gains much more."""
    causes = diagnose(table, trees)["cause"]
    rooms = table[list(RFI_COLUMNS)].to_numpy(float)
    own = np.column_stack([(causes == cause.meaning).to_numpy() for cause in CAUSES])
    gained = np.where(own, rooms, -np.inf).max(axis=1)
    return {
        "rows": len(table),
        "named": int(own.any(axis=1).sum()),
        "right": int((own.any(axis=1) & (gained >= np.nanmax(rooms, axis=1) - SLACK)).sum()),
    }


def alone(trees: dict[str, MDTree]) -> dict[str, MDTree]:
    """The same trees without their population."""
    return {name: MDTree.from_dict(tree.to_dict() | {"population": None}) for name, tree in trees.items()}


def fresh(folder: Path) -> dict[str, Any]:
    """Named and right causes of every zoo, and their sums."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.csv")):
        table = pd.read_csv(path)
        # By its features alone, a network of another kind may look like one that was seen.
        disguised = table.drop(columns=[name for name in FACTS if name in table.columns and name != "num_classes"])
        for name in TREES:
            trees = load_trees(name)
            for way, asked, by in (
                ("trees alone", table.drop(columns="num_classes"), alone(trees)),
                ("by features", disguised, trees),
                ("as shipped", table, trees),
            ):
                counts = named_and_right(asked, by)
                found.setdefault(path.stem, {}).setdefault(name, {})[way] = counts
                total = found.setdefault("all", {}).setdefault(name, {}).setdefault(way, dict.fromkeys(counts, 0))
                total |= {key: total[key] + value for key, value in counts.items()}
    return found


def coverage(basic: pd.DataFrame, noisy: pd.DataFrame) -> dict[str, dict[str, float]]:
    """The fraction of one published sweep that lies inside the population of the other."""
    ways = {"basic -> noisy": (basic, noisy), "noisy -> basic": (noisy, basic)}
    return {
        way: {
            name: round(float(np.mean(Population.of(grown).distances(asked[[*columns]]).p_value > TAIL)), 4)
            for name, columns in COLUMNS.items()
        }
        for way, (grown, asked) in ways.items()
    }


def shifts(folder: Path) -> dict[str, Any]:
    """How many networks that have learnt their training data are told that their test data are others."""
    from mdjax.sweeps.local import measure
    from mdjax.zoo.data import load

    data = load("digits")
    images, labels, random = data.x_test, data.y_test, np.random.default_rng(0)
    swapped, cycled = np.arange(10), np.roll(np.arange(10), 1)
    swapped[[3, 4]] = 4, 3
    spoilt = {
        "as they are": (images, labels),
        "two classes swapped": (images, swapped[labels]),
        "classes numbered from one": (images, cycled[labels]),
        "labels shuffled": (images, random.permutation(labels)),
        "not standardised": (images * 4 + 5, labels),
        "inverted": (-images, labels),
        "transposed": (images.swapaxes(1, 2), labels),
        "moved by two pixels": (np.roll(images, 2, axis=2), labels),
        "noise of one standard deviation": (images + random.normal(size=images.shape).astype("float32"), labels),
        "five of ten classes": (images[labels < 5], labels[labels < 5]),
    }
    found = {}
    for name, (inputs, answers) in spoilt.items():
        arrays = (data.x_train, data.y_train, np.asarray(inputs, np.float32), answers)
        tables = []
        for zoo in sorted(folder.glob("digits-*-clean-zoo")):
            with tempfile.TemporaryDirectory() as out:
                measured = measure(zoo, out=out, data=arrays, metrics="losses", show_progress=False)
            tables.append(measured.configurations)
        table = pd.concat(tables, ignore_index=True)
        table = table[table["train_error"].to_numpy() <= LEARNT * chance(table).error]
        stages = diagnose(table)["stage"]
        found[name] = {"networks": len(table), "caught": round(float((stages == Stage.MISMATCH).mean()), 3)}
        print(name, found[name], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--fresh", type=Path, required=True, metavar="DIR")
    parser.add_argument("--shifts", action="store_true", help="spoil test data as well")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON there too")
    arguments = parser.parse_args()
    sweeps = {name: pd.read_csv(arguments.data / f"{name}.csv") for name in ("basic", "noisy")}
    record: dict[str, Any] = {
        "published": {
            name: {trees: diagnose(table, trees)["stage"].value_counts().to_dict() for trees in TREES}
            for name, table in sweeps.items()
        },
        "coverage": coverage(*sweeps.values()),
        "fresh": fresh(arguments.fresh),
    }
    if arguments.shifts:
        record["shifts"] = shifts(arguments.fresh)
    for name, counts in record["fresh"].items():
        print(name, counts)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
