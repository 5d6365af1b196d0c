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


def test_a_folder_of_many_models_is_compared_in_a_circle():
    found = pairs_within(["c"] * 600, range(600), "all")
    assert len(found) == 600
    assert {index for pair in found for index in pair} == set(range(600))
    some = pairs_within(["c"] * 100, range(100), "ordered")
    assert len(some) == 2 * 100 * 10
    assert len({tuple(sorted(pair)) for pair in some}) == 1000
    assert len(pairs_within(["c"] * 45, range(45), "all")) == 990  # all of them
    assert CKA().leaves_out_pairs(46)
    assert not CKA().leaves_out_pairs(45)
    assert not ModeConnectivity().leaves_out_pairs(600)
