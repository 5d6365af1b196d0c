"""Which trees does the package ship? Those grown by the published method on the whole published dataset.

    python bench/published_trees.py --data DIR

DIR holds basic.csv and noisy.csv of the Model Diagnosis Dataset. Writes mdjax/published_trees.json; the last line of
the output is JSON with the thresholds.
"""

import argparse
import json
from datetime import date
from pathlib import Path

import pandas as pd

from mdjax import __version__
from mdjax.diagnosis import MDTree, grow, save_trees
from mdjax.questions import QUESTIONS

DATASET = "Model Diagnosis Dataset, basic.csv and noisy.csv (github.com/YefanZhou/ModelDiagnosis, MIT License)"


def published_trees(folder: Path) -> list[MDTree]:
    """One tree per question, grown on both tables together."""
    table = pd.concat([pd.read_csv(folder / "basic.csv"), pd.read_csv(folder / "noisy.csv")], ignore_index=True)
    provenance = {"data": DATASET, "date": date.today().isoformat(), "mdjax": __version__}
    return [grow(table, name, preset="reference", provenance=provenance) for name in QUESTIONS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "mdjax" / "published_trees.json")
    arguments = parser.parse_args()
    trees = published_trees(arguments.data)
    save_trees(trees, arguments.out)
    for tree in trees:
        print(f"{tree.question}\n{tree.export_text()}")
    print(json.dumps({tree.question: tree.thresholds_.tolist() for tree in trees}))


if __name__ == "__main__":
    main()
