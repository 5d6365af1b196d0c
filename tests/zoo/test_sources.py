"""Every kind of data that is read comes to the same arrays; every malformed one is one sentence."""

import errno
import gzip
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_sources import (
    ARRAYS,
    FOLDERS,
    IDX,
    X,
    Y,
    idx_bytes,
    lists,
    png,
    write_cifar100,
    write_idx,
    write_images,
    write_npy,
    write_tables,
)

from mdjax.errors import InputError
from mdjax.zoo import cifar
from mdjax.zoo.data import Dataset, absolute, dataset_of, is_cifar10, load


@pytest.fixture(scope="module")
def expected() -> Dataset:
    return dataset_of(ARRAYS, "nhwc")


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders_of_all_kinds_come_to_the_same_data(tmp_path, expected, kind):
    folder = tmp_path / "own"
    folder.mkdir()
    FOLDERS[kind](folder)
    data = load(folder)
    assert (data.fingerprint, data.name, data.num_classes) == (expected.fingerprint, "own", 4)
    assert load(f"nhwc:{folder}").fingerprint == expected.fingerprint
    assert absolute(str(folder)) == str(folder) and not is_cifar10(folder)


def test_tables_of_numbers_are_features_and_facts_beside_files_of_arrays_are_heeded(tmp_path):
    write_tables(tmp_path, lambda images: {"b": images[:, 0, 0], "a": images[:, 0, 1].astype(np.int64)})
    data = load(tmp_path)
    assert data.x_train.dtype == np.float32 and data.reading is None
    np.testing.assert_array_equal(data.x_train, X[:20, 0, :2])
    assert load(tmp_path, layout="tokens").x_train.dtype == np.int32
    folder = tmp_path / "arrays"
    folder.mkdir()
    write_npy(folder, layout=np.array("features"), num_classes=np.array(7))
    assert (load(folder).input_shape, load(folder).num_classes) == ((6, 5), 7)


def test_both_forms_of_cifar100_give_its_fine_labels(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "RECORDS", 6)
    write_cifar100(tmp_path, 6)
    found = [load(tmp_path / name) for name in ("cifar-100-python", "cifar-100-binary")]
    assert found[0].fingerprint == found[1].fingerprint == load(f"cifar100:{tmp_path}").fingerprint
    assert (found[0].name, found[0].num_classes, found[0].input_shape) == ("cifar100", 100, (32, 32, 3))
    assert found[0].y_train.max() > 20 and found[0].x_train.shape[0] == 30
    np.testing.assert_allclose(found[0].x_train.std((0, 1, 2), dtype=np.float64), 1, atol=1e-5)
    assert absolute(f"cifar100:{tmp_path}") == f"cifar100:{tmp_path}" and not is_cifar10(f"cifar100:{tmp_path}")
    with pytest.raises(InputError, match=r"layout nchw was given .* CIFAR-100's batches are images \(nhwc\)"):
        load(tmp_path / "cifar-100-python", layout="nchw")
    batch = tmp_path / "cifar-100-binary" / "test.bin"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"test.bin has 18443 bytes, but a CIFAR-100 batch has 18444"):
        load(batch.parent)
    with pytest.raises(InputError, match="cifar100 has to be read from its official folder. Give cifar100:PATH"):
        load("cifar100")


def replaced(name: str, content: bytes):
    def write(folder):
        write_idx(folder)
        (folder / IDX[name]).write_bytes(content)

    return write


def packed(content: bytes):
    def write(folder):
        write_idx(folder)
        (folder / IDX["x_test"]).unlink()
        (folder / f"{IDX['x_test']}.gz").write_bytes(content)

    return write


def changed_npy(**more):
    return lambda folder: write_npy(folder, **more)


def cut_npy(folder):
    write_npy(folder)
    path = folder / "x_test.npy"
    path.write_bytes(path.read_bytes()[:-1])


def missing(name: str, write):
    def writes(folder):
        write(folder)
        found = folder / name
        shutil.rmtree(found) if found.is_dir() else found.unlink()

    return writes


def with_image(name: str, content: bytes):
    def write(folder):
        write_images(folder)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)

    return write


def table(**columns):
    """Both tables with these columns; numpy arrays of as many rows as there are."""

    def write(folder):
        for name in ("train", "test"):
            pq.write_table(pa.table(columns), folder / f"{name}.parquet")

    return write


def both(folder):
    write_idx(folder)
    write_npy(folder)


