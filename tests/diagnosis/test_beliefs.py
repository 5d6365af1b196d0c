"""The default fit: soft splits, and posteriors against brute force."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import betaln, ndtr

from mdjax.diagnosis.beliefs import BeliefSettings, at_most_probability, fit_beliefs, interval
from mdjax.diagnosis.quantities import quantity
from mdjax.diagnosis.questions import Split, named, soft_split


def test_splits_are_soft_sharp_and_wider_with_error_bars():
    split = Split("hessian_t", 6.0, (4, 9), "a", "b", spread=0.5)
    values = np.array([5.0, 6.0, 7.0, np.nan])
    np.testing.assert_allclose(at_most_probability(split, values), [*ndtr([2, 0, -2]), np.nan])
    np.testing.assert_allclose(
        at_most_probability(split, values[:3], np.array([0, 0, 1.2])), [*ndtr([2, 0]), ndtr(-1 / 1.3)]
    )
    np.testing.assert_array_equal(at_most_probability(replace(split, spread=0.0), values), [1, 1, 0, np.nan])
    assert interval(split) == (5.5, 6.5)
    assert interval(replace(split, spread=0.0)) is None


def test_one_threshold_gets_its_posterior():
    """Against a brute-force posterior: prior times marginal likelihood, by a loop over a grid."""
    rng = np.random.default_rng(0)
    values = rng.uniform(4, 8, 40)
    labels = np.where(values + rng.normal(0, 0.4, 40) <= 5.5, "data", "batch").astype(object)
    settings = BeliefSettings()
    structure = named("data").default_trees[0]
    tree, right = fit_beliefs([structure], {"hessian_t": values}, labels)
    prior = structure[0]
    a, b = settings.weight * settings.reliability, settings.weight * (1 - settings.reliability)
    grid = np.linspace(prior.threshold - 3.5 * prior.spread, prior.threshold + 3.5 * prior.spread, 71)
    log_posterior = []
    for t in grid:
        total = -(((t - prior.threshold) / prior.spread) ** 2) / 2
        for side, label in ((values <= t, "data"), (values > t, "batch")):
            hits, misses = np.sum(labels[side] == label), np.sum(labels[side] != label)
            total += betaln(a + settings.rate * hits, b + settings.rate * misses) - betaln(a, b)
        log_posterior.append(total)
    posterior = np.exp(np.array(log_posterior) - max(log_posterior))
    posterior /= posterior.sum()
    centre = posterior @ grid
    assert tree[0].threshold == pytest.approx(centre)
    spread = np.sqrt(posterior @ (grid - centre) ** 2)
    assert tree[0].spread == pytest.approx(np.hypot(spread, quantity("hessian_t").drift))
    low = ndtr((centre - values) / spread)
    expected = settings.rate * low @ (labels == "data") + settings.weight * settings.reliability
    assert right[0] == pytest.approx(expected / (settings.rate * low.sum() + settings.weight))


def test_few_labels_leave_the_prior_and_many_move_them():
    rng = np.random.default_rng(1)
    structure = named("data").default_trees[0]

    def fitted(count: int) -> Split:
        values = rng.uniform(3, 9, count)
        labels = np.where(values <= 4.5, "data", "batch").astype(object)
        return fit_beliefs([structure], {"hessian_t": values}, labels, BeliefSettings(drift=0.0))[0][0]

    prior = structure[0]
    few, many = fitted(2), fitted(2000)
    assert abs(few.threshold - prior.threshold) < prior.spread / 2
    assert few.spread > 0.8 * prior.spread
    assert many.threshold == pytest.approx(4.5, abs=0.1)
    assert many.spread < 0.1


def test_evidence_is_that_of_all_thresholds_together():
    """One split: the bound on the likelihood is the likelihood itself where the prior is narrow."""
    rng = np.random.default_rng(2)
    values = np.concatenate([rng.uniform(3, 5, 300), rng.uniform(7, 9, 300)])
    labels = np.array(["data"] * 300 + ["batch"] * 300, dtype=object)
    structure = (soft_split("hessian_t", "data", "batch", threshold=6.0, spread=0.4),)
    settings = BeliefSettings(trust=0.0)
    a, b = settings.weight * settings.reliability, settings.weight * (1 - settings.reliability)
    # All thresholds within the prior's reach part the classes alike, so that the prior's average is any one's value.
    alike = 2 * (betaln(a + settings.rate * 300, b) - betaln(a, b))
    reverse = (soft_split("hessian_t", "batch", "data", threshold=6.0, spread=0.4),)
    swapped = 2 * (betaln(a, b + settings.rate * 300) - betaln(a, b))

    def first(odds: float) -> str | int:
        return fit_beliefs([reverse, structure], {"hessian_t": values}, labels, replace(settings, trust=odds))[0][
            0
        ].above

    assert first(alike - swapped + 0.5) == "data"
    assert first(alike - swapped - 0.5) == "batch"
