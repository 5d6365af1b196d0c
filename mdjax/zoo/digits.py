"""scikit-learn's handwritten digits, which come with the package's dependencies and need no file."""

import numpy as np

from mdjax.zoo.datasets import Dataset
from mdjax.zoo.scaling import Numbers, standardise

NAMES = ("digits", "digits32")
"""The digits as they are, and enlarged for networks of the published geometry."""

_NUM_TRAIN = 1297


def digits(name: str, mean: Numbers | None, std: Numbers | None) -> Dataset:
    """The digits of that name, standardised by `mean` and `std`, or by the train set's own."""
    # Imported here: scikit-learn and scipy take a second to load, and no other data needs them.
    import scipy.ndimage
    import sklearn.datasets

    bunch = sklearn.datasets.load_digits()
    images = (bunch.images / 16).astype(np.float32)[..., np.newaxis]  # pyright: ignore[reportAttributeAccessIssue]
    labels = bunch.target.astype(np.int32)  # pyright: ignore[reportAttributeAccessIssue]
    if name == "digits32":
        enlarged = scipy.ndimage.zoom(images, (1, 4, 4, 1), order=1, mode="nearest", grid_mode=True)
        images = np.repeat(enlarged, 3, axis=-1)  # pyright: ignore[reportCallIssue, reportArgumentType]
    order = np.random.RandomState(0).permutation(len(labels))
    train, test = order[:_NUM_TRAIN], order[_NUM_TRAIN:]
    x_train, x_test = images[train], images[test]
    standardise(x_train, x_test, mean, std)
    return Dataset(name, x_train, labels[train], x_test, labels[test], 10)
