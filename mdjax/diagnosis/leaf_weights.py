"""Where measured values lead in a tree when they have error bars or are missing: weights of its leaves."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import ndtr

from mdjax.diagnosis.beliefs import at_most_probability, leaf_memberships
from mdjax.diagnosis.questions import Tree, features_of, leaves


def leaf_weights(
    tree: Tree,
    columns: Mapping[str, np.ndarray],
    errors: Mapping[str, np.ndarray],
    *,
    leaf_counts: np.ndarray,
    smoothing: float,
) -> np.ndarray:
    """The probability that each row's true feature values lead to each leaf, [rows, leaves]; rows add to one.

        tree: with soft splits or with sharp ones.
        columns: name → [rows], of the features that are split on; not finite where missing.
        errors: name → [rows], their standard errors; 0 where a value is exact.
        leaf_counts: training rows at the leaves, [leaves, classes].
        smoothing: added to the training rows on each side of a split.

    A measured value counts as normally distributed around the truth, independently of the other features. Of a
    soft tree the thresholds are uncertain, too. At a split whose feature is missing a row goes both ways, in the
    proportion of the training rows there (the rule of Quinlan's C4.5).
    """
    rows_at = leaf_counts.sum(axis=1)
    if any(split.spread > 0 for split in tree):
        sides = []
        for i, split in enumerate(tree):
            values = columns[split.feature]
            side = at_most_probability(split, values, errors[split.feature])
            sides.append(np.where(np.isfinite(values), side, _fraction_of_rows(tree, [(i, True)], rows_at, smoothing)))
        return leaf_memberships(tree, sides)
    # The splits of one feature on a leaf's path leave an interval for its value.
    num_rows, found = len(next(iter(columns.values()))), leaves(tree)
    weights = np.ones((num_rows, len(found)))
    for k, leaf in enumerate(found):
        for name in features_of(tree):
            steps = [(i, side) for i, side in leaf.path if tree[i].feature == name]
            if not steps:
                continue
            low = max((tree[i].threshold for i, side in steps if not side), default=-np.inf)
            high = min((tree[i].threshold for i, side in steps if side), default=np.inf)
            x, se = columns[name], errors[name]
            with np.errstate(divide="ignore", invalid="ignore"):
                spread = ndtr((high - x) / se) - ndtr((low - x) / se)
            inside = np.where(se > 0, np.maximum(spread, 0.0), (x > low) & (x <= high))
            fraction = _fraction_of_rows(tree, steps, rows_at, smoothing)
            weights[:, k] *= np.where(np.isfinite(x), inside, fraction)
    return weights / weights.sum(axis=1, keepdims=True)


def _fraction_of_rows(tree: Tree, steps: Sequence[tuple[int, bool]], rows_at: np.ndarray, smoothing: float) -> float:
    """The product over (split, went to at_most) steps of the fraction of the training rows there that took it.

    `rows_at` holds the training rows at the leaves, [leaves]. Smoothed as the classes at the leaves are.
    """
    fraction = 1.0
    for i, side in steps:
        went = [
            sum(rows_at[k] for k, leaf in enumerate(leaves(tree)) if (i, way) in leaf.path) for way in (side, not side)
        ]
        fraction *= (went[0] + smoothing) / (sum(went) + 2 * smoothing)
    return fraction
