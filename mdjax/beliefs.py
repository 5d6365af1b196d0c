"""The default fit: what is believed of each threshold before any label, updated by Bayes' rule as labels come.

A split's threshold is a belief, a normal distribution on the quantity's scale: `threshold` is its centre and `spread`
its standard deviation. Rows near it go partly both ways, which makes it a soft threshold that is as soft as the
labels leave it uncertain. Few labels leave the beliefs where the structure puts them; many labels pull them to where
the classes part and make them narrow. A leaf begins with the belief that its class is right in `reliability` of all
cases, worth `weight` rows, so that no probability is far from that on the word of a few rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import betaln, ndtr

from mdjax.quantities import quantity
from mdjax.questions import Columns, Leaf, Split, Tree, leaves


@dataclass(frozen=True)
class BeliefSettings:
    """One setting for all questions and sample sizes, chosen inside the published `basic` table."""

    reliability: float = 0.9  # how often a leaf's class is expected to be right before any label is seen
    weight: float = 20.0  # of that expectation, in rows
    rate: float = 0.35  # what a row counts as evidence: rows of one sweep resemble each other
    cycles: int = 6  # passes over the thresholds; they settle in about three
    points: int = 71  # of the grid on which a threshold's belief is computed
    reach: float = 3.5  # of that grid, in prior standard deviations


def fit_beliefs(
    tree: Tree, columns: Columns, labels: np.ndarray, settings: BeliefSettings | None = None
) -> tuple[Tree, np.ndarray]:
    """The tree with its thresholds' beliefs updated, and the probability that each leaf's class is right, (leaves,).

    Each threshold's posterior is computed on a grid from its prior (the split's `threshold` and `spread`) and the
    marginal likelihood of the two classes' counts at the leaves, the other thresholds held at their beliefs; the
    passes repeat from the first split on. Costs `cycles` passes over the rows per split.
    """
    settings = settings or BeliefSettings()
    found = leaves(tree)
    right = [labels == leaf.label for leaf in found]
    values = [columns[split.feature] for split in tree]
    beliefs, sides = list(tree), [gate(split, values[i]) for i, split in enumerate(tree)]
    for _ in range(settings.cycles):
        for i, split in enumerate(tree):
            # Leaves on other branches do not depend on this threshold.
            below = [
                (dict(leaf.path)[i], _weight(leaf, sides, skip=i), hit)
                for leaf, hit in zip(found, right)
                if i in dict(leaf.path)
            ]
            beliefs[i] = _updated(split, values[i], below, settings)
            sides[i] = gate(beliefs[i], values[i])
    shares = []
    for leaf, hit in zip(found, right):
        weight = settings.rate * _weight(leaf, sides)
        expected = settings.reliability * settings.weight
        shares.append((weight @ hit + expected) / (weight.sum() + settings.weight))
    return tuple(beliefs), np.array(shares)


def _updated(
    split: Split, values: np.ndarray, below: list[tuple[bool, np.ndarray, np.ndarray]], settings: BeliefSettings
) -> Split:
    """The split with its threshold's prior belief updated by the rows of the leaves below it.

    Of each leaf: whether it lies at or below the threshold, how much each row would belong to it but for this
    split, and which rows are of its class.
    """
    this = quantity(split.feature)
    steps = np.linspace(-settings.reach, settings.reach, settings.points)
    grid = float(this.to_scale(np.array(split.threshold))) + split.spread * steps
    # A row is at or below the grid's thresholds from this one on.
    boxes = np.searchsorted(grid, this.to_scale(values), side="left")
    log_belief = -(steps**2) / 2
    for at_most, weight, hit in below:
        hits, misses = (_running(boxes, weight * which, settings.points, at_most) for which in (hit, ~hit))
        log_belief += _evidence(hits, misses, settings)
    belief = np.exp(log_belief - log_belief.max())
    belief /= belief.sum()
    centre = belief @ grid
    # Between two grid points the classes may part anywhere.
    spread = max(np.sqrt(belief @ (grid - centre) ** 2), (grid[1] - grid[0]) / 2)
    return replace(split, threshold=float(this.from_scale(centre)), spread=float(spread))


def gate(split: Split, values: np.ndarray, errors: np.ndarray | float = 0.0) -> np.ndarray:
    """The probability that each value is at or below a split's threshold, given the belief and the standard errors.

    A threshold without spread is sharp for values without error. NaN values stay NaN.
    """
    this = quantity(split.feature)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = this.to_scale(np.array(split.threshold)) - this.to_scale(values)
        width = np.hypot(split.spread, this.error_on_scale(values, np.asarray(errors)))
        soft = ndtr(distance / width)
    sharp = np.where(np.isnan(distance), np.nan, np.asarray(values) <= split.threshold)
    return np.where(width > 0, soft, sharp)


def leaf_memberships(tree: Tree, sides: Sequence[np.ndarray]) -> np.ndarray:
    """The probability that each row belongs to each leaf, (rows, leaves), from its side at each split."""
    return np.column_stack([_weight(leaf, sides) for leaf in leaves(tree)])


def interval(split: Split) -> tuple[float, float] | None:
    """The threshold minus and plus one spread, in the quantity's own unit; None for a sharp threshold."""
    if not split.spread:
        return None
    this = quantity(split.feature)
    centre = this.to_scale(np.array(split.threshold))
    low, high = this.from_scale(centre - split.spread), this.from_scale(centre + split.spread)
    return float(low), float(high)


def _weight(leaf: Leaf, sides: Sequence[np.ndarray], skip: int | None = None) -> np.ndarray:
    weight = np.ones(len(sides[0]))
    for i, side in leaf.path:
        if i != skip:
            weight = weight * (sides[i] if side else 1 - sides[i])
    return weight


def _running(boxes: np.ndarray, weight: np.ndarray, points: int, at_most: bool) -> np.ndarray:
    """The weight at or below (or above) each of the grid's thresholds."""
    total = np.cumsum(np.bincount(boxes, weight, minlength=points + 1))
    return total[:-1] if at_most else total[-1] - total[:-1]


def _evidence(right: np.ndarray, wrong: np.ndarray, settings: BeliefSettings) -> np.ndarray:
    """The log marginal likelihood of a leaf's counts under its Beta prior."""
    a, b = settings.weight * settings.reliability, settings.weight * (1 - settings.reliability)
    return betaln(settings.rate * right + a, settings.rate * wrong + b) - betaln(a, b)
