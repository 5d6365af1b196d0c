"""Tables in an object store: three objects that belong together, read by every command that reads a table."""

import threading
import uuid

import pandas as pd
import pytest
from object_store_server import BUCKET, ObjectServer, object_server

from mdjax import table
from mdjax.addresses import Address
from mdjax.cli import main
from mdjax.errors import InputError
from mdjax.stores import store_of


@pytest.fixture(scope="module")
def server():
    with object_server() as started:
        yield started


@pytest.fixture(params=["s3", "memory"])
def address(request, server: ObjectServer) -> Address:
    server.reset()
    return Address(f"{request.param}://{BUCKET}/{uuid.uuid4().hex}/table")


def a_table(value):
    frame = pd.DataFrame({"model_id": ["a"], "value": [value]})
    return table.Table(frame, frame.iloc[:0], frame.rename(columns={"model_id": "configuration"}))


def assert_equal(found, expected):
    for name in table.FRAMES:
        pd.testing.assert_frame_equal(getattr(found, name), getattr(expected, name))


def test_a_table_comes_out_as_it_went_in(address, tmp_path):
    written = table.write_table(address, a_table(1.0))
    assert_equal(written, a_table(1.0))
    assert_equal(table.read_table(str(address)), a_table(1.0))
    assert sorted(store_of(address).names("")) == ["configurations.parquet", "models.parquet", "pairs.parquet"]
    table.write_table(tmp_path / "t", a_table(1.0))
    for name in table.FRAMES:  # the same files as in a folder
        assert store_of(address).read(f"{name}.parquet") == (tmp_path / "t" / f"{name}.parquet").read_bytes()
    table.write_table(address, a_table(2.0))
    assert_equal(table.read_table(address), a_table(2.0))
    assert table.read_configurations(str(address))["value"].tolist() == [2.0]
    assert table.read_configurations(str(address / "models.parquet"))["value"].tolist() == [2.0]
    store_of(address).write("rows.csv", b"configuration,value\na,3\n")
    assert table.read_configurations(address / "rows.csv")["value"].tolist() == [3]


def test_objects_of_different_tables_are_not_taken_for_one(address, monkeypatch):
    monkeypatch.setattr(table, "_PAUSE", 0.001)
    table.write_table(address, a_table(1.0))
    first = store_of(address).read("models.parquet") or b""
    table.write_table(address, a_table(2.0))
    store_of(address).write("models.parquet", first)
    with pytest.raises(InputError, match=f"^The files of {address} are of different tables. Run 'mdjax measure' again"):
        table.read_table(address)


def test_a_reader_waits_for_the_last_of_the_three(address, monkeypatch):
    table.write_table(address, a_table(1.0))
    store, later = store_of(address), a_table(2.0)
    contents = table._encoded(later)
    store.write("models.parquet", contents["models"])
    rest = threading.Timer(0.3, lambda: [store.write(f"{name}.parquet", contents[name]) for name in table.FRAMES[1:]])
    rest.start()
    assert_equal(table.read_table(address), later)
    rest.join()


def test_what_several_writers_leave_is_one_table(address, monkeypatch):
    """Another's object comes between two of this writer's, once."""
    monkeypatch.setattr(table, "_PAUSE", 0.001)
    others, kind = table._encoded(a_table(1.0)), type(store_of(address))
    write, left = kind.write, [True]

    def disturbed(store, name, content):
        write(store, name, content)
        if name == "pairs.parquet" and left and left.pop():
            for other in ("models.parquet", "pairs.parquet"):
                write(store, other, others[other.removesuffix(".parquet")])

    monkeypatch.setattr(kind, "write", disturbed)
    table.write_table(address, a_table(2.0))
    assert_equal(table.read_table(address), a_table(2.0))


def test_missing_and_damaged_objects_are_told(address):
    with pytest.raises(InputError, match=f"^{address} is no table: {address}/models.parquet does not exist"):
        table.read_table(address)
    table.write_table(address, a_table(1.0))
    store_of(address).write("models.parquet", b"PAR1")
    with pytest.raises(InputError, match=f"^Cannot read {address}/models.parquet: .*Run 'mdjax measure' again"):
        table.read_table(address)
    store_of(address).delete("configurations.parquet")
    with pytest.raises(InputError, match=f"^{address} is no table: {address}/configurations.parquet does not exist"):
        table.read_configurations(address)
    store_of(address).write("rows.csv", b"\xff\xfe")
    with pytest.raises(InputError, match=f"^Cannot read {address}/rows.csv: .* Give a CSV file with a header line"):
        table.read_configurations(address / "rows.csv")


def test_a_missing_bucket_is_told_by_both(server):
    with pytest.raises(InputError, match="^Cannot write the table s3://nobody/t: The specified bucket does not exist"):
        table.write_table(Address("s3://nobody/t"), a_table(1.0))
    with pytest.raises(InputError, match="^Cannot read s3://nobody/t/models.parquet: The specified bucket does not"):
        table.read_table("s3://nobody/t")


def test_commands_take_addresses(server, capsys):
    address = Address("memory://bucket/table")
    rows = pd.DataFrame({"configuration": ["a", "b"], "test_acc": [90.0, 80.0], "train_error": [0.0, 10.0]})
    table.write_table(address, table.Table(rows, rows.iloc[:0], rows))
    main(["diagnose", str(address)])
    assert "2 configurations" in capsys.readouterr().out
    for command in (["diagnose"], ["grow", "--out", "trees.json"], ["report"]):
        with pytest.raises(SystemExit):
            main([command[0], "memory://bucket/none", *command[1:]])
        assert "memory://bucket/none is no table" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["report", "t", "--out", "s3://b/r.html"],
        ["diagnose", "t", "--out", "s3://b/rows.csv"],
        ["train", "grid.toml", "--out", "s3://b/zoo"],
        ["demo", "--out", "s3://b/demo"],
    ],
)
def test_other_outputs_are_refused_there(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2
    assert "only measured tables are put into object stores" in capsys.readouterr().err
