"""Zoos in an object store: read as in a folder, a group at a time; what is damaged, missing or hostile is told."""

import os
import tempfile
from pathlib import Path

import fsspec
import jax
import numpy as np
import pandas as pd
import pytest
from object_store_server import BUCKET, ObjectServer, object_server

from mdjax import files, patience
from mdjax.errors import InputError
from mdjax.models import Architecture
from mdjax.zoo.recorded import recorded_data
from mdjax.zoo.store import DamagedGroupError, Zoo

ADDRESS = f"s3://{BUCKET}/zoo"
SMALL = Architecture("mlp", 3, (4, 4, 1), 3)


@pytest.fixture(scope="module")
def server():
    with object_server() as started:
        yield started


@pytest.fixture(scope="module")
def local(server, tmp_path_factory) -> Zoo:
    """A zoo of three groups, and its copy in the store."""
    zoo = Zoo.create(tmp_path_factory.mktemp("zoos") / "zoo", data="digits")
    for seed, name in enumerate("abc"):
        rows = [{"model_id": f"{name}{i}", "configuration": name, "seed": i} for i in range(2)]
        zoo.append(name, SMALL, rows, *jax.vmap(SMALL.init)(jax.random.split(jax.random.key(seed), 2)))
    store().put(f"{zoo.path}/", f"{ADDRESS}/", recursive=True)
    return zoo


def store():
    return fsspec.filesystem("s3", use_listings_cache=False)


@pytest.fixture(autouse=True)
def scratch(server: ObjectServer, tmp_path, monkeypatch):
    server.reset()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    server.reset()
    assert not list(tmp_path.glob(f"{files.TEMPORARY}*"))


@pytest.fixture
def changed(local, server):
    """Puts an object in place of one of the zoo's, or removes one, until the test ends."""
    kept = {}

    def change(name: str, content: bytes | None) -> None:
        path = f"{ADDRESS}/{name}"
        kept[path] = store().cat_file(path) if store().exists(path) else None
        store().rm_file(path) if content is None else store().pipe_file(path, content)

    yield change
    server.reset()
    for path, content in kept.items():
        store().rm_file(path) if content is None else store().pipe_file(path, content)


def test_a_zoo_is_what_it_is_in_a_folder(local, server):
    zoo = Zoo(ADDRESS)
    pd.testing.assert_frame_equal(zoo.manifest, local.manifest)
    assert (zoo.groups, zoo.data, len(zoo), str(zoo.path)) == (local.groups, "digits", 6, ADDRESS)
    for group in zoo.groups:
        assert zoo.architecture(group) == SMALL
        jax.tree.map(np.testing.assert_array_equal, zoo.read_group(group), local.read_group(group))
    assert recorded_data(zoo).name == "digits"


def test_nothing_but_the_group_that_is_asked_for_is_read(local, server):
    zoo = Zoo(ADDRESS)
    assert not any("/groups/" in path.partition("?")[0] for _, path in server.requests)
    server.requests.clear()
    zoo.read_group("b")
    read = [path for method, path in server.requests if method == "GET"]
    assert read
    assert not any("groups/a" in path or "groups/c" in path for path in read)
    assert {method for method, _ in server.requests} <= {"GET", "HEAD"}


def test_a_zoo_without_its_manifest_is_put_together_from_the_groups(local, changed):
    changed("manifest.parquet", None)
    pd.testing.assert_frame_equal(Zoo(ADDRESS).manifest, local.manifest)


def _one_of(local: Zoo, pattern: str) -> str:
    return min(str(path.relative_to(local.path)) for path in (local.path / "groups" / "b").glob(pattern))


@pytest.mark.parametrize("pattern", ["group.json", "models.parquet", "arrays/manifest.ocdbt", "arrays/d/*"])
@pytest.mark.parametrize("is_missing", [True, False])
def test_a_damaged_group_is_named_and_the_others_are_read(pattern, is_missing, local, changed):
    name = _one_of(local, pattern)
    changed(name, None if is_missing else (local.path / name).read_bytes()[:-3])
    zoo = Zoo(ADDRESS)
    with pytest.raises(DamagedGroupError, match=f"^Group b of {ADDRESS} is damaged: .*Restore its folder from a copy"):
        zoo.read_group("b")
    jax.tree.map(np.testing.assert_array_equal, zoo.read_group("a"), local.read_group("a"))


def test_a_group_without_any_arrays_is_damaged(local, changed):
    for path in (local.path / "groups" / "b" / "arrays").rglob("*"):
        if path.is_file():
            changed(str(path.relative_to(local.path)), None)
    with pytest.raises(DamagedGroupError, match="is damaged: there is no object in it"):
        Zoo(ADDRESS).read_group("b")


def test_no_zoo():
    with pytest.raises(InputError, match=f"^s3://{BUCKET}/nothing is no zoo: it has no zoo.json"):
        Zoo(f"s3://{BUCKET}/nothing")
    with pytest.raises(
        InputError, match=r"^Cannot read s3://nobody/zoo/zoo\.json: The specified bucket does not exist"
    ):
        Zoo("s3://nobody/zoo")


def test_a_service_that_does_not_answer_damages_nothing(local, server, monkeypatch):
    monkeypatch.setattr(patience, "_FIRST_PAUSE", 0.01)
    zoo = Zoo(ADDRESS)
    monkeypatch.setattr(zoo._folder._store._patience, "_seconds", 0.3)  # pyright: ignore
    server.refuses = lambda method, path: ("503 Slow Down", "SlowDown", "Please reduce your request rate.")
    with pytest.raises(InputError, match="^Cannot read group b of .*: Please reduce your request rate") as refused:
        zoo.read_group("b")
    assert not isinstance(refused.value, DamagedGroupError)


@pytest.mark.parametrize("name", ["../../escape", "x/../../../escape", "d//x", "d\\x"])
def test_names_stay_inside_the_folder(name, local, server, tmp_path, monkeypatch):
    zoo = Zoo(ADDRESS)
    sizes = zoo._folder._store.sizes  # pyright: ignore
    monkeypatch.setattr(zoo._folder._store, "sizes", lambda folder: {**sizes(folder), name: 3})  # pyright: ignore
    server.requests.clear()
    with pytest.raises(DamagedGroupError, match="which is none of a file in a folder"):
        zoo.read_group("b")
    assert not any("arrays/" in path.partition("?")[0] for _, path in server.requests)
    assert not list(tmp_path.parent.rglob("escape"))


def test_a_group_beyond_the_memory_limit_is_not_fetched(local, server, monkeypatch):
    zoo = Zoo(ADDRESS)
    sizes = zoo._folder._store.sizes  # pyright: ignore
    monkeypatch.setattr(zoo._folder._store, "sizes", lambda folder: {**sizes(folder), "d/more": 2**40})  # pyright: ignore
    server.requests.clear()
    with pytest.raises(
        InputError, match=f"^{ADDRESS}/groups/b/arrays would take 1 TiB .* Measure a copy of the zoo in"
    ):
        zoo.read_group("b")
    assert not any("arrays/" in path.partition("?")[0] for _, path in server.requests)


def test_zoos_are_not_written_there(local):
    for write in (lambda: Zoo.create(f"s3://{BUCKET}/new", data="digits"), lambda: Zoo(ADDRESS).writing().__enter__()):
        with pytest.raises(InputError, match="only measured tables are put into object stores. .*'aws s3 sync'"):
            write()
    assert not Path("s3:").exists()
    assert not os.path.lexists("s3:")
