"""What inputs are: said by a layout, or by types and shapes; arrays given in Python are held to the same."""

from pathlib import Path

import numpy as np
import pytest

from mdjax.errors import InputError
from mdjax.zoo.arrays import Assumption, Layout
from mdjax.zoo.data import Dataset, absolute, dataset_of, is_cifar10, load

RANDOM = np.random.RandomState(0)
Y = np.arange(20) % 4


def split(inputs, labels=Y):
    return {"x_train": inputs, "y_train": labels, "x_test": inputs[:6], "y_test": labels[:6]}


@pytest.fixture
def save(tmp_path):
    def write(inputs, **more):
        np.savez(tmp_path / "own.npz", **split(inputs), **more)
        return tmp_path / "own.npz"

    return write


FLOATS = RANDOM.randn(20, 1, 128, 22).astype("f4")
BYTES = RANDOM.randint(0, 256, (20, 3, 9, 8)).astype("u1")
SIGNALS = RANDOM.randn(20, 2, 6)
WORDS = RANDOM.randint(0, 20, (20, 7))


@pytest.mark.parametrize(
    ("inputs", "layout", "expected"),
    [
        (FLOATS, "nhwc", FLOATS),
        (FLOATS, "nchw", FLOATS.transpose(0, 2, 3, 1)),
        (FLOATS, "NCHW", FLOATS.transpose(0, 2, 3, 1)),
        (FLOATS, "features", FLOATS),
        (SIGNALS, "features", SIGNALS),
        (SIGNALS, "nhwc", SIGNALS[..., None]),
        (SIGNALS, "nchw", SIGNALS[..., None]),
        (RANDOM.randn(20, 2, 3, 4, 5), "features", None),
        (WORDS, "tokens", WORDS),
        (WORDS.astype("u1"), "tokens", WORDS),
        (WORDS.astype("u2"), None, WORDS),
        (WORDS.reshape(20, 7, 1), "tokens", WORDS.reshape(20, 7, 1)),
    ],
)
def test_a_layout_is_not_second_guessed_wherever_it_is_said(save, inputs, layout, expected):
    expected = inputs if expected is None else expected
    told = {} if layout is None else {"layout": layout}
    prefix = f"{layout.lower()}:" if layout else ""
    for data in (
        load(save(inputs), **told),
        load(save(inputs, **told)),
        load(f"{prefix}{save(inputs)}"),
        dataset_of({**split(inputs), **told}),
        dataset_of(tuple(split(inputs).values()), layout),
    ):
        np.testing.assert_array_equal(data.x_train, expected.astype(data.x_train.dtype))
        np.testing.assert_array_equal(data.x_test, data.x_train[:6])
        assert data.x_train.dtype == (np.float32 if inputs.dtype.kind == "f" else np.int32)
        assert data.x_train.flags.c_contiguous
        assert data.reading is None or layout is None


def test_pixels_with_channels_first_are_standardised_by_channel(save):
    scaled = BYTES / 255
    expected = (scaled - scaled.mean((0, 2, 3), keepdims=True)) / scaled.std((0, 2, 3), keepdims=True)
    data = load(save(BYTES), layout="nchw")
    np.testing.assert_allclose(data.x_train, expected.transpose(0, 2, 3, 1), atol=1e-5)
    flat = load(save(BYTES.reshape(20, -1)), layout="features")
    np.testing.assert_allclose(flat.x_train, (scaled - scaled.mean()).reshape(20, -1) / scaled.std(), atol=1e-5)


def test_the_given_layout_wins_over_the_one_in_the_file(save):
    path = save(BYTES, layout="nhwc")
    assert load(path).input_shape == (3, 9, 8)
    assert load(path, layout="nchw").input_shape == load(f"nchw:{path}").input_shape == (9, 8, 3)


@pytest.mark.parametrize(
    ("inputs", "assumption", "other"),
    [
        (SIGNALS, Assumption.GREY, "features"),
        (BYTES[:, 0], Assumption.GREY, "features"),
        (WORDS.astype("u1"), Assumption.PIXELS, "tokens"),
        (WORDS, Assumption.TOKENS, None),
        (SIGNALS[:, 0], None, None),
        (BYTES.transpose(0, 2, 3, 1), None, None),
    ],
)
def test_what_was_assumed_is_remembered_with_the_other_reading(save, inputs, assumption, other):
    data = load(save(inputs))
    assert (data.reading and data.reading.assumption) == assumption
    if data.reading is not None and other is not None:
        otherwise = data.reading.otherwise
        assert otherwise is not None and otherwise().fingerprint == load(save(inputs), layout=other).fingerprint


