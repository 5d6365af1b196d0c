"""Folders of data that nobody vouches for: bombs, objects, pickles, and what waits for somebody."""

import gzip
import os
import pickle
import struct
import tracemalloc
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_sources import IDX, X, Y, idx_bytes, png, write_idx, write_images, write_npy

from mdjax.errors import InputError
from mdjax.zoo import cifar, images
from mdjax.zoo.data import load

LIMIT = "of memory from a file of .*, but at most .* are read. If that is meant, raise the limit: MDJAX_MEMORY="


@pytest.fixture
def small(monkeypatch):
    """A machine of little memory."""
    monkeypatch.setattr("mdjax.memory.usable", lambda: 2**21)


def huge_png(side: int) -> bytes:
    """A whole PNG of so many black pixels a side, in a few bytes."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return content


def claiming(folder):
    write_idx(folder)
    (folder / IDX["x_train"]).unlink()
    header = idx_bytes(X)[:4] + struct.pack(">III", 2**20, 2**10, 2**10)
    (folder / f"{IDX['x_train']}.gz").write_bytes(gzip.compress(header + bytes(2**20)))


def large_npy(folder):
    write_npy(folder, x_train=np.zeros((20, 500, 500), np.uint8))


def large_images(folder):
    write_images(folder)
    (folder / "train" / "a" / "00.png").write_bytes(huge_png(2000))


def bomb_images(folder):
    write_images(folder)
    (folder / "train" / "a" / "00.png").write_bytes(huge_png(40_000))


def large_table(folder):
    for half in ("train", "test"):
        column = pa.array(np.zeros(2**19))
        pq.write_table(pa.table({"a": column, "label": np.zeros(2**19, np.uint8)}), folder / f"{half}.parquet")


def repeated_pictures(folder):
    """One picture in every row, which the file holds once."""
    rows = 2000
    table = pa.table({"image": pa.array([png(np.zeros((60, 60), np.uint8))] * rows), "label": np.arange(rows) % 2})
    for half in ("train", "test"):
        pq.write_table(table, folder / f"{half}.parquet")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (claiming, f"The numbers of .*ubyte.gz would take 4 TiB {LIMIT}"),
        (large_npy, f"The arrays of .* {LIMIT}"),
        (large_images, f"The images of .* {LIMIT}"),
        (bomb_images, "00.png: it claims to have too many pixels"),
        (large_table, f"The rows of .*train.parquet .* {LIMIT}"),
        (repeated_pictures, f"The column image of .* {LIMIT}"),
    ],
)
def test_what_a_folder_takes_is_known_before_it_is_expanded(tmp_path, small, write, message):
    write(tmp_path)
    with pytest.raises(InputError, match=message):
        load(tmp_path)


def test_packed_bytes_beyond_what_a_file_says_are_not_unpacked(tmp_path):
    write_idx(tmp_path)
    (tmp_path / IDX["x_test"]).unlink()
    with gzip.open(tmp_path / f"{IDX['x_test']}.gz", "wb", 1) as file:
        file.write(idx_bytes(X[20:]))
        for _ in range(64):
            file.write(bytes(2**20))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="says that it holds 8x6x5 bytes, but it holds more"):
            load(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_no_program_is_asked_for_a_kind_of_image(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("a program was started"))
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    write_images(tmp_path)
    (tmp_path / "train" / "a" / "00.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 6\nshowpage\n")
    with pytest.raises(InputError, match="00.png: it is no image of a known kind"):
        load(tmp_path)
    assert "EPS" not in images.FORMATS


@pytest.mark.parametrize(
    ("write", "name"),
    [(write_idx, IDX["x_test"]), (write_npy, "x_test.npy"), (write_images, "train/a/00.png")],
)
def test_pipes_in_the_place_of_files_are_not_waited_for(tmp_path, write, name):
    write(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=r"Cannot read .*: it is no regular file"):
        load(tmp_path)


class _Command:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_pickles_in_folders_do_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "RECORDS", 2)
    trace = tmp_path / "ran"
    hostile = pickle.dumps({b"data": _Command(f"touch {trace}"), b"fine_labels": []}, protocol=2)
    (tmp_path / "cifar-100-python").mkdir()
    for name in ("train", "test"):
        (tmp_path / "cifar-100-python" / name).write_bytes(hostile)
    with pytest.raises(InputError, match=r"CIFAR-100 batch: it refers to (posix|nt).system, .* was not run"):
        load(tmp_path)
    folder = tmp_path / "npy"
    folder.mkdir()
    write_npy(folder)
    np.save(folder / "y_train.npy", np.array([_Command(f"touch {trace}")] * len(Y)), allow_pickle=True)
    with pytest.raises(InputError, match="y_train.npy: it has type object; give numbers"):
        load(folder)
    assert not trace.exists()
