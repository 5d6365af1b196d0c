"""Data: the published recipe, every accepted form, every refusal, and pickles that must not run."""

import os
import pickle

import numpy as np
import pytest

from mdjax.errors import InputError
from mdjax.zoo import cifar
from mdjax.zoo.data import Dataset, load


def arrays(*, num_train: int = 20, num_test: int = 6, shape: tuple[int, ...] = (5, 4, 3)) -> dict[str, np.ndarray]:
    random = np.random.RandomState(1)
    return {
        "x_train": random.randint(0, 256, (num_train, *shape)).astype(np.uint8),
        "y_train": np.arange(num_train) % 4,
        "x_test": random.randint(0, 256, (num_test, *shape)).astype(np.uint8),
        "y_test": np.arange(num_test) % 4,
    }


@pytest.fixture
def save(tmp_path):
    """Saves an .npz of good arrays, some of them replaced (or left out, by None), and returns its path."""

    def write(**replaced):
        path = tmp_path / "own.npz"
        content = {**arrays(), **replaced}
        np.savez(path, **{name: array for name, array in content.items() if array is not None})
        return path

    return write


def dataset(num_train: int = 50_000, num_classes: int = 10) -> Dataset:
    inputs = np.zeros((num_train, 1), np.float32)
    labels = (np.arange(num_train) % num_classes).astype(np.int32)
    return Dataset("made", inputs, labels, inputs[:2], labels[:2], num_classes)


def test_noisy_labels_follow_the_published_recipe():
    clean = dataset()
    # The published script, line by line, on the global generator.
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(12345)  # noqa: NPY002
    expected = clean.y_train.copy()
    mask = np.random.rand(len(expected)) <= 0.1  # noqa: NPY002
    expected[mask] = np.random.choice(10, mask.sum())  # noqa: NPY002
    np.random.set_state(state)  # noqa: NPY002

    noisy = clean.train_labels(0.1)
    np.testing.assert_array_equal(noisy, expected)
    assert noisy.dtype == np.int32
    assert 0.08 < np.mean(noisy != clean.y_train) < 0.1


def test_noise_leaves_the_global_generator_and_the_clean_labels_alone():
    clean = dataset(num_train=1000)
    before, labels = np.random.get_state()[1].copy(), clean.y_train.copy()  # noqa: NPY002
    assert (clean.train_labels(1.0) != labels).any()
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.testing.assert_array_equal(clean.y_train, labels)
    np.testing.assert_array_equal(clean.train_labels(0), labels)


def test_subset_size_is_the_published_rule_without_its_float_error():
    published = dataset()
    for tenths in range(1, 11):
        assert published.subset_size(tenths / 10) == int(50_000 * (tenths / 10)) == 5000 * tenths
    assert int(100 * 0.29) == 28
    assert dataset(num_train=100).subset_size(0.29) == 29
    assert dataset(num_train=10).subset_size(0.19) == 1


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan"), 1e-7])
def test_bad_fraction_is_refused(fraction):
    with pytest.raises(InputError, match=r"data_share is .*\. Give "):
        dataset().subset_size(fraction)


@pytest.mark.parametrize("noise", [-0.1, 1.1, float("nan")])
def test_bad_noise_is_refused(noise):
    with pytest.raises(InputError, match=r"label_noise is .* Give a fraction from 0 to 1"):
        dataset().train_labels(noise)


def test_fingerprint_changes_with_any_value(save):
    first = load(save())
    assert first.fingerprint == load(save()).fingerprint
    assert len(first.fingerprint) == 16
    for name, array in arrays().items():
        changed = array.copy()
        changed.flat[-1] = (changed.flat[-1] + 1) % 4
        assert load(save(**{name: changed}), mean=0, std=1).fingerprint != load(save(), mean=0, std=1).fingerprint


@pytest.mark.parametrize(("name", "shape"), [("digits", (8, 8, 1)), ("digits32", (32, 32, 3))])
def test_digits(name, shape):
    data = load(name)
    assert data.name == name
    assert data.input_shape == shape
    assert data.x_train.shape == (1297, *shape)
    assert data.x_test.shape == (500, *shape)
    assert data.x_train.dtype == data.x_test.dtype == np.float32
    assert data.y_train.dtype == data.y_test.dtype == np.int32
    assert data.num_classes == 10
    np.testing.assert_allclose(data.x_train.mean((0, 1, 2), dtype=np.float64), 0, atol=1e-6)
    np.testing.assert_allclose(data.x_train.std((0, 1, 2), dtype=np.float64), 1, atol=1e-6)
    assert set(data.y_test) == set(range(10))
    assert data.fingerprint == load(name).fingerprint