@pytest.mark.parametrize(
    ("inputs", "layout", "message"),
    [
        (
            FLOATS,
            None,
            r"shape \[20, 1, 128, 22\], which looks like channels first\. Say what it is: layout nchw .* nhwc",
        ),
        (FLOATS, "chw", r"layout is 'chw'. Choose one of nhwc, nchw, features, tokens"),
        (SIGNALS[:, 0], "nhwc", r"x_train has shape \[20, 6\]. Give it as images, or leave layout nhwc out"),
        (SIGNALS, "tokens", r"x_train has type float\d\d. Give tokens as whole numbers"),
        (WORDS, "nhwc", r"x_train has type int64 and shape \[20, 7\]. Give pixels of 0 to 255 as uint8"),
        (WORDS, "features", r"x_train has type int64"),
        (WORDS[..., None], None, r"x_train has type int64 and shape \[20, 7, 1\].* tokens with layout tokens"),
        (WORDS - 1, None, r"x_train holds -1. Number the tokens 0, 1, 2"),
        (WORDS + 2**31, None, r"x_train holds 21474836\d\d. Give whole numbers of 32 bits"),
        (WORDS > 3, None, r"x_train has type bool. Give numbers"),
        (SIGNALS + 1j, None, r"x_train has type complex128"),
    ],
)
def test_what_no_layout_says_is_refused(save, inputs, layout, message):
    for data in (save(inputs), split(inputs), list(split(inputs).values())):
        with pytest.raises(InputError, match=message):
            dataset_of(data, layout)


def test_a_layout_of_what_is_no_file_of_arrays_is_refused():
    with pytest.raises(InputError, match="layout nchw was given for 'digits', but it says what an .npz file holds"):
        load("digits", layout="nchw")
    with pytest.raises(InputError, match="layout nhwc was given, but the inputs of a Dataset are as the network sees"):
        dataset_of(load("digits"), "nhwc")
    assert load("digits", layout="nhwc").fingerprint == load("nhwc:digits").fingerprint == load("digits").fingerprint


def test_a_source_keeps_its_layout_from_folder_to_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("own.npz", **split(BYTES))
    assert absolute("own.npz") == str(tmp_path / "own.npz")
    assert absolute("nchw:own.npz") == f"nchw:{tmp_path / 'own.npz'}"
    for folder in ("digits", "cifar"):  # such as a zoo of that name, which is no data
        Path(folder).mkdir()
    names = ["digits", "nhwc:digits", "cifar10", ""]
    assert [absolute(name) for name in names] == names
    assert absolute("cifar10:cifar") == f"cifar10:{tmp_path / 'cifar'}" and absolute("cifar10:no") == "cifar10:no"
    assert is_cifar10("cifar10") and is_cifar10("cifar10:x") and not is_cifar10(tmp_path) and not is_cifar10("own.npz")
    Path("cifar/data_batch_1").touch()
    assert is_cifar10(tmp_path / "cifar") and is_cifar10("cifar")


