"""The table on disk: three Parquet files that a person opens with ordinary tools. Never loads JAX.

TABLE/models.parquet           one row per model
TABLE/pairs.parquet            one row per pair of models of a configuration
TABLE/configurations.parquet   one row per configuration, under the published feature names
TABLE/shards/                  finished units of work, for resuming (mdjax.sweeps.commits)

In each file `status` says in a sentence how a row's measurement went, and `status_code` in one word. The three files
change together (mdjax.file_sets), and each carries the digest of all three among its metadata: `read_table` never
returns files of different writings. A file that another program wrote has no digest and is taken as it is.
"""

import dataclasses
import hashlib
from contextlib import ExitStack
from numbers import Number
from pathlib import Path
from types import NoneType
from typing import BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mdjax import file_sets
from mdjax.csv_files import read_csv
from mdjax.errors import InputError, first_line
from mdjax.files import writing
from mdjax.memory import check_needed
from mdjax.parquet import arrow_bytes, read_frame, read_metadata

FRAMES = ("models", "pairs", "configurations")
_DIGEST = b"mdjax_table"
"""The entry of a file's metadata that holds the digest of the three files that were written together."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A measured zoo: three frames, of models, pairs and configurations."""

    models: pd.DataFrame
    pairs: pd.DataFrame
    configurations: pd.DataFrame


def write_table(path: Path, table: Table) -> Table:
    """Write the three Parquet files, all or none; returns the table as it is read there.

    Several processes may write one table at a time: it is then whole that of the last. InputError where the folder
    cannot be written, and, once it is, where the table takes more memory than the limit (`mdjax.memory`).
    """
    remedy = "Free space or choose a folder that you may write to, then run the same command again."
    contents = {name: getattr(table, name).to_parquet(index=False) for name in FRAMES}
    digest = hashlib.blake2b(b"".join(contents.values()), digest_size=16).hexdigest().encode()
    refusal = InputError()
    with writing(f"the table {path}", remedy), file_sets.changing(path) as folder:
        for name, content in contents.items():
            # Once more, with the digest: pandas keeps what describes the columns, but lets nothing be added.
            arrays = pq.read_table(pa.BufferReader(content))
            metadata = {**(arrays.schema.metadata or {}), _DIGEST: digest}
            (folder / f"{name}.parquet").write_bytes(arrow_bytes(arrays.replace_schema_metadata(metadata)))
        try:
            written = Table(*(read_frame(folder / f"{name}.parquet", str(path / f"{name}.parquet")) for name in FRAMES))
        except InputError as error:  # of the memory limit, which is told once they are there
            written, refusal = None, error
    if written is None:
        raise refusal
    return written


def read_table(path: str | Path) -> Table:
    """Read a table written by `mdjax measure`; InputError for files that are missing, damaged or of several tables."""
    path = Path(path)
    table = file_sets.until_consistent(lambda: _read_together(path))
    if table is None:
        raise InputError(
            f"The files of {path} are of different tables. Run 'mdjax measure' again: finished work is kept."
        )
    return table


def _read_together(path: Path) -> Table | None:
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


def read_configurations(path: str | Path) -> pd.DataFrame:
    """The configurations of a table folder, or the rows of one .parquet or .csv file with the published columns."""
    path = Path(path)
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


def _configurations(path: Path) -> pd.DataFrame:
    if path.is_dir():
        with _opened(path, "configurations") as file:
            return _read_parquet(file, path / "configurations.parquet")
    if path.suffix == ".csv" and path.is_file():
        try:
            check_needed(f"The rows of {path}", 4 * path.stat().st_size, "Give a smaller file")
            return read_csv(path)
        except InputError:
            raise
        except Exception as error:  # mostly ValueError; OverflowError and others for what is no table
            raise InputError(f"Cannot read {path}: {first_line(error)}. Give a CSV file with a header line.") from None
    if not path.exists():
        raise _no_table(path, path)
    return _read_parquet(path, path)


def _opened(folder: Path, name: str) -> BinaryIO:
    path = folder / f"{name}.parquet"
    try:
        return file_sets.open_newest(folder, path.name)
    except (FileNotFoundError, NotADirectoryError):
        raise _no_table(folder, path) from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _read_parquet(file: Path | BinaryIO, path: Path) -> pd.DataFrame:
    try:
        return read_frame(file, str(path))
    except InputError:
        raise
    except Exception as error:  # pyarrow raises many types for a cut file
        raise _unreadable(path, error) from None


def _no_table(asked: Path, path: Path) -> InputError:
    return InputError(f"{asked} is no table: {path} does not exist. Make one with 'mdjax measure'.")


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"Cannot read {path}: {first_line(error)}. Run 'mdjax measure' again: finished work is kept.")
