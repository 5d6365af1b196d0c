"""Tables on disk: their files belong together; what cannot be read is told in one sentence."""

import pandas as pd
import pytest

from mdjax import file_sets, memory, table
from mdjax.columns import Feature, describe, described
from mdjax.errors import InputError


def a_table(value):
    frame = pd.DataFrame({"model_id": ["a"], "value": [value]})
    configurations = describe(frame.rename(columns={"model_id": "configuration"}), [Feature("value", "Value")])
    return table.Table(frame, frame.iloc[:0], configurations)


def test_a_damaged_table_is_told_in_one_sentence(tmp_path):
    (tmp_path / "configurations.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="Cannot read .*configurations.parquet: .*Run 'mdjax measure' again"):
        table.read_configurations(tmp_path)
    for missing in (tmp_path / "none", tmp_path / "none.parquet"):
        with pytest.raises(InputError, match="is no table"):
            table.read_table(missing)
        with pytest.raises(InputError, match="is no table"):
            table.read_configurations(missing)


def test_a_table_comes_out_as_it_went_in_and_is_the_same_bytes_again(tmp_path):
    written = table.write_table(tmp_path / "t", a_table(1.0))
    read = table.read_table(tmp_path / "t")
    for name in table.FRAMES:
        for found in (written, read):
            pd.testing.assert_frame_equal(getattr(found, name), getattr(a_table(1.0), name))
        assert described(written.configurations) == described(read.configurations) != {}
    before = {path.name: path.read_bytes() for path in (tmp_path / "t").iterdir()}
    table.write_table(tmp_path / "t", a_table(1.0))
    assert {path.name: path.read_bytes() for path in (tmp_path / "t").iterdir()} == before
    assert sorted(before) == ["configurations.parquet", "models.parquet", "pairs.parquet"]


def test_a_table_beyond_the_memory_limit_is_written_and_told_by_its_own_name(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(memory, "usable", lambda: 16)
        with pytest.raises(InputError, match=r"t/models\.parquet would take .*MDJAX_MEMORY=") as told:
            table.write_table(tmp_path / "t", a_table(1.0))
    assert ".writing" not in str(told.value)
    assert len(table.read_table(tmp_path / "t").models) == 1


def test_files_of_different_tables_are_not_taken_for_one(tmp_path, monkeypatch):
    monkeypatch.setattr(file_sets.time, "sleep", lambda seconds: None)
    for name, value in (("t", 1.0), ("u", 2.0)):
        table.write_table(tmp_path / name, a_table(value))
    (tmp_path / "u" / "models.parquet").replace(tmp_path / "t" / "models.parquet")
    with pytest.raises(InputError, match="files of .*t are of different tables. Run 'mdjax measure' again"):
        table.read_table(tmp_path / "t")
    # What a person wrote there, with tools of their own, is theirs to answer for.
    pd.read_parquet(tmp_path / "t" / "pairs.parquet").to_parquet(tmp_path / "t" / "models.parquet")
    assert len(table.read_table(tmp_path / "t").models) == 0


def test_a_set_that_a_killed_writer_had_committed_counts(tmp_path):
    table.write_table(tmp_path / "t", a_table(1.0))
    table.write_table(tmp_path / "u", a_table(2.0))
    pending = tmp_path / "t" / file_sets.PENDING
    pending.mkdir()
    (tmp_path / "u" / "models.parquet").replace(tmp_path / "t" / "models.parquet")  # moved before the kill
    for name in ("pairs", "configurations"):
        (tmp_path / "u" / f"{name}.parquet").replace(pending / f"{name}.parquet")
    assert table.read_table(tmp_path / "t").models["value"].tolist() == [2.0]
    assert table.read_configurations(tmp_path / "t")["value"].tolist() == [2.0]
    table.write_table(tmp_path / "t", a_table(3.0))
    assert not pending.exists()
    assert table.read_configurations(tmp_path / "t")["value"].tolist() == [3.0]
