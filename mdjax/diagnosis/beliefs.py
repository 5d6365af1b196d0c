"""The default fit: what is believed of each threshold before any label, updated by Bayes' rule as labels come.

A split's threshold is a belief, a normal distribution on the quantity's scale: `threshold` is its centre and `spread`
its standard deviation. Rows near it go partly both ways, which makes it a soft threshold that is as soft as the
labels leave it uncertain. Few labels leave the beliefs where the structure puts them; many labels pull them to where
the classes part and make them narrow. A leaf begins with the belief that its class is right in `reliability` of all
cases, worth `weight` rows, so that no probability is far from that on the word of a few rows.

Where several structures are believed in, the first is trusted most, and the labels choose among them by their
marginal likelihood: networks unlike the published ones need other structures, or wider beliefs. A threshold lies
elsewhere in other data sets, however well it is known in this one, so its spread is never less than its quantity's
`drift`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import betaln, ndtr

from mdjax.diagnosis.quantities import quantity
from mdjax.diagnosis.questions import Columns, Leaf, Split, Tree, leaves


@dataclass(frozen=True)
class BeliefSettings:
    """One setting for all questions and sample sizes, chosen as told in bench/default_method.py."""

    reliability: float = 0.9  # how often a leaf's class is expected to be right before any label is seen
    weight: float = 20.0  # of that expectation, in rows
    rate: float = 0.35  # what a row counts as evidence: rows of one sweep resemble each other
    cycles: int = 6  # passes over the thresholds; they settle in about three
    points: int = 71  # of the grid on which a threshold's belief is computed
    reach: float = 3.5  # of that grid, in prior standard deviations
    trust: float = 1.0  # log odds of the first structure against each of the others before any label
    drift: float = 1.0  # factor of the quantities' drifts from one data set to another


def fit_beliefs(
    trees: Sequence[Tree], columns: Columns, labels: np.ndarray, settings: BeliefSettings | None = None
) -> tuple[Tree, np.ndarray]:
    """The likeliest of the trees with its beliefs updated, and how often each of its leaves is right, (leaves,).

    Each threshold's posterior is computed on a grid from its prior (the split's `threshold` and `spread`) and the
    marginal likelihood of the two classes' counts at the leaves, the other thresholds held at their beliefs; the
    passes repeat from the first split on. Trees are weighed by the lower bound that this puts on the likelihood of
    all labels. Costs `cycles` passes over the rows per split.
    """
    settings = settings or BeliefSettings()
    fitted = [_fitted(tree, columns, labels, settings) for tree in trees]
    odds = [evidence + settings.trust * (k == 0) for k, (_, _, evidence) in enumerate(fitted)]
    tree, shares, _ = fitted[int(np.argmax(odds))]
    return tuple(replace(split, spread=_drifting(split, settings)) for split in tree), shares


def _drifting(split: Split, settings: BeliefSettings) -> float:
    """How far the threshold may lie from its centre in another data set, a standard deviation."""
    return float(np.hypot(split.spread, settings.drift * quantity(split.feature).drift))


def _fitted(
    tree: Tree, columns: Columns, labels: np.ndarray, settings: BeliefSettings
) -> tuple[Tree, np.ndarray, float]:
    """One tree's updated beliefs, the leaves' shares of right answers, and the log evidence for the tree."""
    found = leaves(tree)
    right = [labels == leaf.label for leaf in found]
    values = [columns[split.feature] for split in tree]
    beliefs, sides = list(tree), [gate(split, values[i]) for i, split in enumerate(tree)]
    surprises = np.zeros(len(tree))
    for _ in range(settings.cycles):
        for i, split in enumerate(tree):
            # Leaves on other branches do not depend on this threshold.
            below = [
                (dict(leaf.path)[i], _weight(leaf, sides, skip=i), hit)
                for leaf, hit in zip(found, right)
                if i in dict(leaf.path)
            ]
            beliefs[i], surprises[i] = _updated(split, values[i], below, settings)
            sides[i] = gate(beliefs[i], values[i])
    shares, evidence = [], -surprises.sum()
    for leaf, hit in zip(found, right):
        weight = _weight(leaf, sides)
        evidence += _evidence(weight @ hit, weight @ ~hit, settings)
        expected = settings.reliability * settings.weight
        seen = settings.rate * weight
        shares.append((seen @ hit + expected) / (seen.sum() + settings.weight))
    return tuple(beliefs), np.array(shares), float(evidence)


def _updated(
    split: Split, values: np.ndarray, below: list[tuple[bool, np.ndarray, np.ndarray]], settings: BeliefSettings
) -> tuple[Split, float]:
    """The split with its threshold's prior belief updated by the rows of the leaves below it, and the surprise.

    Of each leaf: whether it lies at or below the threshold, how much each row would belong to it but for this
    split, and which rows are of its class. The surprise is the relative entropy of the new belief to the prior.
    """
    this = quantity(split.feature)
    steps = np.linspace(-settings.reach, settings.reach, settings.points)
    grid = float(this.to_scale(np.array(split.threshold))) + split.spread * steps
    # A row is at or below the grid's thresholds from this one on.
    boxes = np.searchsorted(grid, this.to_scale(values), side="left")
    log_belief = log_prior = _normalised(-(steps**2) / 2)
    for at_most, weight, hit in below:
        hits, misses = (_running(boxes, weight * which, settings.points, at_most) for which in (hit, ~hit))
        log_belief = log_belief + _evidence(hits, misses, settings)
    log_belief = _normalised(log_belief)
    belief = np.exp(log_belief)
    centre = belief @ grid
    # Between two grid points the classes may part anywhere.
    spread = max(np.sqrt(belief @ (grid - centre) ** 2), (grid[1] - grid[0]) / 2)
    surprise = float(belief @ (log_belief - log_prior))
    return replace(split, threshold=float(this.from_scale(centre)), spread=float(spread)), surprise


def _normalised(logs: np.ndarray) -> np.ndarray:
    """The logs of probabilities that are in these proportions and add to one."""
    logs = logs - logs.max()
    return logs - np.log(np.exp(logs).sum())


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


def _evidence(right: Any, wrong: Any, settings: BeliefSettings) -> Any:
    """The log marginal likelihood of a leaf's counts under its Beta prior."""
    a, b = settings.weight * settings.reliability, settings.weight * (1 - settings.reliability)
    return betaln(settings.rate * right + a, settings.rate * wrong + b) - betaln(a, b)
