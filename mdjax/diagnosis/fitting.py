"""The ways to fit a tree's thresholds to labelled rows, by name: "published" and "default" (`METHODS`).

A method has structures (trees of splits with start thresholds or priors) for each question, and a fit: a function of
the structures, the feature columns and the labels of the training rows that returns one tree with its thresholds set.
`MDTree` looks its method up here; whoever adds one to `METHODS` can name it there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from mdjax.diagnosis.beliefs import fit_beliefs
from mdjax.diagnosis.questions import Columns, Question, Tree, classes_below, leaves, with_thresholds
from mdjax.errors import InputError


def fit_one_pass(tree: Tree, columns: Columns, labels: np.ndarray) -> Tree:
    """The published fit: each threshold once, in order, by bounded scalar search on the training accuracy.

    While one threshold is searched, those before it are fitted and those after it at their starts. Costs one sort per
    threshold. Source: the code that accompanies Zhou et al., "MD tree", ICML 2024.
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


@dataclass(frozen=True)
class Fitted:
    """What a fit returns: the tree, and, if the fit has its own, the probability that each leaf's class is right.

    For a fit without probabilities `MDTree` takes the fractions of the classes among each leaf's training rows.
    """

    tree: Tree
    reliability: np.ndarray | None = None  # [leaves]


@dataclass(frozen=True)
class Method:
    """A way to grow trees: a question's structures, for pairs and for single models, and the fit.

    The fit is given those of the structures whose features were measured, at least one. All that follows
    (probabilities, files, verdicts, text) reads only the tree that it returns, which need not be one of them.
    """

    structures: Callable[[Question], tuple[Tree, ...]]
    fit: Callable[[Sequence[Tree], Columns, np.ndarray], Fitted]
    single_structures: Callable[[Question], tuple[Tree, ...]] | None = None  # None: no trees for single models


METHODS: dict[str, Method] = {
    "published": Method(
        structures=lambda question: (question.tree,),
        fit=lambda trees, columns, labels: Fitted(fit_one_pass(trees[0], columns, labels)),
    ),
    "default": Method(
        structures=lambda question: question.default_trees,
        fit=lambda trees, columns, labels: Fitted(*fit_beliefs(trees, columns, labels)),
        single_structures=lambda question: question.single_trees,
    ),
}


def method_named(name: str) -> Method:
    """The method of that name; InputError for one that is not in `METHODS`."""
    if not isinstance(name, str) or name not in METHODS:
        raise InputError(f"There is no method {name!r}. Choose one of {', '.join(METHODS)}.")
    return METHODS[name]
