"""Files that change together: old or new, never some of each, whatever becomes of the writers."""

import os
import threading

import pytest
from killed_writers import leftover_of_a_killed_writer

from mdjax import file_sets

NAMES = ("a", "b", "c")


def write(folder, content):
    with file_sets.changing(folder) as new:
        for name in NAMES:
            (new / name).write_text(content)


def read(folder):
    contents = []
    for name in NAMES:
        with file_sets.open_newest(folder, name) as file:
            contents.append(file.read().decode())
    return contents


class Killed(BaseException):
    pass


def test_a_set_replaces_another_and_leaves_other_files(tmp_path):
    (tmp_path / "other").write_text("kept")
    leftover_of_a_killed_writer(tmp_path, is_folder=True)
    for content in ("old", "new"):
        write(tmp_path, content)
        assert read(tmp_path) == [content] * 3
        assert sorted(path.name for path in tmp_path.iterdir()) == [*NAMES, "other"]
        assert file_sets.newest(tmp_path, "a").read_text() == content


@pytest.mark.parametrize("step", range(10))
def test_a_writer_that_is_killed_at_any_step_leaves_the_old_set_or_the_new_one(tmp_path, step, monkeypatch):
    """Its steps are the changes of names; with the power gone after one of them nothing tidies up behind it."""
    write(tmp_path, "old")
    count = 0

    def counted(call):
        def run(*arguments, **options):
            nonlocal count
            if count == step:
                raise Killed
            count += 1
            return call(*arguments, **options)

        return run

    with monkeypatch.context() as patched:
        patched.setattr(file_sets, "flush", counted(file_sets.flush))
        patched.setattr("mdjax.files._remove", lambda path: None)
        for name in ("rename", "replace", "rmdir"):
            patched.setattr(f"pathlib.Path.{name}", counted(getattr(type(tmp_path), name)))
        try:
            write(tmp_path, "new")
            assert step >= 8
        except Killed:
            assert step < 8
    committed = step > 3
    assert read(tmp_path) == ["new" if committed else "old"] * 3
    assert file_sets.newest(tmp_path, "c").read_text() == ("new" if committed else "old")
    write(tmp_path, "last")
    assert read(tmp_path) == ["last"] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [*NAMES]


def test_readers_and_writers_at_a_time_never_see_a_mixed_set(tmp_path):
    write(tmp_path, "first")
    failures, stop = [], threading.Event()

    def writer(number):
        try:
            for turn in range(15):
                write(tmp_path, f"{number}-{turn}")
        except Exception as error:
            failures.append(error)

    def one_reading():
        contents = read(tmp_path)
        return contents if len(set(contents)) == 1 else None

    def reader():
        while not stop.is_set():
            if file_sets.until_consistent(one_reading) is None:
                failures.append("mixed")

    writers = [threading.Thread(target=writer, args=(number,)) for number in range(3)]
    watching = threading.Thread(target=reader)
    for thread in (*writers, watching):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    watching.join()
    assert not failures
    assert len(set(read(tmp_path))) == 1 and read(tmp_path)[0].endswith("-14")
    assert sorted(path.name for path in tmp_path.iterdir()) == [*NAMES]


def test_a_link_in_the_place_of_a_pending_set_is_not_followed(tmp_path):
    outside, table = tmp_path / "outside", tmp_path / "table"
    write(table, "old")
    outside.mkdir()
    (outside / "a").write_text("precious")
    (table / file_sets.PENDING).symlink_to(outside)
    assert read(table) == ["old"] * 3
    write(table, "new")
    assert read(table) == ["new"] * 3
    assert [path.name for path in outside.iterdir()] == ["a"]


def test_what_is_no_file_of_a_set_blocks_no_writer(tmp_path):
    outside, table = tmp_path / "outside", tmp_path / "table"
    outside.write_text("precious")
    write(table, "old")
    pending = table / file_sets.PENDING
    (table / "shards").mkdir()
    (pending / "a" / "deep").mkdir(parents=True)
    os.mkfifo(pending / "b")
    (pending / "c").symlink_to(outside)
    (pending / "shards").touch()
    write(table, "new")
    assert read(table) == ["new"] * 3 and outside.read_text() == "precious"
    assert sorted(path.name for path in table.iterdir()) == [*NAMES, "shards"]
    assert (table / "shards").is_dir() and not (table / "c").is_symlink()


def test_a_set_that_a_folder_is_in_the_way_of_is_refused_whole(tmp_path):
    (tmp_path / "b").mkdir()
    with pytest.raises(IsADirectoryError):
        write(tmp_path, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_what_never_agrees_is_given_up(monkeypatch):
    monkeypatch.setattr(file_sets.time, "sleep", lambda seconds: None)
    assert file_sets.until_consistent(lambda: None) is None
