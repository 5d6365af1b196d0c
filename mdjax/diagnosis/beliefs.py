"""The default fit: a prior for each threshold, updated to its posterior by Bayes' rule as labels come.

A threshold's prior and posterior are kept as normal distributions on its quantity's scale: a split's `threshold` is
the mean and its `spread` the standard deviation. Rows near the threshold go partly both ways: a soft split, as soft
as the labels leave the threshold uncertain. Few labels leave a threshold at its prior; many labels pull it to where
the classes part, and make its posterior narrow. A leaf's probability of being right has a Beta prior of mean
`reliability`, worth `weight` rows, so that a few rows alone never make a leaf almost certain.

Where a question has several structures (trees with priors), the first has the greatest prior probability, and the
labels choose among them by their marginal likelihood: networks unlike the published ones need other structures, or
wider priors. The same threshold lies elsewhere in other data sets, however well this one determines it, so a fitted
split's spread is never less than its quantity's `drift`.
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
    """The settings of the fit, the same for all questions and sample sizes; bench/default_method.py chose them."""

    reliability: float = 0.9  # mean of the Beta prior of a leaf's probability of being right
    weight: float = 20.0  # of that prior, in rows (the sum of the two parameters)
    rate: float = 0.35  # power of each row's likelihood, below 1 because the rows of one sweep resemble each other
    cycles: int = 6  # passes over the thresholds; they settle in about three
    points: int = 71  # of the grid on which a threshold's posterior is computed
    reach: float = 3.5  # half the width of that grid, in prior standard deviations
    trust: float = 1.0  # prior log odds of the first structure against each of the others
    drift: float = 1.0  # factor of the quantities' drifts from one data set to another


def fit_beliefs(
    trees: Sequence[Tree], columns: Columns, labels: np.ndarray, settings: BeliefSettings | None = None
) -> tuple[Tree, np.ndarray]:
    """The tree of greatest posterior probability with its thresholds' posteriors, and its leaves' probabilities.

        trees: the structures to choose from, their thresholds and spreads being the priors; the first is preferred.
        columns: name → [rows], of every feature that a tree splits on.
        labels: the class of each row, [rows].
        settings: those of the fit; None for the usual ones.

    The probabilities, [leaves], are those that a leaf's class is right. As in mean-field variational Bayes, each
    threshold's posterior is computed on a grid from its prior and the marginal likelihood of the two classes' counts
    at the leaves, while the other thresholds are held at their posteriors; the passes repeat from the first split on.
    Trees are compared by the lower bound of their log marginal likelihood that this gives. Costs `cycles` passes over
    the rows per split.
    """
    settings = settings or BeliefSettings()
    fitted = [_fitted(tree, columns, labels, settings) for tree in trees]
    log_posteriors = [bound + settings.trust * (k == 0) for k, (_, _, bound) in enumerate(fitted)]
    tree, right, _ = fitted[int(np.argmax(log_posteriors))]
    return tuple(replace(split, spread=_with_drift(split, settings)) for split in tree), right


def _with_drift(split: Split, settings: BeliefSettings) -> float:
    """The standard deviation of the threshold in another data set: that of the posterior, and the quantity's drift."""
    return float(np.hypot(split.spread, settings.drift * quantity(split.feature).drift))


def _fitted(
    tree: Tree, columns: Columns, labels: np.ndarray, settings: BeliefSettings
) -> tuple[Tree, np.ndarray, float]:
    """One tree's posteriors, its leaves' probabilities of being right, and the bound of its log marginal likelihood."""
    found = leaves(tree)
    hits = [labels == leaf.label for leaf in found]
    values = [columns[split.feature] for split in tree]
    posteriors, sides = list(tree), [at_most_probability(split, values[i]) for i, split in enumerate(tree)]
    divergences = np.zeros(len(tree))
    for _ in range(settings.cycles):
        for i, split in enumerate(tree):
            # Leaves on other branches do not depend on this threshold.
            below = [
                (dict(leaf.path)[i], _membership(leaf, sides, skip=i), hit)
                for leaf, hit in zip(found, hits)
                if i in dict(leaf.path)
            ]
            posteriors[i], divergences[i] = _updated(split, values[i], below, settings)
            sides[i] = at_most_probability(posteriors[i], values[i])
    # Evidence lower bound: expected log likelihood minus the divergence of posterior from prior.
    right, bound = [], -divergences.sum()
    for leaf, hit in zip(found, hits):
        weight = _membership(leaf, sides)
        bound += _log_marginal_likelihood(weight @ hit, weight @ ~hit, settings)
        expected = settings.reliability * settings.weight
        seen = settings.rate * weight
        right.append((seen @ hit + expected) / (seen.sum() + settings.weight))  # the Beta posterior's mean
    return tuple(posteriors), np.array(right), float(bound)


