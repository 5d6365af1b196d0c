"""Finished rows survive anything, and each is there once."""

import errno
import os

import numpy as np
import pandas as pd
import pytest
from killed_writers import leftover_of_a_killed_writer
from sweep_units import CELL, frame, unit

from mdjax import memory
from mdjax.errors import InputError
from mdjax.files import temporary_file
from mdjax.statuses import TRANSIENT
from mdjax.stores import LocalStore
from mdjax.sweeps import commits as module
from mdjax.sweeps.commits import Commits


def anything(unit, rows):
    return True


@pytest.fixture
def commits(tmp_path):
    return Commits(LocalStore(tmp_path / "table"))


def files(commits):
    return sorted(path.name for path in (commits.store.folder / "shards").iterdir())


def test_a_unit_comes_out_as_it_went_in(commits, monkeypatch):
    for links in (True, False):
        one = unit(prefix=f"losses-{int(links)}")
        if not links:  # as on file systems without hard links
            monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError("no links")))
        assert commits.missing([one]) == [one] and not commits.has(one)
        commits.commit(one, frame(value=[1.0, np.nan]))
        assert commits.missing([one]) == [] and commits.has(one)
        pd.testing.assert_frame_equal(commits.rows([one], anything), frame(value=[1.0, np.nan]))
    assert files(commits) == ["losses-0-ab.parquet", "losses-1-ab.parquet"]


def test_the_first_writer_of_a_unit_wins(commits):
    commits.commit(unit(), frame())
    Commits(commits.store).commit(unit(), frame(value=7.0))
    pd.testing.assert_frame_equal(commits.rows([unit()], anything), frame())


def test_rows_come_in_the_order_of_the_units_whoever_did_them_in_whatever_parts(commits):
    for models in ("cd", "b", "a", "bc", "f"):
        commits.commit(unit(models), frame(models, value=[float(ord(name)) for name in models]))
    commits.commit(unit("e", prefix="losses-other"), frame("e"))
    planned = [unit("dcb"), unit("afe")]
    missing = commits.missing(planned)
    assert [one.keys for one in missing] == [("key-e",)]
    assert missing[0].cell is CELL and missing[0].members == ((4,),)
    assert commits.rows(planned, anything)["model_id"].tolist() == ["d", "c", "b", "a", "f"]


def test_what_grows_leaves_what_is_done(commits):
    commits.commit(unit("ac"), frame("ac"))
    grown = [unit("abcd")]
    assert [one.keys for one in commits.missing(grown)] == [("key-b", "key-d")]
    assert commits.missing([unit("b"), unit("ac")]) == [unit("b")]


@pytest.mark.parametrize("age", [0.0, 1e6])
def test_units_are_packed_once_they_are_old_enough_and_stay_what_they_are(commits, monkeypatch, age):
    monkeypatch.setattr(module, "PACK_SIZE", 2)
    planned = [unit(name) for name in "abcde"]
    for one in planned[:4]:
        commits.commit(one, frame(one.name[-1], value=float(ord(one.name[-1]))))
    before = commits.rows(planned, anything)
    commits.pack(age=age)
    packs = [name for name in files(commits) if "-pack-" in name]
    assert (len(packs), len(files(commits))) == ((0, 4) if age else (2, 2))
    pd.testing.assert_frame_equal(commits.rows(planned, anything), before)
    fresh = Commits(commits.store)
    assert fresh.missing(planned) == [planned[4]]
    # As after a kill between the pack and the removal of what is in it: nothing comes twice.
    fresh.commit(planned[0], frame("a", value=float(ord("a"))))
    pd.testing.assert_frame_equal(fresh.rows(planned, anything), before)


def test_at_the_end_all_is_packed_whoever_did_it(commits, monkeypatch):
    monkeypatch.setattr(module, "PACK_SIZE", 2)
    planned = [unit(name) for name in "abc"]
    for one in planned:
        Commits(commits.store).commit(one, frame(one.name[-1]))
    commits.pack_all(planned)
    assert len(files(commits)) == 2 and all("-pack-" in name for name in files(commits))
    assert commits.rows(planned, anything)["model_id"].tolist() == ["a", "b", "c"]


