"""Methods that fit the thresholds of a tree: structure, features and labels in, a fitted tree out."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from mdjax.questions import Columns, Tree, classes_below, leaves, with_thresholds


def fit_one_pass(tree: Tree, columns: Columns, labels: np.ndarray) -> Tree:
    """The published fit: each threshold once, in order, by bounded scalar search on the training accuracy.

    The other thresholds are held meanwhile. Costs one sort per threshold. Source: the code that accompanies
    Zhou et al., "MD tree", ICML 2024.
    """
    labels = np.asarray(labels, dtype=object)
    for i, split in enumerate(tree):
        path = next(leaf.path for leaf in leaves(tree) if i in dict(leaf.path))
        reached = np.ones(len(labels), dtype=bool)
        for above, side in path[: [node for node, _ in path].index(i)]:
            reached &= (columns[tree[above].feature] <= tree[above].threshold) == side
        here = {name: values[reached] for name, values in columns.items()}
        elsewhere = np.sum(classes_below(tree, 0, columns)[~reached] == labels[~reached])
        hit_low = classes_below(tree, split.at_most, here) == labels[reached]
        hit_high = classes_below(tree, split.above, here) == labels[reached]
        # hits[k]: right answers when the threshold leaves the k rows of least feature value at or below it.
        order = np.argsort(here[split.feature], kind="stable")
        ascending = here[split.feature][order]
        gained = np.concatenate([[0], np.cumsum(hit_low[order].astype(int) - hit_high[order].astype(int))])
        hits = elsewhere + hit_high.sum() + gained

        def negative_accuracy(t: float, ascending=ascending, hits=hits) -> float:
            return -hits[np.searchsorted(ascending, t, side="right")] / len(labels)

        found: Any = minimize_scalar(negative_accuracy, bounds=split.bounds, method="bounded")
        thresholds = [s.threshold for s in tree]
        thresholds[i] = float(found.x)
        tree = with_thresholds(tree, thresholds)
    return tree


# A method turns (structure with start thresholds, feature columns, labels) into a fitted tree, whose
# structure may differ; anything that follows (probabilities, files, verdicts, text) only walks the tree it
# returns.
FitMethod = Callable[[Tree, Columns, np.ndarray], Tree]
METHODS: dict[str, FitMethod] = {"published": fit_one_pass}
