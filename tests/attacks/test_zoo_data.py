"""A zoo's word for its data: it opens nothing that the user did not name and that could be another file."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import mdjax
from mdjax.errors import InputError
from mdjax.zoo import data
from mdjax.zoo.recorded import recorded_data
from mdjax.zoo.store import Zoo

ARRAYS = {"x_train": np.ones((4, 3, 2)), "y_train": np.arange(4), "x_test": np.ones((4, 3, 2)), "y_test": np.arange(4)}


def zoo(path: Path, entry: object, fingerprint: str | None = None) -> Zoo:
    """A zoo of no models that says this of its data."""
    header = path / "zoo" / "zoo.json"
    if not header.exists():
        Zoo.create(header.parent, data="digits")
    content = json.loads(header.read_text()) | {"data": entry, "fingerprint": fingerprint}
    header.write_text(json.dumps(content))
    return Zoo(header.parent)


@pytest.fixture
def own(tmp_path) -> Path:
    np.savez(tmp_path / "own.npz", **ARRAYS)
    return tmp_path / "own.npz"


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """What is opened as data."""
    found: list[str] = []
    for name in ("read_npz", "read_folder"):
        monkeypatch.setattr(data, name, lambda path, *_: found.append(str(path)) or pytest.fail("opened"))
    return found


@pytest.mark.parametrize(
    "entry",
    [
        "{tmp}/own.npz",
        "nchw:{tmp}/own.npz",
        "../own.npz",
        "link.npz",
        "own.npz",
        "{tmp}/cifar-10-batches-py",
        "cifar10:{tmp}/cifar-10-batches-py",
        "cifar10:../cifar-10-batches-py",
        "cifar10:cifar-10-batches-py",
        "cifar10",
        "cifar100:{tmp}/cifar-100-python",
        "{tmp}/mnist",
        "features:{tmp}/mnist",
        "mnist",
        "npy",
        "{tmp}/npy",
        "{tmp}/tables",
        "{tmp}/images",
        "images",
        "~/own.npz",
        "/dev/zero",
        "{tmp}/fifo.npz",
        "{tmp}",
        ".",
        "a" * 5000,
        "\x1b[31mred",
    ],
)
def test_files_that_only_the_zoo_names_are_not_opened(tmp_path, own, opened, entry, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, tmp_path / "zoo"):
        batches = folder / "cifar-10-batches-py"
        batches.mkdir(parents=True)
        (batches / "data_batch_1").touch()
        for name in (
            "cifar-100-python/train",
            "mnist/train-images-idx3-ubyte",
            "npy/x_train.npy",
            "tables/train.parquet",
            "images/train/a/a.png",
        ):
            (folder / name).parent.mkdir(parents=True)
            (folder / name).touch()
    os.mkfifo(tmp_path / "fifo.npz")
    (tmp_path / "zoo" / "link.npz").symlink_to(own)
    made = zoo(tmp_path, entry.replace("{tmp}", str(tmp_path)))
    with pytest.raises(InputError, match="is not opened on its word alone. Name the data: --data NAME|PATH") as raised:
        mdjax.measure(made.path)
    assert not opened and "\x1b" not in str(raised.value)


@pytest.mark.parametrize("entry", ["a\0.npz", 3])
def test_data_that_are_no_path_are_told(tmp_path, entry):
    with pytest.raises(InputError, match="where texts are expected"):
        zoo(tmp_path, entry)


def test_an_npz_is_opened_where_it_is_the_one_that_the_models_were_trained_on(tmp_path, own):
    trained = data.load(own).fingerprint
    assert recorded_data(zoo(tmp_path, str(own), trained)).fingerprint == trained
    assert recorded_data(zoo(tmp_path, str(own), trained), "features").input_shape == (3, 2)
    np.savez(own, **ARRAYS | {"y_test": np.zeros(4, int)})
    for layout in (None, "features"):
        with pytest.raises(InputError, match="does not hold what the models of the zoo .* Name the data"):
            recorded_data(zoo(tmp_path, str(own), trained), layout)


def test_data_by_name_and_inside_the_zoo_are_opened(tmp_path, own):
    assert recorded_data(zoo(tmp_path, "digits")).name == "digits"
    own.rename(tmp_path / "zoo" / "own.npz")
    assert recorded_data(zoo(tmp_path, "own.npz")).num_classes == 4
    assert recorded_data(zoo(tmp_path, "features:./own.npz")).input_shape == (3, 2)
