"""Conversions that read in other processes: the zoo of one, whatever dies."""

import pytest
import torch
from killed_workers import killing_the_first, run_in_children
from torch_checkpoints import LINEAR, SUBSET, convert, reasons, save

from converters.cli import main
from converters.readers import num_readers
from mdjax import pools
from mdjax.errors import InputError
from mdjax.files import TEMPORARY
from mdjax.zoo.store import Zoo

FATAL = """
import sys
if "converters.reader" in sys.orig_argv:
    import ctypes
    import converters.recognition as recognition
    usual = recognition.read_checkpoint
    def fatal(path, *arguments):
        if path.name == "net_exp_1.pkl":
            ctypes.string_at(0)
        return usual(path, *arguments)
    recognition.read_checkpoint = fatal
"""

CODE = """
from torch import nn

def net(width):
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory, networks):
    """Files of every fate: seeds, copies, checkpoints of one run, NaN, damage, a family that nobody knows."""
    src = tmp_path_factory.mktemp("tree") / "src"
    for seed in (0, 1):
        save(src, f"{SUBSET}/net_exp_{seed}.pkl", networks[2, seed])
    save(src, f"{SUBSET}/net_exp_2.pkl", networks[2, 0])
    save(src, f"{SUBSET}/net_exp_3.pkl", networks[3, 0])
    (src / SUBSET / "net_exp_4.pkl").write_bytes(b"no pickle")
    folder = src / "plain"
    folder.mkdir()
    for number in range(3):
        torch.save({name: value * (number + 1) for name, value in LINEAR.items()}, folder / f"run{number}.pt")
    torch.save({name: value * torch.nan for name, value in LINEAR.items()}, folder / "run3.pt")
    torch.save({"strange.alpha": torch.ones(2, 3, 4)}, folder / "run4.pt")
    torch.save(LINEAR, folder / "run0_best.pt")
    return src


@pytest.fixture(scope="module")
def expected(tree, tmp_path_factory):
    out = tmp_path_factory.mktemp("expected") / "zoo"
    return convert(tree, out), Zoo(out)


def assert_equal(out, zoo):
    """Bit for bit."""
    found = Zoo(out)
    assert found.groups == zoo.groups
    assert found.manifest.equals(zoo.manifest)
    for group in zoo.groups:
        found.read_group(group)  # holds the weights against their hashes
    assert not list(out.rglob(f"{TEMPORARY}*"))


def test_the_zoo_and_the_report_are_those_of_one_process_though_a_worker_is_killed(
    tree, expected, tmp_path, monkeypatch
):
    report, zoo = expected
    killed = killing_the_first(monkeypatch)
    found = convert(tree, tmp_path / "zoo", workers=2)
    assert killed
    assert (found.outcomes, found.notes) == (report.outcomes, report.notes)
    assert_equal(tmp_path / "zoo", zoo)


def test_a_file_that_ends_every_process_is_refused_and_the_others_are_converted(tree, tmp_path, monkeypatch, capsys):
    run_in_children(FATAL, tmp_path, monkeypatch)
    monkeypatch.setattr(pools, "MOST_DEATHS", 1)  # `tests/test_pools.py` has three
    with pytest.raises(SystemExit) as stopped:
        main([str(tree / "checkpoint"), "--out", str(tmp_path / "zoo"), "--workers", "1"])
    assert stopped.value.code == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "net_exp_1.pkl" in line]
    assert len(lines) == 1 and "its process ended 1 times: SIGSEGV" in lines[0]
    assert list(Zoo(tmp_path / "zoo").manifest["seed"]) == [0]


def test_modules_and_trusted_files_are_read_by_workers(tmp_path):
    src = tmp_path / "src"
    code = tmp_path / "mynet.py"
    code.write_text(CODE)
    src.mkdir()
    for seed in range(2):
        network = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
        torch.save(network if seed else network.state_dict(), src / f"{seed}.pt")
    for workers in (0, 1):
        report = convert(src, tmp_path / f"zoo{workers}", module=f"{code}:net(5)", trust=True, workers=workers)
        assert len(report.converted) == 2, reasons(report)
    assert_equal(tmp_path / "zoo1", Zoo(tmp_path / "zoo0"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, "workers is -1. Give a number from 0 to 256, or auto"),
        ({"workers": True}, "workers is True"),
        ({"workers": "many"}, "workers is 'many'"),
        ({"workers": 1, "module": torch.nn.Linear(2, 2)}, "need the module as FILE.py:CLASS"),
    ],
)
def test_what_cannot_be_shared_is_told(tree, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        convert(tree, tmp_path / "zoo", **options)
    assert not (tmp_path / "zoo").exists()


def test_auto_is_for_many_files():
    assert num_readers("auto", 1000, None) == 0
    assert num_readers("auto", 1001, None) >= 1