IMAGES, GOOD = idx_bytes(X[20:]), gzip.compress(idx_bytes(X[20:]))
TWO = np.arange(2)
REFUSED = {
    "an empty folder": (
        lambda folder: None,
        r"There are no data in \S+own. Give .* folder that holds one of: CIFAR-10",
    ),
    "two kinds": (both, "own holds data of several kinds: MNIST's idx files and x_train.npy"),
    "cut idx": (replaced("x_test", IMAGES[:-1]), "t10k-images-idx3-ubyte: it says .* 8x6x5 bytes, but it holds 239"),
    "long idx": (replaced("x_test", IMAGES + b"\0"), "says that it holds 8x6x5 bytes, but it holds more"),
    "cut header": (replaced("x_test", IMAGES[:9]), "t10k-images-idx3-ubyte: it ends within its header"),
    "empty idx": (replaced("x_test", b""), "begins with nothing, but an idx file of 3 axes with 00000803"),
    "wrong magic": (replaced("y_test", IMAGES), "t10k-labels-idx1-ubyte: it begins with 00000803, but .* 00000801"),
    "idx of floats": (replaced("x_test", b"\0\0\x0d" + IMAGES[3:]), "it begins with 00000d03"),
    "other lengths": (replaced("y_test", idx_bytes(Y[21:])), "own: x_test has 8 examples, but y_test has 7 labels"),
    "missing idx": (missing(IDX["y_train"], write_idx), "own has no file train-labels-idx1-ubyte, nor with .gz. Put"),
    "cut gzip": (packed(GOOD[:-9]), "ubyte.gz: Compressed file ended before"),
    "damaged gzip": (packed(GOOD[:-8] + bytes(8)), "ubyte.gz: CRC check failed"),
    "no gzip": (packed(IMAGES), "ubyte.gz: Not a gzipped file"),
    "missing npy": (missing("y_test.npy", write_npy), "own has no file y_test.npy. Save x_train.npy, y_train.npy"),
    "cut npy": (cut_npy, r"x_test.npy: uint8\[8, 6, 5\] does not fit its 239 bytes. Save it again"),
    "npy of objects": (changed_npy(y_test=np.array([print, {}])), "y_test.npy: it has type object; give numbers"),
    "npy of lengths": (changed_npy(y_test=Y[21:]), "own: x_test has 8 examples, but y_test has 7 labels"),
    "other layout": (changed_npy(layout=np.array("chw")), "own: layout is 'chw'. Choose one of"),
    "no test images": (missing("test", write_images), "own has a folder train, but neither test nor val"),
    "no image": (with_image("train/b/05.png", b"no"), "b/05.png: it is no image of a known kind"),
    "cut image": (with_image("train/b/05.png", png(X[5])[:-30]), "Cannot read .*b/05.png: .* Save it again"),
    "other size": (with_image("test/b/00.png", png(X[5][1:])), r"b/00.png is 5×5 of 1 channel, but .*a/00.png is 6×5"),
    "other mode": (with_image("test/b/00.png", png(X[5], "RGB")), "b/00.png is 6×5 of 3 channels, but"),
    "transparent": (with_image("test/b/00.png", png(X[5], "RGBA")), "b/00.png: it is of the mode RGBA, but grey"),
    "other class": (with_image("test/e/00.png", png(X[5])), "test has the class 'e', which the training images lack"),
    "no label": (table(a=TWO, b=TWO), "train.parquet has no columns of labels: it holds a, b. Call one of them label"),
    "two labels": (table(y=TWO, label=TWO, b=TWO), "train.parquet has 2 columns of labels: it holds y, label, b"),
    "label alone": (table(y=TWO), "train.parquet has no column but 'y'. Give the inputs too"),
    "texts": (table(y=TWO, a=["u", "v"]), "train.parquet: its column 'a' is of the type string, not numbers"),
    "flags": (table(y=TWO, a=TWO > 0), "its column 'a' is of the type bool"),
    "missing values": (table(y=TWO, a=[1.5, None]), "train.parquet: values of its column 'a' are missing"),
    "ragged lists": (table(y=TWO, x=[[1.0], [1.0, 2.0]]), "the lists of its column 'x' have 1 to 2 values"),
    "lists and more": (
        table(y=TWO, x=[[1.0], [2.0]], b=TWO),
        "train.parquet has others beside its column 'x' of",
    ),
    "no pictures": (table(y=TWO, x=[b"a", b"b"]), "train.parquet: it is no image of a known kind"),
    "of two sizes": (
        table(y=TWO, x=[png(X[0]), png(X[1][1:])]),
        "row 1 of its column 'x' is 5×5×1, but the first is 6×5×1",
    ),
    "no rows": (table(y=TWO[:0], x=TWO[:0]), "train.parquet: it has no rows"),
    "no table": (missing("test.parquet", lambda folder: write_tables(folder, lists)), "own has no file test.parquet"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_malformed_folders_are_refused_in_one_sentence(tmp_path, case):
    folder = tmp_path / "own"
    folder.mkdir()
    write, message = REFUSED[case]
    write(folder)
    with pytest.raises(InputError, match=message) as raised:
        load(folder)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_folders_of_several_kinds_and_single_files_say_what_to_give(tmp_path):
    write_tables(tmp_path, lists)
    with pytest.raises(
        InputError, match=f"train.parquet is only one of the files of its data. Give the folder {tmp_path}"
    ):
        load(tmp_path / "train.parquet")
    root = tmp_path / "root"
    for name in ("cifar-10-batches-py/data_batch_1", "cifar-100-python/train"):
        (root / name).parent.mkdir(parents=True)
        (root / name).touch()
    with pytest.raises(
        InputError, match="CIFAR-100's batches. Give .*root/cifar-10-batches-py or .*root/cifar-100-python"
    ):
        load(root)
    with pytest.raises(InputError, match="train is no readable CIFAR-100 batch"):
        load(f"cifar100:{root}")


def test_a_class_without_images_is_told(tmp_path):
    write_images(tmp_path)
    (tmp_path / "train" / "e").mkdir()
    with pytest.raises(InputError, match=r"train/e has no images. Put files of its class into it"):
        load(tmp_path)


def other_columns(folder):
    write_tables(folder, lists)
    pq.write_table(pa.table({"label": TWO, "b": TWO}), folder / "test.parquet")


def test_a_folder_that_may_not_be_looked_into_is_told(tmp_path, monkeypatch):
    write_images(tmp_path)
    look = Path.iterdir

    def closed(path):
        if path.name == "test":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(InputError, match=r"Cannot read \S+: Permission denied. Make it readable"):
        load(tmp_path)


def test_tables_of_other_columns_and_damaged_ones_are_told(tmp_path):
    other_columns(tmp_path)
    with pytest.raises(InputError, match="only one of train.parquet and test.parquet has the column 'b'"):
        load(tmp_path)
    path = tmp_path / "test.parquet"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match=r"Cannot read .*test.parquet: .* Write it again"):
        load(tmp_path)
