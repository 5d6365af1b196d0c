"""What a metric is: the models that its rows are about, and the runs that make them."""

import pytest

from mdjax.metrics import CKA, Losses, ModeConnectivity, PublishedCKA
from mdjax.metrics.contract import pairs_within


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("all", [(0, 1), (0, 2), (1, 2)]),
        ("disjoint", [(1, 2)]),
        ("first", []),
    ],
)
def test_a_broken_seed_leaves_the_pairs_of_the_others(which, expected):
    """Of seeds 0 to 3, seed 0 is broken: 2 and 3 stay the pair they were."""
    assert pairs_within(["c"] * 3, [1, 2, 3], which) == expected
    assert pairs_within(["c"] * 5, range(5), "disjoint") == [(0, 1), (2, 3)]
    assert pairs_within(["c"] * 5, range(5), "first") == [(0, 1)]


@pytest.mark.parametrize(
    ("metric", "members", "runs"),
    [
        (Losses(), [(0,), (1,), (2,), (3,)], [(0,), (1,), (2,), (3,)]),
        (ModeConnectivity(), [(0, 1)], [(0, 1)]),
        (PublishedCKA(), [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)], None),
        (CKA(), [(0, 1), (0, 2), (1, 2)], [(0,), (1,), (2,)]),
    ],
)
def test_a_metric_knows_its_members_and_its_runs(metric, members, runs):
    found = metric.members(["c", "c", "c", "d"], [0, 1, 2, 0])
    assert found == members
    assert metric.runs(found) == (runs or members)
    assert all(run in metric.runs(found) for member in found for run in metric.runs_of(member))