def test_arrays_are_read_as_those_of_a_file(save):
    images = BYTES.transpose(0, 2, 3, 1)
    expected = load(save(images))
    content = split(images)
    for data in (tuple(content.values()), list(content.values()), content, np.load(save(images))):
        found = dataset_of(data)
        assert found.fingerprint == expected.fingerprint and found.num_classes == 4
    assert dataset_of({**content, "num_classes": 9}).num_classes == 9
    torch = pytest.importorskip("torch")
    tensors = tuple(torch.from_numpy(array) for array in content.values())
    assert dataset_of(tensors).fingerprint == expected.fingerprint
    lists = dataset_of([array.tolist() for array in split(SIGNALS[:, 0]).values()])
    np.testing.assert_array_equal(lists.x_train, SIGNALS[:, 0].astype("f4"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, r"The data is a int. Give a name, a path, a Dataset, \(train, test\) of examples, or"),
        ((1, 2), "The data is a tuple of 2. Give"),
        ({"x_train": SIGNALS}, "data|the given data has no array y_train; it holds x_train"),
        ({**split(SIGNALS), "y_train": Y[:-1]}, "the given data: x_train has 20 examples, but y_train has 19 labels"),
        ({**split(SIGNALS), "y_test": Y[:6] * 1.0}, "the given data: y_test has type float64"),
        ({**split(SIGNALS), "y_test": Y[:6] - 1}, "the given data: y_test holds -1"),
        ({**split(SIGNALS), "y_test": Y[:6] + 1}, "the given data: y_test holds 4, but with 4 classes"),
        ({**split(SIGNALS), "num_classes": 2.5}, r"num_classes is float64\[\]"),
        (split(np.where(SIGNALS > 2, np.nan, SIGNALS)), r"x_train holds \d+ values that are NaN"),
        ({**split(SIGNALS), "x_train": [[1.0, 2.0], [3.0]]}, "x_train makes no array"),
        ({**split(SIGNALS), "x_train": None}, "x_train has type object"),
    ],
)
def test_bad_arrays_are_refused_in_one_sentence(data, message):
    with pytest.raises(InputError, match=message):
        dataset_of(data)


def made(**changes):
    x, y = SIGNALS.astype("f4"), Y.astype("i4")
    return Dataset(**{"name": "d", **split(x, y), "num_classes": 4, **changes})


def test_a_good_dataset_is_taken_as_it_is():
    for data in (made(), made(**split(SIGNALS)), made(**split(WORDS)), made(**split(WORDS.astype("u1")))):
        assert dataset_of(data) is data
    lists = dataset_of(made(y_train=Y.tolist(), y_test=Y[:6].tolist()))
    assert isinstance(lists.y_train, np.ndarray)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": Y[:-1]}, "Dataset 'd': x_train has 20 examples, but y_train has 19 labels"),
        ({"y_test": Y[:7]}, "x_test has 6 examples, but y_test has 7 labels"),
        ({"y_train": Y * 1.0}, "y_train has type float64. Give labels as whole numbers"),
        ({"y_train": np.eye(4)[Y]}, r"y_train has shape \[20, 4\]. Give one whole number per example"),
        ({"y_train": Y - 1}, "y_train holds -1"),
        ({"num_classes": 3}, "y_train holds 3, but with 3 classes the largest label is 2"),
        ({"num_classes": "4"}, "num_classes is '4'. Give a whole number"),
        ({"x_test": SIGNALS[:6, :1]}, r"x_train is float32\[n, 2, 6\], but x_test is float64\[n, 1, 6\]"),
        ({"x_test": WORDS[:6]}, r"but x_test is int64\[n, 7\]"),
        (split(BYTES, Y), r"x_train is uint8\[n, 3, 9, 8\], but a Dataset holds inputs as the network sees them"),
        (split(np.where(SIGNALS > 2, np.inf, SIGNALS)), r"x_train holds \d+ values that are NaN, infinite"),
        (split(SIGNALS[:, 0, 0]), r"x_train has shape \[20\]. Give examples as \[n, ...\]"),
        (split(WORDS + 2**40), "Give whole numbers of 32 bits"),
        (split(SIGNALS > 0), "x_train has type bool. Give numbers"),
    ],
)
def test_a_bad_dataset_is_refused_in_one_sentence(changes, message):
    with pytest.raises(InputError, match=message):
        dataset_of(made(**changes))


def test_every_layout_is_in_the_help(capsys):
    from mdjax.cli import main

    with pytest.raises(SystemExit):
        main(["measure", "--help"])
    assert "|".join(Layout) in capsys.readouterr().out


def test_a_layout_that_contradicts_the_datas_own_prefix_is_refused(tmp_path):
    images, labels = np.zeros((8, 4, 4, 1), np.float32), np.arange(8) % 2
    np.savez(tmp_path / "my.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    with pytest.raises(InputError, match=r"layout nchw was given for .*, which says nhwc itself"):
        load(f"nhwc:{tmp_path / 'my.npz'}", layout="nchw")
    assert load(f"nhwc:{tmp_path / 'my.npz'}", layout="nhwc").input_shape == (4, 4, 1)