def test_digits_are_a_shuffled_split_of_all_images():
    import sklearn.datasets

    bunch = sklearn.datasets.load_digits()
    data = load("digits", mean=0, std=1)
    images = np.concatenate([data.x_train, data.x_test])[..., 0] * 16
    pairs = sorted((image.tobytes(), label) for image, label in zip(images, np.r_[data.y_train, data.y_test]))
    assert pairs == sorted((im.astype(np.float32).tobytes(), la) for im, la in zip(bunch.images, bunch.target))
    assert (data.y_train[:100] != bunch.target[:100]).any()


def test_digits32_enlarges_bilinearly():
    small, large = load("digits", mean=0, std=1), load("digits32", mean=0, std=1)
    np.testing.assert_array_equal(small.y_train, large.y_train)
    np.testing.assert_array_equal(large.x_train[..., 0], large.x_train[..., 2])
    # Pixel centres: large pixel i lies at (i + 0.5) / 4 - 0.5 of the small image, clamped to its edge.
    place = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)
    weights = np.maximum(0, 1 - abs(place[:, None] - np.arange(8)))
    expected = weights @ small.x_train[7, :, :, 0] @ weights.T
    np.testing.assert_allclose(large.x_train[7, :, :, 0], expected, atol=1e-5)


def test_pixels_are_scaled_and_standardised_by_the_train_set(save):
    raw = arrays()
    data = load(save())
    assert (data.name, data.num_classes, data.input_shape) == ("own", 4, (5, 4, 3))
    scaled = raw["x_train"] / 255
    mean, std = scaled.mean((0, 1, 2)), scaled.std((0, 1, 2))
    np.testing.assert_allclose(data.x_train, (scaled - mean) / std, atol=1e-5)
    np.testing.assert_allclose(data.x_test, (raw["x_test"] / 255 - mean) / std, atol=1e-5)
    np.testing.assert_array_equal(data.y_test, raw["y_test"])


def test_pixels_are_standardised_by_given_numbers(save):
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    expected = (arrays()["x_test"] / 255 - mean) / std
    np.testing.assert_allclose(load(save(), mean=mean, std=std).x_test, expected, atol=1e-5)


