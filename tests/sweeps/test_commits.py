"""Finished units of work survive anything."""

import errno
import os

import numpy as np
import pandas as pd
import pytest
from killed_writers import leftover_of_a_killed_writer

from mdjax import memory
from mdjax.errors import InputError
from mdjax.files import temporary_file
from mdjax.statuses import TRANSIENT
from mdjax.sweeps import commits as module
from mdjax.sweeps.commits import Commits


@pytest.fixture
def commits(tmp_path):
    return Commits(tmp_path / "commits")


FRAME = pd.DataFrame({"model_id": ["a", "b"], "value": [1.0, np.nan]})


@pytest.mark.parametrize("links", [True, False])
def test_a_unit_comes_out_as_it_went_in(commits, links, monkeypatch):
    if not links:  # as on file systems without hard links
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError("no links")))
    assert commits.read("x") is None
    commits.commit("x", FRAME)
    pd.testing.assert_frame_equal(commits.read("x"), FRAME)
    assert [path.name for path in commits.folder.iterdir()] == ["x.parquet"]


def test_the_first_writer_of_a_unit_wins(commits):
    commits.commit("x", FRAME)
    commits.commit("x", FRAME.assign(value=7.0))
    pd.testing.assert_frame_equal(commits.read("x"), FRAME)


def test_what_a_killed_or_a_failed_writer_left_is_removed_and_work_of_others_stays(commits, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(pd.DataFrame, "to_parquet", fail)
        with pytest.raises(InputError, match="Cannot write .*x.parquet: No space left on device. Free space, then run"):
            commits.commit("x", FRAME)
    assert not list(commits.folder.iterdir())
    leftover_of_a_killed_writer(commits.folder)
    with temporary_file(commits.folder) as alive:
        Commits(commits.folder)
        assert list(commits.folder.iterdir()) == [alive]


def test_a_cut_unit_is_done_again(commits):
    commits.commit("x", FRAME)
    path = commits.folder / "x.parquet"
    path.write_bytes(path.read_bytes()[:20])
    assert commits.read("x") is None
    commits.commit("x", FRAME)
    pd.testing.assert_frame_equal(commits.read("x"), FRAME)


@pytest.mark.parametrize("error", [OSError(code, "") for code in (errno.EMFILE, errno.EIO)] + [MemoryError()], ids=repr)
def test_what_cannot_be_read_just_now_is_kept(commits, monkeypatch, error):
    commits.commit("x", FRAME)
    with monkeypatch.context() as patched:
        patched.setattr(module, "read_frame", lambda path: (_ for _ in ()).throw(error))
        assert commits.read("x") is None
        commits.commit("x", FRAME.assign(value=7.0))
    pd.testing.assert_frame_equal(commits.read("x"), FRAME)


def test_a_unit_beyond_the_memory_limit_is_told_and_kept(commits, monkeypatch):
    commits.commit("x", FRAME)
    with monkeypatch.context() as patched, pytest.raises(InputError, match="MDJAX_MEMORY="):
        patched.setattr(memory, "usable", lambda: 16)
        commits.read("x")
    pd.testing.assert_frame_equal(commits.read("x"), FRAME)


@pytest.mark.parametrize("code", sorted(TRANSIENT))
def test_what_may_go_otherwise_the_next_time_is_no_finished_unit(commits, code):
    rows = FRAME.assign(status_code=["ok", code.value])
    commits.commit("x", rows)
    assert not list(commits.folder.iterdir())
    rows.to_parquet(commits.folder / "x.parquet")  # as earlier versions did
    assert commits.read("x") is None
    commits.commit("x", FRAME)
    pd.testing.assert_frame_equal(commits.read("x"), FRAME)


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_computed(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="Cannot write the table .*file: .* Choose a folder"):
        Commits(tmp_path / "file" / "commits")