def test_what_is_packed_while_it_is_read_is_read_from_the_pack(commits, monkeypatch):
    monkeypatch.setattr(module, "PACK_SIZE", 2)
    planned = [unit("a"), unit("b")]
    for one in planned:
        commits.commit(one, frame(one.name[-1]))
    reader, read = Commits(commits.store), Commits._read

    def packed_first(self, name):
        if self is reader and "-pack-" not in name:
            commits.pack(age=0)
        return read(self, name)

    monkeypatch.setattr(Commits, "_read", packed_first)
    assert reader.rows(planned, anything)["model_id"].tolist() == ["a", "b"]


def test_what_a_killed_or_a_failed_writer_left_is_removed_and_work_of_others_stays(commits, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(InputError, match="Cannot write .*losses-0-ab.parquet: No space left on device. Free space"):
            commits.commit(unit(), frame())
    folder = commits.store.folder / "shards"
    assert not list(folder.iterdir())
    leftover_of_a_killed_writer(folder)
    with temporary_file(folder) as alive:
        Commits(LocalStore(commits.store.folder)).commit(unit(), frame())
        assert {*folder.iterdir()} == {alive, folder / "losses-0-ab.parquet"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:20]),
        lambda path: path.rename(path.with_name("losses-0-cd.parquet")),
        lambda path: pd.DataFrame(pd.read_parquet(path).to_dict("list")).to_parquet(path),  # without its name
        lambda path: pd.read_parquet(path).drop(columns="key").to_parquet(path),
        lambda path: path.unlink() or path.mkdir(),
        lambda path: path.unlink() or os.mkfifo(path),
    ],
)
def test_a_damaged_unit_is_done_again(commits, damage):
    commits.commit(unit(), frame())
    damage(commits.store.folder / "shards" / "losses-0-ab.parquet")
    planned = [unit(), unit("cd")]
    assert not len(commits.rows(planned, anything))
    assert commits.missing(planned) == planned
    commits.commit(unit(), frame())
    pd.testing.assert_frame_equal(commits.rows(planned, anything), frame())


def test_rows_that_are_not_the_units_are_removed(commits):
    commits.commit(unit(), frame())
    assert not len(commits.rows([unit()], lambda places, rows: rows["model_id"].tolist() == ["a", "c"]))
    assert commits.missing([unit()]) == [unit()]


@pytest.mark.parametrize("error", [OSError(code, "") for code in (errno.EMFILE, errno.EIO)] + [MemoryError()], ids=repr)
def test_what_cannot_be_read_just_now_is_kept(commits, monkeypatch, error):
    commits.commit(unit(), frame())
    with monkeypatch.context() as patched:
        patched.setattr(module, "read_frame", lambda *_: (_ for _ in ()).throw(error))
        assert not commits.has(unit())
        commits.commit(unit(), frame(value=7.0))
    pd.testing.assert_frame_equal(commits.rows([unit()], anything), frame())


def test_a_unit_beyond_the_memory_limit_is_told_and_kept(commits, monkeypatch):
    commits.commit(unit(), frame())
    with monkeypatch.context() as patched, pytest.raises(InputError, match="MDJAX_MEMORY="):
        patched.setattr(memory, "usable", lambda: 16)
        commits.rows([unit()], anything)
    pd.testing.assert_frame_equal(commits.rows([unit()], anything), frame())


@pytest.mark.parametrize("code", sorted(TRANSIENT))
def test_rows_that_may_go_otherwise_the_next_time_are_left_out(commits, code):
    commits.commit(unit(), frame(status_code=["ok", code.value]))
    assert [one.keys for one in commits.missing([unit()])] == [("key-b",)]
    assert commits.rows([unit()], anything)["model_id"].tolist() == ["a"]
    commits.commit(unit("b"), frame("b", status_code=[code.value]))
    assert len(files(commits)) == 1


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_computed(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="Cannot write the table .*file.*: .* Choose a folder"):
        Commits(LocalStore(tmp_path / "file" / "table"))
