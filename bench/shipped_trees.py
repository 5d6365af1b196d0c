"""Which trees does the package ship? Those grown on the whole published dataset, by the default and the published fit.

    python bench/shipped_trees.py --data DIR [--date YYYY-MM-DD]

DIR holds basic.csv and noisy.csv of the Model Diagnosis Dataset. Writes mdjax/diagnosis/shipped_trees.json (default
method: per question the full tree and the one for single models) and mdjax/diagnosis/published_trees.json (the paper's
fit), with what their answers' changes brought in the two sweeps (each compared within itself) and how often they were
right when grown on all of basic and asked about noisy (not the other way round: the default method was chosen on
basic), and a quarter of their rows as the population outside of which they name no cause. The last line of the output
is JSON with the thresholds.
"""

import argparse
import json
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from mdjax import __version__
from mdjax.diagnosis.growing import grow
from mdjax.diagnosis.labels import Axes
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.populations import Population
from mdjax.diagnosis.questions import QUESTIONS, named
from mdjax.diagnosis.treefiles import NAMED, PUBLISHED, SHIPPED
from mdjax.diagnosis.trees import save_trees

METHODS = {SHIPPED: "default", PUBLISHED: "published"}
FACTS = {"family": ("resnet18", "resnet", "resnet_cifar100", "resnet_torchvision"), "num_classes": (10,)}
DATASET = "Model Diagnosis Dataset, basic.csv and noisy.csv (github.com/YefanZhou/ModelDiagnosis, MIT License)"


def grown_trees(folder: Path, method: str, day: str) -> list[MDTree]:
    """One tree per question, grown by a method on both tables together."""
    zoos = {name: pd.read_csv(folder / f"{name}.csv").assign(zoo=name) for name in ("basic", "noisy")}
    table = pd.concat(zoos.values(), ignore_index=True)
    provenance = {"data": DATASET, "date": day, "mdjax": __version__}
    population = Population.of(table, facts=FACTS)
    trees = []
    for name in QUESTIONS:
        tree = grow(table, name, method=method, preset="reference", provenance=provenance, axes=Axes(within=("zoo",)))
        for one in filter(None, (tree, tree.single_)):
            one.provenance_["transfer_accuracy"] = round(transfer_accuracy(one, *zoos.values()), 2)
        tree.population_ = population
        trees.append(tree)
    return trees


def transfer_accuracy(tree: MDTree, train: pd.DataFrame, test: pd.DataFrame) -> float:
    """The accuracy in percent, on all of one zoo, of a tree like this one grown on all of another."""
    question = named(tree.question)
    grown, tested = question.rows(train), question.rows(test)
    fitted = MDTree(question.name, method=tree.method, single=tree.single).fit(grown, grown[question.label])
    return 100 * float(np.mean(fitted.predict(tested) == tested[question.label].to_numpy(dtype=object)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--date", default=date.today().isoformat(), help="of the provenance (default: today)")
    arguments = parser.parse_args()
    thresholds = {}
    for name, method in METHODS.items():
        trees = grown_trees(arguments.data, method, arguments.date)
        save_trees(trees, NAMED[name])
        for tree in trees:
            print(f"{name}: {tree.question}\n{tree.export_text()}")
            if tree.single_ is not None:
                print(f"{name}: {tree.question}, single models\n{tree.single_.export_text()}")
        thresholds[name] = {tree.question: tree.thresholds_.tolist() for tree in trees}
    print(json.dumps(thresholds))


if __name__ == "__main__":
    main()