def _updated(
    split: Split, values: np.ndarray, below: list[tuple[bool, np.ndarray, np.ndarray]], settings: BeliefSettings
) -> tuple[Split, float]:
    """The split with its threshold's posterior, and the posterior's Kullback–Leibler divergence from the prior.

    split: the prior.
    values: of the split's feature, [rows].
    below: of each leaf below the split, whether it lies on the side at or below the threshold; the probability
        of each row to reach it by all other splits of its path, [rows]; and which rows are of its class, [rows].
    settings: those of the fit.
    """
    this = quantity(split.feature)
    steps = np.linspace(-settings.reach, settings.reach, settings.points)
    grid = float(this.to_scale(np.array(split.threshold))) + split.spread * steps
    # The index of the first threshold of the grid that a row is at or below.
    boxes = np.searchsorted(grid, this.to_scale(values), side="left")
    log_posterior = log_prior = _normalised(-(steps**2) / 2)
    for at_most, weight, hit in below:
        hits, misses = (_counts(boxes, weight * which, settings.points, at_most) for which in (hit, ~hit))
        log_posterior = log_posterior + _log_marginal_likelihood(hits, misses, settings)
    log_posterior = _normalised(log_posterior)
    posterior = np.exp(log_posterior)
    mean = posterior @ grid
    # The grid cannot tell thresholds apart that lie between two of its points.
    spread = max(np.sqrt(posterior @ (grid - mean) ** 2), (grid[1] - grid[0]) / 2)
    divergence = float(posterior @ (log_posterior - log_prior))
    return replace(split, threshold=float(this.from_scale(mean)), spread=float(spread)), divergence


def _normalised(logs: np.ndarray) -> np.ndarray:
    """The logs of probabilities that are in these proportions and add to one."""
    logs = logs - logs.max()
    return logs - np.log(np.exp(logs).sum())


def at_most_probability(split: Split, values: np.ndarray, errors: np.ndarray | float = 0.0) -> np.ndarray:
    """The probability that each value, [rows], with its standard error lies at or below a split's uncertain threshold.

    0 or 1 for values without error at a sharp split (one without spread). NaN values stay NaN.
    """
    this = quantity(split.feature)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = this.to_scale(np.array(split.threshold)) - this.to_scale(values)
        width = np.hypot(split.spread, this.error_on_scale(values, np.asarray(errors)))
        soft = ndtr(distance / width)
    sharp = np.where(np.isnan(distance), np.nan, np.asarray(values) <= split.threshold)
    return np.where(width > 0, soft, sharp)


def leaf_memberships(tree: Tree, sides: Sequence[np.ndarray]) -> np.ndarray:
    """The probability that each row reaches each leaf, [rows, leaves], from `at_most_probability` at each split."""
    return np.column_stack([_membership(leaf, sides) for leaf in leaves(tree)])


def interval(split: Split) -> tuple[float, float] | None:
    """The threshold minus and plus one spread, in the quantity's own unit; None for a sharp split."""
    if not split.spread:
        return None
    this = quantity(split.feature)
    mean = this.to_scale(np.array(split.threshold))
    low, high = this.from_scale(mean - split.spread), this.from_scale(mean + split.spread)
    return float(low), float(high)


def _membership(leaf: Leaf, sides: Sequence[np.ndarray], skip: int | None = None) -> np.ndarray:
    """The probability that each row reaches a leaf, [rows], by all splits of its path but `skip`."""
    weight = np.ones(len(sides[0]))
    for i, side in leaf.path:
        if i != skip:
            weight = weight * (sides[i] if side else 1 - sides[i])
    return weight


def _counts(boxes: np.ndarray, weight: np.ndarray, points: int, at_most: bool) -> np.ndarray:
    """The sum of the weights of the rows at or below (or above) each of the grid's thresholds, [points]."""
    total = np.cumsum(np.bincount(boxes, weight, minlength=points + 1))
    return total[:-1] if at_most else total[-1] - total[:-1]


def _log_marginal_likelihood(right: Any, wrong: Any, settings: BeliefSettings) -> Any:
    """Of a leaf's counts of right and wrong labels under its Beta prior: ln B(a + right, b + wrong) - ln B(a, b)."""
    a, b = settings.weight * settings.reliability, settings.weight * (1 - settings.reliability)
    return betaln(settings.rate * right + a, settings.rate * wrong + b) - betaln(a, b)
