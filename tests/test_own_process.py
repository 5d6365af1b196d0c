"""What a process is told before its command begins, and what it tells while something takes long."""

import importlib.util
import os
import threading

import pytest

from mdjax import processes, progress


@pytest.mark.parametrize(
    ("installed", "told", "maker", "expected"),
    [
        ({"libtpu"}, {}, "0x8086", "cpu"),
        ({"libtpu"}, {}, None, "cpu"),
        ({"libtpu"}, {}, "0x1ae0", None),  # a TPU
        ({"libtpu", "jax_plugins"}, {}, "0x8086", None),  # a GPU may be there
        ({"libtpu"}, {"JAX_PLATFORMS": "tpu"}, "0x8086", "tpu"),
        ({"libtpu"}, {"JAX_FORCE_TPU_INIT": "1"}, "0x8086", None),
        (set(), {}, "0x8086", None),
    ],
)
def test_tpus_are_looked_for_where_there_may_be_one(monkeypatch, tmp_path, installed, told, maker, expected):
    for name in ("JAX_PLATFORMS", "JAX_FORCE_TPU_INIT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    if maker is not None:
        (tmp_path / "0000:00:04.0").mkdir()
        (tmp_path / "0000:00:04.0" / "vendor").write_text(f"{maker}\n")
    monkeypatch.setattr(processes, "_PCI", tmp_path)
    monkeypatch.setattr(processes, "_DEVICES", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in installed else None)
    try:
        processes._leave_out_absent_tpus()
        assert os.environ.get("JAX_PLATFORMS") == expected
    finally:
        os.environ.pop("JAX_PLATFORMS", None)  # monkeypatch puts back what was there


def test_something_long_is_told_of_while_it_lasts(monkeypatch, capsys):
    told = threading.Event()
    lines = progress._Lines("compiling", 2, 0)
    monkeypatch.setattr(progress, "_PAUSE", 0.0)
    monkeypatch.setattr(progress, "_PART", 0.0)

    def advance(units):
        lines.advance(units)
        told.set()

    with progress.ticking(advance, every=0.001):
        assert told.wait(60)
    assert capsys.readouterr().err.startswith("compiling 0/2 0:00:00\n")
    count = threading.active_count()
    told.clear()
    assert not told.wait(0.05) and threading.active_count() == count