def test_constant_channel_becomes_zero(save):
    constant = arrays()["x_train"]
    constant[..., 1] = 77
    np.testing.assert_allclose(load(save(x_train=constant)).x_train[..., 1], 0, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f8"])
def test_floats_are_taken_as_they_are(save, dtype):
    floats = {name: arrays()[name].astype(dtype) for name in ("x_train", "x_test")}
    data = load(str(save(**floats)))
    assert data.x_train.dtype == np.float32
    np.testing.assert_array_equal(data.x_train, floats["x_train"].astype(np.float32))


def test_grey_images_gain_a_channel_and_flat_inputs_stay_flat(save):
    assert load(save(**arrays(shape=(5, 4)))).input_shape == (5, 4, 1)
    flat = load(save(**arrays(shape=(7,))))
    assert flat.input_shape == (7,)
    np.testing.assert_allclose([flat.x_train.mean(), flat.x_train.std()], [0, 1], atol=1e-5)


def test_number_of_classes_may_be_given(save):
    assert load(save(num_classes=np.array(10))).num_classes == 10


def first_replaced(name: str, value: float) -> np.ndarray:
    array = arrays()[name].astype(np.float32) if name.startswith("x") else arrays()[name]
    array.flat[0] = value
    return array


x, y = arrays()["x_train"], arrays()["y_train"]
REFUSED = {
    "missing array": ({"y_test": None}, "has no array y_test; it holds x_train"),
    "whole-number type": ({"x_train": x.astype(np.int64)}, "x_train has type int64"),
    "object type": ({"x_train": np.array([None, "a"])}, "array x_train of .*own.npz: it has type object"),
    "rank": ({"x_train": x[..., None]}, r"x_train has shape \[20, 5, 4, 3, 1\]"),
    "rank of one": ({"x_train": x[:, 0, 0, 0]}, r"x_train has shape \[20\]"),
    "channels first": ({"x_train": np.zeros((20, 3, 32, 32), np.uint8)}, "looks like channels first"),
    "grey channels first": ({"x_train": np.zeros((20, 1, 28, 28), np.float32)}, "looks like channels first"),
    "length": ({"y_train": y[:-1]}, "x_train has 20 examples, but y_train has 19"),
    "label rank": ({"y_train": y[:, None]}, r"y_train has shape \[20, 1\]"),
    "float labels": ({"y_train": y.astype(np.float32)}, "y_train has type float32"),
    "negative label": ({"y_test": first_replaced("y_test", -1)}, "y_test holds -1"),
    "unknown class": ({"y_test": first_replaced("y_test", 4)}, "y_test holds 4, but with 4 classes"),
    "label above num_classes": ({"num_classes": np.array(3)}, "y_train holds 3, but with 3 classes"),
    "num_classes": ({"num_classes": np.array([3, 4])}, r"num_classes is int64\[2\]"),
    "huge label": ({"y_train": first_replaced("y_train", 2**40)}, "make 1099511627777 classes"),
    "one class": ({"y_train": 0 * y}, "make 1 classes"),
    "empty": ({"x_train": x[:0], "y_train": y[:0]}, "x_train is empty"),
    "test set of another shape": ({"x_test": x[:6, :3]}, r"x_train is uint8\[n, 5, 4, 3\], but x_test is uint8\[n, 3"),
    "test set of another type": ({"x_test": first_replaced("x_test", 0)}, r"but x_test is float32"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_npz_is_refused_by_name(save, case):
    replaced, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        load(save(**replaced))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_not_finite_are_refused(save, value):
    floats = {name: arrays()[name].astype(np.float64) for name in ("x_train", "x_test")}
    floats["x_test"][3, 0, 0, 0] = value
    with pytest.raises(InputError, match=r"x_test holds 1 values .* the first in example 3"):
        load(save(**floats))


def test_damaged_npz_is_refused(save, tmp_path):
    path = save()
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[300:400] = bytes(100)
    np.save(tmp_path / "single.npy", x)
    for content in (b"", b"PK\x03\x04", b"not a zip", whole[:500], whole[: len(whole) // 2], bytes(damaged)):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"Cannot read .*own\.npz: .*Save it again"):
            load(path)
    with pytest.raises(InputError, match=r"single.npy: it is no whole .npz file"):
        load(tmp_path / "single.npy")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("digtis", "Unknown data 'digtis'. Choose one of digits, digits32, or"),
        ("cifar10", "Give cifar10:PATH, with the path of"),
        ("missing.npz", "There is no file or folder missing.npz"),
        ("some/where", "There is no file or folder some/where"),
        ("cifar10:nowhere", "There are none of CIFAR-10's batches in nowhere. Give the folder cifar-10-batches-py or"),
        (".", r"There are no data in \.\. Give the path of a folder that holds one of: CIFAR-10's batches, "),
    ],
)
def test_unknown_source_is_refused(source, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        load(source)


def test_bad_standardisation_is_refused(save):
    with pytest.raises(InputError, match="Only one of mean and std"):
        load("digits", mean=0.5)
    with pytest.raises(InputError, match=r"mean is \(0.1, 0.2\)\. Give one number, or one for each of 3"):
        load(save(), mean=(0.1, 0.2), std=1)
    with pytest.raises(InputError, match=r"std is 0\. Give numbers above 0"):
        load(save(), mean=0, std=0)
    floats = {name: arrays()[name].astype(np.float32) for name in ("x_train", "x_test")}
    with pytest.raises(InputError, match="x_train is float32, which is taken as it is"):
        load(save(**floats), mean=0, std=1)


# CIFAR-10, with few records per file.


@pytest.fixture
def batches(monkeypatch):
    monkeypatch.setattr(cifar, "RECORDS", 8)
    random = np.random.RandomState(2)
    names = [*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"]
    return {
        name: (random.randint(0, 256, (8, 3072)).astype(np.uint8), random.randint(0, 10, 8).tolist()) for name in names
    }


@pytest.fixture
def python_folder(batches, tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, (pixels, labels) in batches.items():
        content = {b"batch_label": b"a batch", b"labels": labels, b"data": pixels, b"filenames": [b"a.png"] * 8}
        # Protocol 2 is the official files'; they name numpy's old module.
        written = pickle.dumps(content, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
        (folder / name).write_bytes(written)
    return folder


@pytest.fixture
def binary_folder(batches, tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name, (pixels, labels) in batches.items():
        records = np.column_stack([np.array(labels, np.uint8), pixels])
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    return folder


def test_both_cifar_folders_give_the_published_arrays(batches, python_folder, binary_folder):
    data, same = load(python_folder), load(f"cifar10:{binary_folder}")
    assert data.fingerprint == same.fingerprint == load(f"cifar10:{python_folder.parent}").fingerprint
    assert (data.name, data.num_classes, data.input_shape) == ("cifar10", 10, (32, 32, 3))
    assert data.x_train.shape == (40, 32, 32, 3)
    pixels, labels = batches["data_batch_2"]
    np.testing.assert_array_equal(data.y_train[8:16], labels)
    red = pixels[3, :1024].reshape(32, 32) / 255
    blue = pixels[3, 2048:].reshape(32, 32) / 255
    np.testing.assert_allclose(data.x_train[11, :, :, 0], (red - 0.4914) / 0.2023, atol=1e-5)
    np.testing.assert_allclose(data.x_train[11, :, :, 2], (blue - 0.4465) / 0.2010, atol=1e-5)


class _Command:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_hostile_pickle_does_not_run(python_folder, tmp_path):
    trace = tmp_path / "ran"
    content = {b"data": _Command(f"touch {trace}"), b"labels": []}
    (python_folder / "data_batch_3").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(InputError, match=r"data_batch_3 .* it refers to (posix|nt).system, .* was not run"):
        load(python_folder)
    assert not trace.exists()


@pytest.mark.parametrize("reference", [print, eval, np.load, pickle.loads, os.path.join])
def test_pickle_that_refers_to_anything_else_is_refused(python_folder, reference):
    (python_folder / "test_batch").write_bytes(pickle.dumps({b"data": reference}))
    with pytest.raises(InputError, match=r"test_batch .* it refers to"):
        load(python_folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no readable CIFAR-10 batch"),
        (b"\x80\x02garbage", "is no readable CIFAR-10 batch"),
        (pickle.dumps([1]), "holds a list, not a CIFAR-10 batch"),
        (pickle.dumps({b"labels": [1]}), "lacks the entry 'data'"),
        (pickle.dumps({b"data": np.zeros((8, 3072), np.uint8)}), "lacks the entry 'labels'"),
        (
            pickle.dumps({b"data": np.zeros((7, 3072), np.uint8), b"labels": [0] * 7}),
            r"holds an array uint8\[7, 3072\]",
        ),
        (pickle.dumps({b"data": np.zeros((8, 3072)), b"labels": [0] * 8}), r"holds an array float64\[8, 3072\]"),
        (
            pickle.dumps({b"data": np.zeros((8, 3072), np.uint8), b"labels": [11] * 8}),
            "does not hold 8 labels from 0 to 9",
        ),
    ],
)
def test_bad_python_batch_is_refused(python_folder, content, message):
    (python_folder / "data_batch_4").write_bytes(content)
    with pytest.raises(InputError, match=f"data_batch_4 {message}"):
        load(python_folder)


def test_cut_and_missing_cifar_files_are_refused(python_folder, binary_folder):
    batch = python_folder / "data_batch_2"
    batch.write_bytes(batch.read_bytes()[:-5000])
    with pytest.raises(InputError, match="data_batch_2 is no readable CIFAR-10 batch"):
        load(python_folder)
    batch = binary_folder / "data_batch_5.bin"
    batch.write_bytes(batch.read_bytes()[:-3073])
    with pytest.raises(InputError, match=r"data_batch_5.bin has 21511 bytes, but a CIFAR-10 batch has 24584"):
        load(binary_folder)
    (binary_folder / "data_batch_5.bin").unlink()
    with pytest.raises(InputError, match=r"data_batch_5.bin is missing. Unpack the whole"):
        load(binary_folder)
