"""Training in other processes: the zoo of one, whatever dies."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from killed_workers import killing_the_first, run_in_children

import mdjax
from mdjax import pools
from mdjax.cli import main
from mdjax.errors import InputError
from mdjax.files import TEMPORARY
from mdjax.zoo import trainers
from mdjax.zoo.data import load
from mdjax.zoo.grids import Grid

GRID = Grid(width=(2, 3), batch_size=64, epochs=1, seeds=2)
TOML = 'data = "digits"\nwidth = [2, 3]\nbatch_size = 64\nepochs = 1\nseeds = 2\n'

FATAL = """
import sys
if "mdjax.zoo.trainer" in sys.orig_argv:
    import ctypes
    import mdjax.zoo.training as training
    usual = training.train_stack
    def fatal(settings, *arguments, **named):
        if settings[0].width == 2:
            ctypes.string_at(0)
        return usual(settings, *arguments, **named)
    training.train_stack = fatal
"""


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return mdjax.train(GRID, tmp_path_factory.mktemp("zoo") / "zoo", show_progress=False)


def assert_equal(zoo, expected):
    """Model for model; weights to the last digits, since other cores may sum in another order."""
    assert zoo.groups == expected.groups
    columns = [name for name in expected.manifest if name != "weights_hash"]
    assert zoo.manifest[columns].equals(expected.manifest[columns])
    for group in zoo.groups:
        for one, other in zip(leaves(zoo, group), leaves(expected, group), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert not list(zoo.path.rglob(f"{TEMPORARY}*"))


def leaves(zoo, group):
    import jax

    return jax.tree.leaves(zoo.read_group(group))


def test_a_worker_that_is_killed_costs_nothing(expected, tmp_path, monkeypatch):
    """As soon as it has been told a group."""
    killed = killing_the_first(monkeypatch)
    zoo = mdjax.train(GRID, tmp_path / "zoo", workers=2, show_progress=False)
    assert killed
    assert_equal(zoo, expected)


def test_a_group_that_ends_every_process_is_told_and_the_others_are_trained(expected, tmp_path, monkeypatch, capsys):
    run_in_children(FATAL, tmp_path, monkeypatch)
    (tmp_path / "grid.toml").write_text(TOML)
    monkeypatch.setattr(pools, "MOST_DEATHS", 1)  # `tests/test_pools.py` has three
    command = ["train", str(tmp_path / "grid.toml"), "--out", str(tmp_path / "zoo"), "--workers", "1"]
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    name = next(group for group in expected.groups if "-w2-" in group)
    assert f"Cannot train group {name}: its process ended 1 times: SIGSEGV. All else is in the zoo" in said
    assert len(mdjax.Zoo(tmp_path / "zoo")) == 2
    monkeypatch.delenv("PYTHONPATH")
    main([*command[:-1], "0"])
    assert_equal(mdjax.Zoo(tmp_path / "zoo"), expected)


def test_a_run_that_is_killed_leaves_no_worker_and_goes_on(expected, tmp_path):
    (tmp_path / "grid.toml").write_text(TOML.replace("epochs = 1", "epochs = 100000"))
    out = tmp_path / "zoo"
    command = [sys.executable, "-m", "mdjax", "train", str(tmp_path / "grid.toml"), "--out", str(out), "--workers", "1"]
    parent = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    workers = until(lambda: children(parent.pid))
    until(lambda: list(out.rglob(f"{TEMPORARY}*")))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: not any(map(is_running, workers)))
    assert_equal(mdjax.train(GRID, out, show_progress=False), expected)


def children(pid: int) -> list[int]:
    return [int(text) for path in Path(f"/proc/{pid}/task").glob("*/children") for text in path.read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def until(found, seconds=60):
    end = time.monotonic() + seconds
    while not (what := found()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return what


def test_trainers_that_never_begin_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(trainers, "_COMMAND", [sys.executable, "-c", "import sys; sys.exit('no such thing')"])
    with pytest.raises(InputError, match=r"3 workers in a row ended .* exit status 1: no such thing. Work in this"):
        mdjax.train(GRID, tmp_path / "zoo", workers=1, show_progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, "workers is -1. Give a number from 0 to 256, or auto"),
        ({"workers": True}, "workers is True"),
        ({"workers": "many"}, "workers is 'many'"),
        ({"workers": 1, "dataset": load("digits")}, "need data by name or path"),
    ],
)
def test_what_cannot_be_shared_is_told(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        mdjax.train(GRID, tmp_path / "zoo", show_progress=False, **options)
    assert not (tmp_path / "zoo").exists()


def test_auto_is_for_large_grids_of_named_data():
    assert trainers.num_trainers("auto", 64, "digits") == 0
    assert trainers.num_trainers("auto", 65, "digits") >= 1
    assert trainers.num_trainers("auto", 65, load("digits")) == 0
