"""One-step writing: whole or not at all, nothing left behind, and refusals in one sentence."""

import os
import shutil
from pathlib import Path

import pytest
from killed_writers import leftover_of_a_killed_writer

from mdjax import file_sets, files, locks
from mdjax.errors import InputError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.touch()
    return path


def leftovers(folder):
    return list(folder.glob(f"{files.TEMPORARY}*"))


@pytest.mark.parametrize("content", ["text é", b"bytes\x00"])
def test_a_file_is_written_whole_and_its_folder_made(tmp_path, content):
    path = tmp_path / "new" / "file"
    files.write_file(path, "old")
    files.write_file(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_half_a_surrogate_pair_does_not_keep_a_text_from_being_written(tmp_path):
    files.write_file(tmp_path / "file", "a\ud800b")
    assert (tmp_path / "file").read_text() == "a?b"


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
def test_nothing_half_written_is_seen_or_left(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(error), files.replacing(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent
        raise error
    assert path.read_text() == "old"
    assert not leftovers(tmp_path)


def test_a_folder_appears_whole(tmp_path):
    with files.new_folder(tmp_path / "folder") as temporary:
        (temporary / "a").write_text("x")
        assert not (tmp_path / "folder").exists()
    assert (tmp_path / "folder" / "a").read_text() == "x"
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
def test_a_folder_that_was_not_finished_is_removed(tmp_path, error):
    with pytest.raises(error), files.new_folder(tmp_path / "folder") as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "half").write_text("x")
        raise error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_the_first_writer_of_a_folder_wins(tmp_path, kind):
    with pytest.raises(FileExistsError), files.new_folder(tmp_path / "name") as temporary:
        (temporary / "a").write_text("second")
        if kind == "folder":
            (tmp_path / "name").mkdir()
            (tmp_path / "name" / "a").write_text("first")
        else:
            (tmp_path / "name").write_text("first")
    first = tmp_path / "name" / "a" if kind == "folder" else tmp_path / "name"
    assert first.read_text() == "first"
    assert not leftovers(tmp_path)


def test_the_systems_reason_and_a_remedy_are_told(file):
    with pytest.raises(InputError, match=r"^Cannot write .*/file/a: [^/]+\. Choose a folder that you may write to\.$"):
        files.write_file(file / "a", "x")
    message = r"^Cannot write the zoo x: No space left on device\. Free some\.$"
    with pytest.raises(InputError, match=message), files.writing("the zoo x", "Free some."):
        raise OSError(28, "No space left on device", "/secret")
    with pytest.raises(KeyError), files.writing("the zoo x"):
        raise KeyError("another mistake")


def test_a_folder_is_made_and_tried_without_a_trace(tmp_path, file):
    files.make_writable(tmp_path / "a" / "b")
    files.make_writable(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())
    with pytest.raises(OSError):
        files.make_writable(file / "below")


def test_a_file_that_is_to_be_written_is_tried_where_it_will_be(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "file")
    files.make_file_writable(tmp_path / "link")
    assert [*map(str, (tmp_path / "elsewhere").iterdir())] == [] and (tmp_path / "link").is_symlink()
    files.make_file_writable(Path("/dev/null"))
    with pytest.raises(IsADirectoryError):
        files.make_file_writable(tmp_path)


def test_a_folder_that_cannot_be_written_is_told_before_any_work(tmp_path, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    # Rather than by modes, which do not stop the superuser.
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError, match="Cannot write it: Permission denied. Choose"), files.writing("it"):
        files.make_writable(tmp_path)


@pytest.mark.parametrize("is_folder", [False, True])
@pytest.mark.parametrize("has_locks", [True, False])
def test_what_dead_writers_left_is_removed_and_what_others_work_on_stays(tmp_path, is_folder, has_locks, monkeypatch):
    dead, foreign, old = (
        leftover_of_a_killed_writer(tmp_path, is_folder=is_folder, host=host)
        for host in (files._HOST, "0" * 8, "0" * 8)
    )
    os.utime(old, (0, 0))
    (tmp_path / f"{files.TEMPORARY}notes").touch()  # a user's
    (tmp_path / f"{files.TEMPORARY}{'0' * 32}").symlink_to(foreign)
    with (files.temporary_folder if is_folder else files.temporary_file)(tmp_path) as alive:
        if not has_locks:
            monkeypatch.setattr(files, "try_lock", lambda descriptor: None)
        files.remove_leftovers(tmp_path)
        assert alive.exists()
    assert not old.exists() and foreign.exists()
    assert dead.exists() != has_locks
    assert len(leftovers(tmp_path)) == 3 + dead.exists()


def test_the_next_file_written_in_a_folder_clears_it(tmp_path):
    leftover_of_a_killed_writer(tmp_path)
    files.write_file(tmp_path / "file", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_leftover_that_another_writer_removes_at_the_same_time_is_no_error(tmp_path, monkeypatch):
    found = [leftover_of_a_killed_writer(tmp_path, is_folder=True) for _ in "ab"]
    shutil.rmtree(found[0])
    monkeypatch.setattr(type(tmp_path), "glob", lambda *_: iter(found))
    files.remove_leftovers(tmp_path)
    assert not any(path.exists() for path in found)


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_name_that_another_process_takes_for_abandoned_before_it_is_locked_is_not_used(
    tmp_path, is_folder, monkeypatch
):
    refusals = []

    def try_lock(descriptor):
        if len(refusals) < 2:
            refusals.append(descriptor)
            if len(refusals) == 2:  # the cleaner had the lock and was faster
                files._remove(next(iter(leftovers(tmp_path))))
                return True
            return False
        return locks.try_lock(descriptor)

    monkeypatch.setattr(files, "try_lock", try_lock)
    with (files.temporary_folder if is_folder else files.temporary_file)(tmp_path) as path:
        assert len(refusals) == 2
        assert path.exists()


def test_temporary_folders_are_for_this_user_alone_and_cleared_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(tmp_path))
    dead = leftover_of_a_killed_writer(tmp_path, is_folder=True)
    with files.temporary_folder() as folder:
        assert list(tmp_path.iterdir()) == [folder] and not dead.exists()
        assert folder.stat().st_mode & 0o77 == 0
    assert not list(tmp_path.iterdir())


class Ended(BaseException):
    """In the place of waiting for the end of the process."""


class Kept:
    """A lock of another thread, which it keeps from the first `acquire` on."""

    is_taken = False

    def acquire(self, timeout):
        self.is_taken = True
        return True

    def __enter__(self):
        if self.is_taken:
            raise Ended

    def __exit__(self, *error):
        pass


@pytest.mark.parametrize("write", [files.new_folder, files.replacing, file_sets.changing])
def test_what_the_end_of_the_process_removes_under_its_writer_gets_no_name(tmp_path, write, monkeypatch):
    """Another thread ends the process; the one that writes goes on meanwhile, and may make again what was removed."""
    monkeypatch.setattr(files, "_naming", Kept(), raising=False)
    place = tmp_path if write is file_sets.changing else tmp_path / "place"
    with pytest.raises(Ended), write(place) as temporary:
        if is_folder := temporary.is_dir():
            (temporary / "first").touch()
        files.remove_unfinished()
        assert not temporary.exists()
        if is_folder:
            temporary.mkdir()
        (temporary / "second" if is_folder else temporary).write_text("half")
    with pytest.raises(Ended), files.temporary_folder(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_all_that_is_begun_is_removed_however_much_was_begun_since(tmp_path):
    before = set(files._begun)
    with files.temporary_folder(tmp_path) as old:
        for _ in range(70):
            with files.temporary_file(tmp_path):
                pass
        assert set(files._begun) == {*before, old}
    assert set(files._begun) == before
