"""The table on disk: three Parquet files that a person opens with ordinary tools. Never loads JAX.

TABLE/models.parquet           one row per model
TABLE/pairs.parquet            one row per pair of models of a configuration
TABLE/configurations.parquet   one row per configuration, under the published feature names
TABLE/shards/                  finished units of work, for resuming (mdjax.sweeps.commits)

In each file `status` says in a sentence how a row's measurement went, and `status_code` in one word. The three files
change together (mdjax.file_sets), and each carries the digest of all three among its metadata: `read_table` never
returns files of different writings. A file that another program wrote has no digest and is taken as it is.

In an object store (mdjax.stores) they are three objects, put one after the other: there the digests alone tell.
"""

import dataclasses
import hashlib
import importlib
import io
import math
import random
import time
from collections.abc import Mapping
from contextlib import ExitStack
from numbers import Number
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import Any, BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mdjax import file_sets
from mdjax.addresses import Address, located
from mdjax.columns import described
from mdjax.csv_files import read_csv
from mdjax.errors import InputError, first_line
from mdjax.escapes import printable
from mdjax.files import writing
from mdjax.inputs import expect_damage
from mdjax.memory import check_needed
from mdjax.parquet import arrow_bytes, read_frame, read_metadata
from mdjax.statuses import StatusCode
from mdjax.stores import store_of

FRAMES = ("models", "pairs", "configurations")

_SHOWN = 6
"""Configurations that are printed."""

_DIGEST = b"mdjax_table"
"""The entry of a file's metadata that holds the digest of the three files that were written together."""

_TRIES, _PAUSE = 8, 0.25
"""How often three objects are read, or put, because they were of several writings, and by how many seconds the pauses
between the tries grow."""


@dataclasses.dataclass(frozen=True, repr=False)
class Table:
    """A measured zoo: three frames, of models, pairs and configurations; prints as a short table of its features."""

    models: pd.DataFrame
    pairs: pd.DataFrame
    configurations: pd.DataFrame

    @property
    def plot(self) -> Any:
        """Pictures of single models and pairs, `table.plot.density()` and its like (`mdjax.report.plots.Plots`)."""
        # By name: a table needs no pictures, and what draws them reads tables.
        return importlib.import_module("mdjax.report.plots").Plots(self.models, self.pairs, self.configurations)

    def __repr__(self) -> str:
        return f"{self._headline}\n{self._summary.to_string(float_format=_brief)}"

    def _repr_html_(self) -> str:
        return f"<p>{self._headline}</p>{self._summary.to_html(float_format=_brief, escape=True)}"

    @property
    def _headline(self) -> str:
        counts = [f"{len(getattr(self, name))} {name}" for name in FRAMES]
        bad = int((self.models["status_code"] != StatusCode.OK.value).sum()) if "status_code" in self.models else 0
        more = len(self.configurations) - _SHOWN
        shown = f"; the first {_SHOWN} configurations" if more > 0 else ""
        told = f"; {bad} models with a status" if bad else ""
        return f"Table of {', '.join(counts)}{told}{shown}"

    @property
    def _summary(self) -> pd.DataFrame:
        """The features of the first configurations, one column each, with the standard errors that are known."""
        table = self.configurations.head(_SHOWN)
        features = described(self.configurations)
        names = [name for name in features if name in table] or [
            str(name) for name in table if table[name].dtype.kind == "f" and not str(name).endswith("_se")
        ]
        titles = [printable(features[name].label) if name in features else printable(name) for name in names]
        columns = {}
        for number, row in enumerate(table.to_dict("records")):
            texts = []
            for name in names:
                error = row.get(f"{name}_se")
                known = isinstance(error, float) and math.isfinite(error) and error > 0
                texts.append(_brief(row[name]) + (f" ± {_brief(error)}" if known else ""))
            columns[printable(str(row.get("configuration", number)))] = texts
        return pd.DataFrame(columns, index=pd.Index(titles))


def _brief(value: Any) -> str:
    return "" if pd.isna(value) else f"{value:.4g}"


def write_table(path: Path | Address, table: Table) -> Table:
    """Write the three Parquet files, all or none; returns the table as it is read there.

    Several processes may write one table at a time: it is then whole that of the last. InputError where the folder, or
    the object store, cannot be written, and, once it is, where the table takes more memory than the limit
    (`mdjax.memory`). In an object store readers who come between two of the files wait for the last.
    """
    remedy = "Free space or choose a folder that you may write to, then run the same command again."
    contents = _encoded(table)
    with writing(f"the table {path}", remedy):
        if isinstance(path, Address):
            _put(path, contents)
        else:
            with file_sets.changing(path) as folder:
                for name, content in contents.items():
                    (folder / f"{name}.parquet").write_bytes(content)
    # The memory limit is told once they are there.
    return Table(*(_read_parquet(io.BytesIO(contents[name]), path / f"{name}.parquet") for name in FRAMES))


def _encoded(table: Table) -> dict[str, bytes]:
    """The three files."""
    contents = {name: getattr(table, name).to_parquet(index=False) for name in FRAMES}
    digest = hashlib.blake2b(b"".join(contents.values()), digest_size=16).hexdigest().encode()
    for name, content in contents.items():
        # Once more, with the digest: pandas keeps what describes the columns, but lets nothing be added.
        arrays = pq.read_table(pa.BufferReader(content))
        metadata = {**(arrays.schema.metadata or {}), _DIGEST: digest}
        contents[name] = arrow_bytes(arrays.replace_schema_metadata(metadata))
    return contents


