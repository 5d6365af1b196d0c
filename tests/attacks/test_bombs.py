"""Small files that stand for gigabytes: what they hold is told from their headers, and nothing of it is expanded."""

import contextlib
import zipfile
from types import SimpleNamespace

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from converters.errors import RefusedError
from converters.flax_checkpoints import from_flax
from mdjax import memory
from mdjax.errors import InputError
from mdjax.models import Architecture
from mdjax.parquet import read_frame, write_frame
from mdjax.table import read_configurations
from mdjax.zoo import weights
from mdjax.zoo.data import load
from mdjax.zoo.store import DamagedGroupError, Zoo

ARCHITECTURE = Architecture("mlp", 3, (4, 4, 1), 3, 1)
LIMIT = r"would take .* of memory.* MDJAX_MEMORY="


def arrays(**changes):
    random = np.random.RandomState(0)
    given = {f"x_{split}": random.randn(9, 4).astype("f4") for split in ("train", "test")}
    return given | {f"y_{split}": np.arange(9) % 3 for split in ("train", "test")} | changes


def test_an_archive_whose_arrays_exceed_the_limit_is_refused_before_they_are_expanded(tmp_path, monkeypatch):
    path = tmp_path / "data.npz"
    np.savez_compressed(path, **arrays(x_train=np.zeros((9, 400_000), "u1")))
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(np.lib.format, "read_array", lambda *given, **named: pytest.fail("an array was read"))
    with monkeypatch.context() as patch:
        patch.setattr(memory, "_SLACK", 2**20)
        with pytest.raises(
            InputError, match=rf"data\.npz would take 13\.7 MiB .*at most .* are read\. {LIMIT[-16:]}14MiB"
        ):
            load(path)
        patch.setenv("MDJAX_MEMORY", "13MiB")
        with pytest.raises(InputError, match=LIMIT):
            load(path)


def test_of_a_file_of_a_megabyte_about_a_gigabyte_is_read_unless_the_user_says_more(monkeypatch):
    monkeypatch.setattr(memory, "usable", lambda: 2**40)
    memory.check_content("It", 2**30, 2**20)
    with pytest.raises(InputError, match="from a file of 1 MiB, but at most 1.1 GiB are read. .* MDJAX_MEMORY=10GiB"):
        memory.check_content("It", int(9.3 * 2**30), 2**20)
    monkeypatch.setenv("MDJAX_MEMORY", "10 GiB")
    memory.check_content("It", int(9.3 * 2**30), 2**20)
    monkeypatch.setenv("MDJAX_MEMORY", "1KiB")  # never less than without it
    memory.check_content("It", 2**30, 2**20)
    for text in ("x", "0", "-1GiB", "1e9", "9" * 400):
        monkeypatch.setenv("MDJAX_MEMORY", text)
        with pytest.raises(InputError, match="MDJAX_MEMORY is .* Give a size such as 8GiB"):
            memory.check_content("It", 1, 1)


@pytest.mark.parametrize(
    ("descr", "shape", "message"),
    [
        ("|O", "(9,)", "type object"),
        ("<f4", "(9, 100000000000)", "does not fit its"),
        ("<f4", "(-9, 4)", "has the shape"),
        ("<f4", "(9, " + "9" * 400 + ")", "Cannot read array x_train"),
        ("<f4", "(" * 4000 + ")" * 4000, "Cannot read array x_train"),
    ],
)
def test_headers_that_say_what_cannot_be_are_told(tmp_path, descr, shape, message):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    content = b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header + bytes(144)
    np.savez(tmp_path / "other.npz", **arrays())
    with zipfile.ZipFile(tmp_path / "other.npz") as other, zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        for name in other.namelist():
            archive.writestr(name, content if name == "x_train.npy" else other.read(name))
    with pytest.raises(InputError, match=message):
        load(tmp_path / "data.npz")


@pytest.mark.parametrize("again", ["x_train.npy", "X_TRAIN.npy", "x_train"])
def test_an_array_that_an_archive_holds_twice_is_told(tmp_path, again):
    np.savez(tmp_path / "data.npz", **arrays())
    with (
        zipfile.ZipFile(tmp_path / "data.npz", "a") as archive,
        pytest.warns() if again == "x_train.npy" else contextlib.nullcontext(),
    ):
        archive.writestr(again, archive.read("x_train.npy"))
    with pytest.raises(InputError, match="two of its entries have the name"):
        load(tmp_path / "data.npz")


def zoo(folder, count=2):
    found = Zoo.create(folder, data="digits")
    params, state = jax.vmap(ARCHITECTURE.init)(jax.random.split(jax.random.key(0), count))
    rows = [{"model_id": f"m{seed}", "configuration": "c", "seed": seed} for seed in range(count)]
    found.append("g", ARCHITECTURE, rows, params, state)
    return found


