"""Data sets as Python has them: every kind comes to the same arrays, every malformed one is one sentence."""

import numpy as np
import pytest
from data_sources import ARRAYS, X, Y
from PIL import Image
from sources_in_memory import OBJECTS

from mdjax.errors import InputError
from mdjax.zoo.data import Dataset, dataset_of

TWO = np.arange(2)


@pytest.fixture(scope="module")
def expected() -> Dataset:
    return dataset_of(ARRAYS, "nhwc")


@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_of_all_kinds_come_to_the_same_data(expected, kind):
    train, test = (list(zip(X[part], Y[part])) for part in (slice(0, 20), slice(20, 28)))
    halves = (OBJECTS[kind](train), OBJECTS[kind](test))
    assert dataset_of(halves).fingerprint == expected.fingerprint
    named = {"train": OBJECTS[kind](train), "test": OBJECTS[kind](test)}
    assert dataset_of(named, "nhwc").fingerprint == expected.fingerprint


def test_channels_of_objects_are_asked_for_where_they_may_be_first():
    images = np.repeat(X[:, None], 3, axis=1)  # as torchvision's ToTensor has them
    halves = tuple(list(zip(images[part], Y[part])) for part in (slice(0, 20), slice(20, 28)))
    with pytest.raises(InputError, match=r"of the given train data have shape \[n, 3, 6, 5\]. Say .* layout nchw"):
        dataset_of(halves)
    assert dataset_of(halves, "nchw").input_shape == (6, 5, 3)
    last = tuple([(x.transpose(1, 2, 0), y) for x, y in half] for half in halves)
    assert dataset_of(last).fingerprint == dataset_of(halves, "nchw").fingerprint


def fails(_):
    raise RuntimeError("the disk\nis gone")
    yield


GOOD_HALF = [(np.ones(3), 0), (np.ones(3), 1)]
BAD_HALVES = {
    "nothing": ([], "The given train data are empty. Give at least one example"),
    "no pairs": ([1, 2], "example 0 of the given train data is a int. Give"),
    "three": ([(1.0, 2, 3)], "example 0 of the given train data is a tuple of 3. Give"),
    "other entries": ([{"a": 1, "label": 2}], "has the entries a, label. Call its input one of image, img, x"),
    "two inputs": ([{"x": 1, "image": 2, "y": 0}], "has the entries x, image, y. Call"),
    "other shapes": ([*GOOD_HALF, (np.ones(4), 1)], r"example 2 .* is float64\[4\], but the first is float64\[3\]"),
    "other types": (
        [*GOOD_HALF, (np.ones(3, "f4"), 1)],
        r"example 2 .* is float32\[3\], but the first is float64\[3\]",
    ),
    "labels of vectors": ([(np.ones(3), np.eye(2))], r"has inputs \[3\] and labels \[2, 2\]. Give one whole number"),
    "labels of other lengths": ([(np.ones(3), TWO)], r"has inputs \[3\] and labels \[2\]"),
    "labels of floats": ([(np.ones(3), 0.5)] * 2, "y_train has type float64. Give labels as whole numbers"),
    "texts": ([("a", 1)], "has type <U1. Give numbers"),
    "it raises": (fails(0), "Cannot read example 0 of the given train data: the disk. Mend the data set"),
    "a transparent image": ([(Image.new("RGBA", (2, 2)), 0)], "Cannot read example 0 .* of the mode RGBA"),
}


@pytest.mark.parametrize("case", BAD_HALVES)
def test_objects_that_give_no_data_are_refused_in_one_sentence(case):
    half, message = BAD_HALVES[case]
    with pytest.raises(InputError, match=message):
        dataset_of((half, GOOD_HALF))


def test_endless_objects_end_at_the_memory_limit(monkeypatch):
    monkeypatch.setenv("MDJAX_MEMORY", "1MiB")

    def endless():
        while True:
            yield np.ones((100, 100)), 0

    with pytest.raises(InputError, match=r"examples of the given train data would take .* of memory, .* Give fewer"):
        dataset_of((endless(), GOOD_HALF))
