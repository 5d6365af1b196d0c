"""Memory and open files that run short, and limits: told as what they are, never as damage that is to be deleted."""

import errno
import os

import jax
import pandas as pd
import pyarrow.parquet as pq
import pytest

from mdjax import memory
from mdjax.calibration import growing
from mdjax.calibration.design import Cell
from mdjax.errors import InputError
from mdjax.models import Architecture
from mdjax.parquet import read_frame, write_frame
from mdjax.table_commands import _write_frame
from mdjax.zoo import store
from mdjax.zoo.store import DamagedGroupError, Zoo

ARCHITECTURE = Architecture("mlp", 3, (4, 4, 1), 3, 1)


@pytest.fixture
def zoo(tmp_path):
    found = Zoo.create(tmp_path / "zoo", data="digits")
    params, state = jax.vmap(ARCHITECTURE.init)(jax.random.split(jax.random.key(0), 1))
    found.append("g", ARCHITECTURE, [{"model_id": "m", "configuration": "c", "seed": 0}], params, state)
    return found


def raising(error):
    def fail(*given, **named):
        raise error

    return fail


def damage(path):
    """Another value in the last row of the last column."""
    column = pq.read_metadata(path).row_group(0).column(pq.read_metadata(path).num_columns - 1)
    content = bytearray(path.read_bytes())
    content[column.dictionary_page_offset + column.total_compressed_size - 1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("manifest", [True, False], ids=["manifest", "groups"])
def test_a_zoo_beyond_the_memory_limit_is_told_with_its_remedy(zoo, monkeypatch, manifest):
    if not manifest:
        (zoo.path / "manifest.parquet").unlink()
    monkeypatch.setattr(memory, "usable", lambda: 128)
    with pytest.raises(InputError, match=r"would take .* raise the limit: MDJAX_MEMORY=\d+KiB\.$") as told:
        Zoo(zoo.path)
    assert not isinstance(told.value, DamagedGroupError)


@pytest.mark.parametrize("function", ["read_frame", "restored"])
@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOMEM, errno.EACCES])
def test_a_shortage_is_no_damage_to_a_group(zoo, monkeypatch, function, code):
    monkeypatch.setattr(store, function, raising(OSError(code, os.strerror(code))))
    with pytest.raises(InputError, match=f"Cannot read group g of .*: {os.strerror(code)}. It may be sound") as told:
        zoo.read_group("g")
    assert not isinstance(told.value, DamagedGroupError)
    monkeypatch.setattr(store, function, raising(MemoryError()))
    with pytest.raises(MemoryError):
        zoo.read_group("g")


def test_a_shortage_that_tensorstore_tells_is_the_systems(zoo, monkeypatch):
    text = "Error opening \"x\" [os_error_code='24'] [source locations='y']"
    monkeypatch.setattr(store.restored.__globals__["ocp"].Checkpointer, "restore", raising(ValueError(text)))
    with pytest.raises(InputError, match="Cannot read group g of .*: Too many open files"):
        zoo.read_group("g")


def test_what_is_missing_or_cut_is_damage_still(zoo):
    (zoo.path / "manifest.parquet").unlink()
    path = zoo.path / "groups" / "g" / "models.parquet"
    path.write_bytes(path.read_bytes()[:100])
    assert "is damaged: models.parquet" in Zoo(zoo.path).damaged["g"]
    path.unlink()
    assert "is damaged: models.parquet" in Zoo(zoo.path).damaged["g"]


def test_a_calibrations_cells_have_checksums_and_outlive_a_shortage(tmp_path, monkeypatch):
    kept = object.__new__(growing._Kept)
    kept._folder = tmp_path
    rows = pd.DataFrame({"width": [4] * 50, "data_share": 1.0, "value": range(50)})
    kept.write(Cell(4, 1.0), rows)
    pd.testing.assert_frame_equal(kept.read()[Cell(4, 1.0)], rows)
    with monkeypatch.context() as patched, pytest.raises(InputError, match="Cannot read .*: Too many open files"):
        patched.setattr(growing, "read_frame", raising(OSError(errno.EMFILE, os.strerror(errno.EMFILE))))
        kept.read()
    with monkeypatch.context() as patched, pytest.raises(InputError, match="MDJAX_MEMORY="):
        patched.setattr(memory, "usable", lambda: 128)
        kept.read()
    path = next(tmp_path.glob("*.parquet"))
    damage(path)
    assert kept.read() == {}


def test_verdicts_in_parquet_have_checksums(tmp_path):
    path = tmp_path / "verdicts.parquet"
    _write_frame(pd.DataFrame({"value": range(500)}), path)
    damage(path)
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(path, page_checksum_verification=True)


def test_a_network_that_cannot_be_is_damage_to_its_group(zoo):
    path = zoo.path / "groups" / "g" / "models.parquet"
    write_frame(read_frame(path).assign(family="transformer"), path)
    (zoo.path / "manifest.parquet").unlink()
    assert "is damaged: models.parquet: Unknown architecture" in Zoo(zoo.path).damaged["g"]
    told = zoo.path / "groups" / "g" / "group.json"
    told.write_text(told.read_text().replace('"mlp"', '"transformer"'))
    with pytest.raises(DamagedGroupError, match="Unknown architecture"):
        zoo.read_group("g")
