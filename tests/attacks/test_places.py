"""What lies where mdjax looks: links upwards and in circles, pipes and devices, deep folders, no home at all."""

import os
import re
from pathlib import Path

import jax
import pandas as pd
import pytest
import torch

from converters import layouts
from converters.errors import RefusedError
from converters.reports import Outcome
from converters.safetensors_files import shards
from mdjax.diagnosis.calibrations import Calibration
from mdjax.engine import compilation
from mdjax.errors import InputError
from mdjax.metrics.losses import Losses
from mdjax.stores import LocalStore
from mdjax.sweeps.commits import Commits
from mdjax.sweeps.units import Cell, Unit
from mdjax.table import read_configurations, read_table
from mdjax.zoo.data import load
from mdjax.zoo.store import Zoo

UNIT = Unit(Losses(), Cell(pd.DataFrame({"model_id": ["a"]}), None, 1.0, 0.0), ((0,),), ("k",), "losses-0-0")


@pytest.fixture
def homeless(monkeypatch):
    def unknown(*_):
        raise KeyError("getpwuid(): uid not found")

    for name in ("HOME", "XDG_CACHE_HOME", "MDJAX_COMPILATION_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("pwd.getpwnam", unknown)


@pytest.fixture
def store():
    former = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation._is_readable.cache_clear()
    yield lambda: jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", former)
    compilation._is_readable.cache_clear()


def test_nothing_needs_a_home(homeless, store):
    compilation.keep_compiled_programs()
    assert store() is None
    for name in ("~/my.npz", "~nobody-of-this-name/my.npz"):
        with pytest.raises(InputError, match="There is no file or folder ~"):
            load(name)


@pytest.mark.parametrize("known", [True, False])
def test_a_pipe_in_the_store_of_compiled_programs_is_not_opened(known, store, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compilation, "_cpu_kind", lambda: "x")
    folder = tmp_path / "cpu-x"
    (folder / "kept").mkdir(parents=True)
    monkeypatch.setenv("MDJAX_COMPILATION_CACHE", str(tmp_path))
    compilation.keep_compiled_programs()
    assert store() == str(folder)
    compilation._is_readable.cache_clear()
    os.mkfifo(folder / "jit_f-cache")
    if not known:
        jax.config.update("jax_compilation_cache_dir", None)
    for _ in range(2):
        compilation.keep_compiled_programs()
    assert store() is None
    assert capsys.readouterr().err.count("jit_f-cache in it is no file. Remove it.") == 1


def pipe(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("zoo.json", Zoo),
        ("manifest.parquet", Zoo),
        ("groups/g/models.parquet", Zoo),
        ("groups/g/arrays/d/0", Zoo),
        ("pairs.parquet", read_table),
        ("configurations.parquet", read_configurations),
        ("shards/losses-0-0.parquet", lambda folder: Commits(LocalStore(folder)).has(UNIT)),
        ("calibration.json", Calibration.load),
        ("trees.json", Calibration.load),
    ],
)
def test_a_pipe_among_the_files_that_are_read_is_refused(name, read, tmp_path):
    pipe(tmp_path / name)
    try:  # or does without it, as it does without a damaged one
        read(tmp_path)
    except InputError as error:
        assert re.search("no regular file|Cannot read|is no |is neither", str(error)), error


def test_an_index_that_is_a_pipe_or_a_device_is_refused(tmp_path):
    pipe(tmp_path / "a.safetensors.index.json")
    (tmp_path / "b.safetensors.index.json").symlink_to("/dev/zero")
    torch.save({"weight": torch.ones(2, 2)}, tmp_path / "seed0.pt")
    for name in "ab":
        with pytest.raises(RefusedError, match="it is no regular file"):
            shards(tmp_path / f"{name}.safetensors.index.json")
    assert len(layouts.find(tmp_path)) == 3


def test_links_upwards_are_not_followed_and_others_once(tmp_path):
    src, far = tmp_path / "src", tmp_path / "far"
    (src / "deep").mkdir(parents=True)
    far.mkdir()
    for name, target in {
        "root": "/",
        "proc": "/proc/self/root",
        "parent": "..",
        "self": ".",
        "above": tmp_path,
    }.items():
        (src / "deep" / name).symlink_to(target)
    (src / "one").symlink_to(far)
    (src / "two").symlink_to(far)
    (far / "back").symlink_to(src)
    (far / "up").symlink_to(tmp_path)
    (src / "round").symlink_to("round")
    torch.save({}, far / "seed1.pt")
    torch.save({}, tmp_path / "not-below.pt")
    found = layouts.find(src)
    skipped = {one.path.name for one in found if isinstance(one, Outcome) and "is not followed" in one.reason}
    assert skipped == {"root", "proc", "parent", "self", "above", "up"}
    assert [one.path for one in found if not isinstance(one, Outcome)] == [src / "one" / "seed1.pt"]


def test_folders_may_lie_deeper_than_python_recurses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    deep = tmp_path.joinpath(*["d"] * 1100)
    try:
        for _ in range(1100):
            Path("d").mkdir()
            os.chdir("d")
        Path("seed0.pt").write_bytes(b"x")
        assert [one.path for one in layouts.find(tmp_path)] == [deep / "seed0.pt"]
    finally:
        (deep / "seed0.pt").unlink(missing_ok=True)
        os.removedirs(deep)  # what else removes folders recurses
