"""The surface of test accuracy: what it says of places whose truth is known."""

import numpy as np
import pytest

from mdjax.diagnosis.surface import CHANGES, Points, Surface
from mdjax.errors import InputError

TEMPERATURES = 10.0 ** np.arange(-4, 0)
WIDTHS = np.array([1.0, 2, 4, 8])
SHARES = np.array([0.125, 0.25, 0.5, 1.0])


def truth(temperature, width, data):
    """Percent: best at a temperature of 10⁻², better with more width up to some 4, and with more data."""
    heat = (np.log10(temperature) + 2) ** 2
    return 100 / (1 + np.exp(-(2 + 1.5 * np.log(data) - 0.9 * heat - 2 / width)))


def grid(widths=WIDTHS, shares=SHARES) -> Points:
    places = np.array([(t, w, s) for t in TEMPERATURES for w in widths for s in shares])
    return Points(*places.T)


@pytest.fixture(scope="module")
def surface() -> Surface:
    """Learnt from an L: all widths on an eighth of the data, and small widths on more."""
    parts = [grid(WIDTHS, SHARES[:1]), grid(WIDTHS[:2], SHARES[1:3])]
    points = Points(*(np.concatenate(values) for values in zip(*parts)))
    noise = np.random.default_rng(0).normal(0, 0.3, len(points.width))
    return Surface.fitted(points, truth(*points) + noise)


STEPS = {"temperature": TEMPERATURES, "width": [2.0, 4, 8, 16], "data": [0.25, 0.5, 1.0]}


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ((1e-4, 8, 0.5), "hotter"),
        ((1e-1, 8, 1.0), "colder"),
        ((1e-2, 1, 0.5), "wider"),
        ((1e-2, 8, 0.125), "more data"),
        ((1e-2, 8, 0.25), "more data"),
    ],
)
def test_the_change_that_brings_most_is_named_with_its_gain(surface, place, change):
    asked = dict(zip(("temperature", "width", "data"), place, strict=True))
    found = surface.gains(asked, float(truth(*place)), STEPS)
    index = CHANGES.index(change)
    assert found.is_right.argmax() == index
    assert found.is_right[index] > 0.6
    axis = {"hotter": 0, "colder": 0, "wider": 1, "more data": 2}[change]
    others = np.array(list(STEPS.values())[axis])
    further = others[others < place[axis]][::-1] if change == "colder" else others[others > place[axis]]
    moved = [truth(*[value if i == axis else own for i, own in enumerate(place)]) for value in further]
    assert abs(found.one[index] - (moved[0] - truth(*place))) < 4 * found.one_se[index] + 2
    assert abs(found.best[index] - (max(moved) - truth(*place))) < 4 * found.best_se[index] + 2
    question = {0: "optimizer", 1: "width", 2: "data"}[axis]
    assert found.beats[question] > 0.5 if change != "colder" else found.beats["optimizer"] < 0.5


def test_what_has_nowhere_to_go_has_no_gain(surface):
    found = surface.gains({"temperature": 1e-1, "width": 16, "data": 1.0}, None, STEPS)
    hotter, colder, wider, data = found.one
    assert np.isnan([hotter, wider, data]).all()
    assert np.isfinite(colder)
    assert found.is_right[[0, 2, 3]].max() == 0


def test_further_from_what_was_seen_less_is_known(surface):
    near, far = (Points(*(np.array([value]) for value in place)) for place in ((1e-2, 8, 0.125), (1e-2, 64, 8.0)))
    assert surface.accuracies(far)[1] > 2 * surface.accuracies(near)[1]


def test_a_surface_comes_back_from_its_description(surface):
    again = Surface.from_dict(surface.to_dict())
    place = {"temperature": 1e-3, "width": 8.0, "data": 0.5}
    first, second = (one.gains(place, 60.0, STEPS) for one in (surface, again))
    np.testing.assert_array_equal(first.one, second.one)
    assert first.beats == second.beats


def test_an_axis_that_does_not_vary_says_nothing():
    points = grid(WIDTHS[:1], SHARES[:2])
    found = Surface.fitted(points, truth(*points)).gains(
        {"temperature": 1e-4, "width": 1, "data": 0.25}, None, {"temperature": TEMPERATURES, "width": [2.0, 4.0]}
    )
    assert np.nan_to_num(found.best).argmax() == CHANGES.index("hotter")
    assert found.best[CHANGES.index("wider")] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("accuracy", [[50.0, 60.0, 70.0], [50.0, 60.0, np.nan, 70.0, 80.0]])
def test_too_few_or_unknown_accuracies_are_refused(accuracy):
    points = Points(*(np.linspace(1, 2, len(accuracy)) for _ in range(3)))
    with pytest.raises(InputError, match="needs at least 4 configurations"):
        Surface.fitted(points, np.array(accuracy))
