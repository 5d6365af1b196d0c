"""A sample of a source: the same rows however it is stored, with the labels and shares that all of it would give."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_sources import ARRAYS, FOLDERS, X, Y, lists, write_cifar100, write_npy
from scipy import stats
from sources_in_memory import OBJECTS

from mdjax.errors import InputError
from mdjax.zoo import cifar
from mdjax.zoo.data import Dataset, Draw, dataset_of, load
from mdjax.zoo.draws import Reservoir, Slice

DRAW = Draw(7, seed=3)
SCALE = {"mean": 0.5, "std": 0.25}


@pytest.fixture(scope="module")
def whole() -> Dataset:
    return dataset_of(dict(ARRAYS, layout="nhwc", **SCALE))


def rows_agree(sample: Dataset, whole: Dataset) -> bool:
    drawn = sample.drawn
    assert drawn is not None and len(set(drawn.rows)) == len(drawn.rows) == sample.num_train
    return np.array_equal(sample.x_train, whole.x_train[drawn.rows]) and np.array_equal(
        sample.y_train, whole.y_train[drawn.rows]
    )


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders_of_all_kinds_give_the_same_sample(tmp_path, whole, kind):
    FOLDERS[kind](tmp_path)
    sample = load(tmp_path, draw=DRAW, **SCALE)
    assert rows_agree(sample, whole) and (sample.num_train, len(sample.y_test), sample.num_classes) == (7, 7, 4)
    in_memory = whole.sample(DRAW)
    assert sample.fingerprint == in_memory.fingerprint != load(tmp_path, draw=Draw(7, 4), **SCALE).fingerprint
    assert load(tmp_path, draw=Draw(20), **SCALE).fingerprint == whole.fingerprint  # nothing is left to draw
    assert in_memory.whole_fingerprint == whole.fingerprint and sample.whole_fingerprint == ""
    # Pieces of it, one after the other, are the whole.
    for found in (sample, in_memory):
        pieces = [found.drawn.again(Slice("train", start, min(start + 6, 20))) for start in range(0, 20, 6)]
        assert np.array_equal(np.concatenate([piece.x_train for piece in pieces]), whole.x_train)
        assert np.array_equal(np.concatenate([piece.train_labels(0.5) for piece in pieces]), whole.train_labels(0.5))
        assert np.array_equal(found.drawn.again(Slice("test", 2, 99)).y_test, whole.y_test[2:])


def test_of_tables_row_groups_without_wanted_rows_stay_unread(tmp_path, whole, monkeypatch):
    for half, part in (("train", slice(0, 20)), ("test", slice(20, 28))):
        table = pa.table({**lists(X[part]), "label": Y[part]})
        pq.write_table(table, tmp_path / f"{half}.parquet", row_group_size=3)
    sample = load(tmp_path, draw=DRAW, **SCALE)
    assert sample.fingerprint == whole.sample(DRAW).fingerprint
    read = []
    batches = pq.ParquetFile.iter_batches

    def told(self, *arguments, row_groups, **options):
        read.extend(row_groups)
        return batches(self, *arguments, row_groups=row_groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", told)
    piece = sample.drawn.again(Slice("train", 4, 9))
    assert np.array_equal(piece.x_train, whole.x_train[4:9]) and read == [1, 2, 0]  # the last for the test set's form


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_give_the_same_sample_and_what_stands_beside_them(tmp_path, whole, save):
    save(tmp_path / "own.npz", **ARRAYS, mean=0.5, std=np.array([0.25]))
    assert load(tmp_path / "own.npz", draw=DRAW).fingerprint == whole.sample(DRAW).fingerprint
    # Pixels whose scale nobody told are standardised by the sample, which is said where it is measured.
    save(tmp_path / "own.npz", **ARRAYS)
    sample = load(tmp_path / "own.npz", draw=DRAW)
    assert sample.drawn.own_scale and abs(sample.x_train.mean()) < 1e-6
    np.savez(tmp_path / "own.npz", **ARRAYS, mean=0.5)
    with pytest.raises(InputError, match="own.npz holds only one of mean and std. Give both or neither"):
        load(tmp_path / "own.npz")


@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_of_all_kinds_give_rows_of_the_whole(kind):
    images = X.astype(np.float32) if kind != "pictures" else X
    train, test = (list(zip(images[part], Y[part])) for part in (slice(0, 20), slice(20, 28)))
    whole = dataset_of((OBJECTS[kind](train), OBJECTS[kind](test)), "nhwc")
    sample = dataset_of((OBJECTS[kind](train), OBJECTS[kind](test)), "nhwc", draw=DRAW)
    assert sample.num_train == len(sample.y_test) == 7 and sample.num_source == 20
    if kind == "pictures":  # standardised by other numbers
        whole = dataset_of((list(zip(X[:20], Y[:20])), list(zip(X[20:], Y[20:]))), "nhwc", draw=Draw(20))
        assert np.array_equal(sample.y_train, whole.y_train[sample.drawn.rows])
    else:
        assert rows_agree(sample, whole)
    assert dataset_of((OBJECTS[kind](train), OBJECTS[kind](test)), "nhwc", draw=Draw(99)).drawn is None


class Counting:
    """Many examples that are made when they are asked for."""

    classes = ("a", "b", "c")

    def __init__(self):
        self.asked = []

    def __len__(self):
        return 10**9

    def __getitem__(self, number):
        self.asked.append(number)
        return np.full(3, number, np.float32), 0


def test_of_what_is_looked_up_by_index_only_the_sample_is_asked_for():
    train, test = Counting(), Counting()
    sample = dataset_of((train, test), draw=DRAW)
    assert len(train.asked) <= 9 and sample.num_source == 10**9 and sample.num_classes == 3
    assert np.array_equal(sample.x_train[:, 0], sample.drawn.rows.astype(np.float32))
    assert sample.subset_size(0.5) == (sample.drawn.rows < 5 * 10**8).sum()


def test_labels_and_shares_of_a_sample_are_those_of_the_whole(whole):
    sample = whole.sample(DRAW)
    rows = sample.drawn.rows
    assert np.array_equal(sample.train_labels(0.6), whole.train_labels(0.6)[rows])
    assert (whole.train_labels(0.6) != whole.y_train).any()
    for share in (0.25, 0.5, 1.0):
        order, size = sample.subset_order(share), sample.subset_size(share)
        chosen = rows if order is None else rows[order]
        assert sorted(chosen) == sorted(rows) and (chosen[:size] < 20 * share).all()
        assert (chosen[size:] >= 20 * share).all()
    assert sample.subset_order(1.0) is None
    with pytest.raises(InputError, match=r"None of the 2 examples drawn of 20 is among the first 1, .* Draw more"):
        whole.sample(Draw(2, seed=0)).subset_size(0.05)
    with pytest.raises(InputError, match="is a sample already, of 7 examples. Draw once"):
        sample.sample(Draw(3))


def test_targets_of_other_tasks_are_drawn_with_their_inputs(tmp_path):
    x, y = np.arange(60, dtype=np.float64).reshape(20, 3), np.arange(20.0)[:, None]
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    sample = load(tmp_path / "own.npz", draw=DRAW, task="regression", layout="features")
    assert np.array_equal(sample.y_train[:, 0] * 3, sample.x_train[:, 0]) and sample.num_classes == 1
    inputs = {"a": x, "b": np.arange(20)}
    sample = dataset_of((inputs, y, {"a": x[:0], "b": np.arange(0)}, y[:0]), task="regression", draw=DRAW)
    assert np.array_equal(sample.x_train["b"], sample.drawn.rows) and sample.num_train == 7 and len(sample.y_test) == 0


@pytest.mark.slow
def test_sets_that_are_read_whole_give_a_sample_of_what_they_are_standardised_to(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "RECORDS", 40)
    write_cifar100(tmp_path, 40)
    for source in (str(tmp_path / "cifar-100-binary"), "digits"):
        whole, sample = load(source), load(source, draw=DRAW)
        assert rows_agree(sample, whole) and not sample.drawn.own_scale
        assert sample.whole_fingerprint == whole.fingerprint


def test_a_reservoir_holds_each_that_passes_as_often_and_in_any_place():
    counts = np.zeros((5, 12), int)
    for seed in range(3000):
        reservoir = Reservoir(5, np.random.default_rng(seed))
        for _ in range(12):
            reservoir.place()
        order = reservoir.order()
        counts[np.arange(5), reservoir.rows[order]] += 1
    # 60 cells, of which the rows and columns sum to what is known; a wrong scheme is off by hundreds.
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3


BAD = {
    "none": (lambda folder: load("digits", draw=Draw(0)), "num_examples is 0. Give a whole number of at least 1"),
    "a share": (lambda folder: load("digits", draw=Draw(0.5)), "num_examples is 0.5. Give a whole number"),
    "labels of another number": (
        lambda folder: write_npy(folder, y_train=Y[:7]),
        "x_train has 20 examples, but y_train has 7. Give one target for each",
    ),
    "columns first": (
        lambda folder: write_npy(folder, x_train=np.asfortranarray(X[:20])),
        r"x_train.npy: its columns come first .* save what numpy.ascontiguousarray makes of it",
    ),
    "cut": (
        lambda folder: (write_npy(folder), (folder / "y_train.npy").write_bytes(b"\x93NUMPY\x01\0")),
        "Cannot read .*y_train.npy: .*Save it again",
    ),
    "packed and cut": (
        lambda folder: (
            FOLDERS["packed idx"](folder),
            (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x14" + b"\0" * 9)),
        ),
        "it says that it holds 20 bytes, but it holds less. Download it again",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_drawn_from_is_refused_in_one_sentence(tmp_path, case):
    write, message = BAD[case]
    with pytest.raises(InputError, match=message):
        write(tmp_path)
        load(tmp_path, draw=DRAW)
