"""Two writers of one place, and a writer that is killed: the second is told who is first, and the dead hold nothing."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from converters import convert
from converters.cli import main as convert_main
from mdjax import files, locks
from mdjax.calibration.growing import calibrate
from mdjax.cli import main
from mdjax.errors import InputError
from mdjax.zoo.data import absolute, load
from mdjax.zoo.grids import Grid
from mdjax.zoo.store import Zoo
from mdjax.zoo.training import train

HOLDS = """
import sys, time
from pathlib import Path
from mdjax.files import temporary_file, temporary_folder
from mdjax.locks import one_writer
folder = Path(sys.argv[1])
with one_writer(folder / ".lock", "it"), temporary_file(folder) as file, temporary_folder(folder) as unfinished:
    (unfinished / "half").write_text("x")
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(locks, "_PATIENCE", 0.0)


def test_a_living_writer_is_named_and_a_killed_one_holds_nothing_and_leaves_nothing(tmp_path, monkeypatch):
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            with monkeypatch.context() as patched:
                patched.setattr(locks, "_PATIENCE", 0.0)
                with (
                    pytest.raises(InputError, match=rf"Another process is writing it: process {process.pid} on "),
                    locks.one_writer(tmp_path / ".lock", "it"),
                ):
                    pass
            files.remove_leftovers(tmp_path)
            assert len(list(tmp_path.iterdir())) == 3  # the lock, and what the other works on
        finally:
            process.send_signal(signal.SIGKILL)
    files.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    with locks.one_writer(tmp_path / ".lock", "it"):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b'{"process": "\x1b[2J", "host": 1, "since": 0}', b"\xff" * 5000])
def test_a_lock_that_says_anything_is_no_trouble(tmp_path, content, impatient):
    lock = tmp_path / ".lock"
    with locks.one_writer(lock, "it"):
        lock.write_bytes(content)
        with pytest.raises(InputError) as error, locks.one_writer(lock, "it"):
            pass
    assert str(error.value).startswith("Another process is writing it: it does not say which. Wait until it has ended")
    with locks.one_writer(lock, "it"):
        assert f'"process": {os.getpid()}' in lock.read_text()


def test_where_there_are_no_locks_a_warning_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "try_lock", lambda descriptor: None)
    for _ in "ab":  # of a folder once
        with locks.one_writer(tmp_path / ".lock", "the zoo x"):
            pass
    text = " ".join(capsys.readouterr().err.split())
    assert text.count("has no locks: let one process at a time write the zoo x.") == 1


def test_every_command_that_writes_a_zoo_or_a_calibration_is_refused_beside_another(tmp_path, impatient, capsys):
    torch.save({"fc.weight": torch.ones(10, 64)}, tmp_path / "net.pt")
    (tmp_path / "grid.toml").write_text("width = [2]\nepochs = 1\n")
    zoo = Zoo.create(tmp_path / "zoo", data=absolute("digits"), fingerprint=load("digits").fingerprint)
    before = sorted(tmp_path.rglob("*"))
    message = f"This process is already writing the zoo {zoo.path}, since "
    with zoo.writing():
        for call in (
            lambda: train(Grid(width=(2,), epochs=1), zoo.path, show_progress=False),
            lambda: convert(tmp_path / "net.pt", zoo.path, data="digits", show_progress=False),
        ):
            with pytest.raises(InputError, match=message):
                call()
        for command, arguments in (
            (main, ["train", str(tmp_path / "grid.toml")]),
            (convert_main, [str(tmp_path / "net.pt"), "--data", "digits"]),
        ):
            with pytest.raises(SystemExit) as stop:
                command([*arguments, "--out", str(zoo.path)])
            error = capsys.readouterr().err.strip()
            assert stop.value.code == 2 and message in error and len(error.splitlines()) == 1
        assert len(convert(tmp_path / "net.pt", zoo.path, data="digits", dry_run=True).converted) == 1
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "cal").mkdir()
    with (
        locks.one_writer(tmp_path / "cal" / ".lock", "it"),
        pytest.raises(InputError, match="This process is already writing the calibration .*cal, since"),
    ):
        calibrate("mlp-w2", data="digits", out=tmp_path / "cal", show_progress=False)