def _put(address: Address, contents: Mapping[str, bytes]) -> None:
    """Put the three objects, again where another writer's came between them, which would stay so."""
    store = store_of(address)
    for attempt in range(_TRIES):
        for name, content in contents.items():
            store.write(f"{name}.parquet", content)
        found = (store.read(f"{name}.parquet") for name in FRAMES)
        if len({_told_digest(io.BytesIO(content or b"")) for content in found}) == 1:
            return
        time.sleep(_PAUSE * (attempt + random.random()))


def read_table(path: str | PathLike[str] | Address) -> Table:
    """Read a table written by `mdjax measure`; InputError for files that are missing, damaged or of several tables."""
    place = located(path)
    if isinstance(place, Address):
        table = file_sets.until_consistent(lambda: _read_together(place), tries=_TRIES, pause=_PAUSE)
    else:
        table = file_sets.until_consistent(lambda: _read_together(place))
    if table is None:
        raise InputError(
            f"The files of {place} are of different tables. Run 'mdjax measure' again: finished work is kept."
        )
    return table


def _read_together(path: Path | Address) -> Table | None:
    """The three files, opened before any is read; None where they were not written together."""
    with ExitStack() as stack:
        files = {name: stack.enter_context(_opened(path, name)) for name in FRAMES}
        if len({_told_digest(file) for file in files.values()} - {None}) > 1:
            return None
        return Table(*(_read_parquet(file, path / f"{name}.parquet") for name, file in files.items()))


def _told_digest(file: BinaryIO) -> bytes | None:
    try:
        return (read_metadata(file).metadata or {}).get(_DIGEST)
    except Exception:  # of a damaged file, which is told when it is read
        return None
    finally:
        file.seek(0)


def read_configurations(path: str | PathLike[str] | Address) -> pd.DataFrame:
    """The configurations of a table folder, or the rows of one .parquet or .csv file with the published columns."""
    path = located(path)
    table = _configurations(path)
    for name in table.columns:
        kinds = {type(value) for value in table[name]} if table[name].dtype == object else set()
        if nested := sorted(
            kind.__name__ for kind in kinds if not issubclass(kind, str | Number | NoneType | type(pd.NA))
        ):
            raise InputError(f"Column {name} of {path} holds {nested[0]!r}. Give numbers and texts.")
        if int in kinds and any(isinstance(value, int) and abs(value) >= 2**63 for value in table[name]):
            raise InputError(f"Column {name} of {path} holds a number beyond 64 bits. Give smaller ones.")
    return table


def read_measured(path: str | PathLike[str] | Address) -> Table | pd.DataFrame:
    """All that there is of a table: the three frames of a folder that has them, else its configurations.

    Those of a `.parquet` or `.csv` file, or of a folder that holds nothing else, are taken alone. InputError as for
    `read_table` and `read_configurations`.
    """
    configurations, place = read_configurations(path), located(path)
    if place.suffix in (".csv", ".parquet"):
        return configurations
    if not isinstance(place, Address) and not all(
        file_sets.newest(place, f"{name}.parquet").exists() for name in FRAMES
    ):
        return configurations
    table = read_table(place)
    return Table(table.models, table.pairs, configurations)


def _configurations(path: Path | Address) -> pd.DataFrame:
    if isinstance(path, Address):
        return _configurations_at(path)
    if path.is_dir():
        with _opened(path, "configurations") as file:
            return _read_parquet(file, path / "configurations.parquet")
    if path.suffix == ".csv" and path.is_file():
        return _read_csv(path, path, path.stat().st_size)
    if not path.exists():
        raise _no_table(path, path)
    return _read_parquet(path, path)


def _configurations_at(address: Address) -> pd.DataFrame:
    if address.suffix not in (".csv", ".parquet"):
        with _opened(address, "configurations") as file:
            return _read_parquet(file, address / "configurations.parquet")
    file = _fetched(address.parent, address.name, address)
    if address.suffix == ".csv":
        return _read_csv(file, address, len(file.getbuffer()))
    return _read_parquet(file, address)


def _read_csv(file: Path | BinaryIO, path: Path | Address, size: int) -> pd.DataFrame:
    try:
        check_needed(f"The rows of {path}", 4 * size, "Give a smaller file")
        return read_csv(file)
    except InputError:
        raise
    except Exception as error:  # mostly ValueError; OverflowError and others for what is no table
        raise InputError(f"Cannot read {path}: {first_line(error)}. Give a CSV file with a header line.") from None


def _opened(folder: Path | Address, name: str) -> BinaryIO:
    path = folder / f"{name}.parquet"
    if isinstance(folder, Address):
        return _fetched(folder, f"{name}.parquet", folder)
    try:
        return file_sets.open_newest(folder, f"{name}.parquet")
    except (FileNotFoundError, NotADirectoryError):
        raise _no_table(folder, path) from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _fetched(folder: Address, name: str, asked: Address) -> io.BytesIO:
    """An object of a store; InputError where it is missing, or larger than the memory limit."""
    try:
        content = store_of(folder).read(name)
    except OSError as error:
        expect_damage(error, str(folder / name))
        raise _unreadable(folder / name, error) from None
    if content is None:
        raise _no_table(asked, folder / name)
    return io.BytesIO(content)


def _read_parquet(file: Path | BinaryIO, path: Path | Address) -> pd.DataFrame:
    try:
        return read_frame(file, str(path))
    except InputError:
        raise
    except Exception as error:  # pyarrow raises many types for a cut file
        raise _unreadable(path, error) from None


def _no_table(asked: Path | Address, path: Path | Address) -> InputError:
    return InputError(f"{asked} is no table: {path} does not exist. Make one with 'mdjax measure'.")


def _unreadable(path: Path | Address, error: Exception) -> InputError:
    return InputError(f"Cannot read {path}: {first_line(error)}. Run 'mdjax measure' again: finished work is kept.")
