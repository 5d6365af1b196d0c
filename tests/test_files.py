"""One-step writing: whole or not at all, nothing left behind, and refusals in one sentence."""

import os
import shutil

import pytest

from mdjax import files
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


def test_a_folder_that_cannot_be_written_is_told_before_any_work(tmp_path, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    # Rather than by modes, which do not stop the superuser.
    monkeypatch.setattr(type(tmp_path), "touch", refuse)
    with pytest.raises(InputError, match="Cannot write it: Permission denied. Choose"), files.writing("it"):
        files.make_writable(tmp_path)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_old_leftovers_are_removed_and_young_ones_stay(tmp_path, kind):
    old, young, other = (tmp_path / name for name in (f"{files.TEMPORARY}old", f"{files.TEMPORARY}young", "other"))
    for path in (old, young, other):
        if kind == "folder":
            path.mkdir()
            (path / "half").write_text("x")
        else:
            path.write_text("x")
    for path in (old, other):
        os.utime(path, (0, 0))
    files.remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, other.name]


def test_a_leftover_that_another_writer_removes_at_the_same_time_is_no_error(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / f"{files.TEMPORARY}{name}").mkdir()
        os.utime(tmp_path / f"{files.TEMPORARY}{name}", (0, 0))
    found = sorted(tmp_path.glob("*"))
    shutil.rmtree(found[0])
    monkeypatch.setattr(type(tmp_path), "glob", lambda *_: iter(found))
    files.remove_leftovers(tmp_path)
    assert not any(path.exists() for path in found)