def test_a_zoos_arrays_are_compared_with_its_rows_before_any_is_read(tmp_path, monkeypatch):
    small, large = zoo(tmp_path / "small"), zoo(tmp_path / "large", 3)
    (large.path / "groups" / "g" / "arrays").rename(tmp_path / "arrays")
    (small.path / "groups" / "g" / "arrays").rename(tmp_path / "own")
    (tmp_path / "arrays").rename(small.path / "groups" / "g" / "arrays")
    monkeypatch.setattr(ocp.Checkpointer, "restore", lambda *given, **named: pytest.fail("arrays were read"))
    with pytest.raises(DamagedGroupError, match=r"is float32\[3, .* but float32\[2, .* was expected"):
        small.read_group("g")
    # A piece is read whole, however little of it an array takes.
    stored = {"a": SimpleNamespace(shape=(2, 3), dtype="f4", storage=SimpleNamespace(chunk_shape=(2**20, 2**20)))}
    with pytest.raises(InputError, match=LIMIT):
        weights.check_stored("its arrays", stored, 10**6)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x)


def test_a_flax_checkpoint_beyond_the_limit_is_refused_by_its_metadata(tmp_path, monkeypatch):
    variables = jax.tree.map(np.asarray, Net().init(jax.random.key(0), np.zeros((2, 5), "f4")))
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
        checkpointer.save(tmp_path / "net", args=ocp.args.PyTreeSave(variables))
    path = next((tmp_path / "net").rglob("*kernel*/.zarray"))
    # Chunks that were never written count as zeros.
    text = path.read_text().replace("[5,3]", "[50000,300000]")
    path.write_text(text)
    assert "300000" in text
    monkeypatch.setattr(ocp.Checkpointer, "restore", lambda *given, **named: pytest.fail("arrays were read"))
    with pytest.raises(RefusedError, match=LIMIT):
        from_flax(tmp_path / "net", Net(), np.zeros((2, 5), "f4"))


def test_a_table_of_a_few_kilobytes_for_a_billion_rows_is_refused_by_its_footer(tmp_path, monkeypatch):
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"test_error": pa.array(np.zeros(2_000_000, "i1"))}), path)
    monkeypatch.setattr(memory, "_SLACK", 2**20)
    with pytest.raises(InputError, match=LIMIT):
        read_configurations(path)
    # One text, as often as there are rows.
    write_frame(pd.DataFrame({"status": ["x" * 10_000] * 10_000}), path)
    assert path.stat().st_size < 10_000
    with pytest.raises(InputError, match=LIMIT):
        read_configurations(path)
    write_frame(pd.DataFrame({"status": ["x" * 1000, *["y"] * 2000]}), path)
    with pytest.raises(InputError, match=LIMIT):
        read_frame(path)
    monkeypatch.setenv("MDJAX_MEMORY", "10MiB")
    assert len(read_frame(path)) == 2001


def often(text, count=3000):
    """One text as often as there are rows, in a dictionary."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, "i4")), pa.array([text]))


def lists(values):
    return pa.ListArray.from_arrays(pa.array(np.arange(len(values) + 1), pa.int32()), values)


@pytest.mark.parametrize(
    "values",
    [
        lists(often("x" * 10_000)),
        lists(lists(often("x" * 10_000))),
        pa.StructArray.from_arrays([often("x" * 10_000)], ["a"]),
        lists(lists(pa.array(np.zeros(40_000)))),
    ],
    ids=["list", "list of lists", "structure", "lists of nothing much"],
)
def test_texts_and_lists_within_lists_count_as_often_as_they_stand(tmp_path, monkeypatch, values):
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"a": values}), path)
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(memory, "usable", lambda: 30 * 2**20)
    with pytest.raises(InputError, match=LIMIT):
        read_frame(path)
    monkeypatch.setenv("MDJAX_MEMORY", "60MiB")
    assert len(read_frame(path)) == len(values)


@pytest.mark.parametrize(
    "values",
    [
        often(b"x" * 10_000),
        lists(often(b"x" * 10_000)),
        pa.array([b"xy"] * 9, pa.binary(2)),
        pa.array([[1.0]] * 9, pa.list_(pa.float64(), 1)),
        pa.array([[("a", 1)]] * 9, pa.map_(pa.string(), pa.int64())),
    ],
    ids=["bytes", "list", "fixed", "fixed list", "map"],
)
def test_types_whose_size_no_schema_tells_are_refused(tmp_path, values):
    pq.write_table(pa.table({"a": values}), tmp_path / "table.parquet")
    with pytest.raises(InputError, match="its column a is of the type .*, not numbers or texts"):
        read_configurations(tmp_path / "table.parquet")


def test_what_tables_hold_is_read(tmp_path, monkeypatch):
    frame = pd.DataFrame(
        {
            "layers": [["conv1", "linear"], None],
            "surface_loss": [[[1.0, 2.0], [3.0]], []],
            "group": pd.Categorical(["a", "b"]),
            "day": pd.to_datetime(["2020-01-01", "2020-01-02"]),
            "known": [True, None],
            "count": pd.array([1, None], "Int64"),
            "nothing": [None, None],
            "price": pa.array([1, 2], pa.decimal128(9, 2)).to_pylist(),
        }
    )
    write_frame(frame, tmp_path / "table.parquet")
    whole = read_frame(tmp_path / "table.parquet")
    assert [*whole] == [*frame] and list(whole["layers"][0]) == ["conv1", "linear"]
    monkeypatch.setattr(memory, "usable", lambda: 2**14)  # by what its values take, not by the most that they could
    assert list(read_frame(tmp_path / "table.parquet")["layers"][0]) == ["conv1", "linear"]
