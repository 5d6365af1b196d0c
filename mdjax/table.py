"""The table on disk: three Parquet files that a person opens with ordinary tools. Never loads JAX.

TABLE/models.parquet           one row per model
TABLE/pairs.parquet            one row per pair of models of a configuration
TABLE/configurations.parquet   one row per configuration, under the published feature names
TABLE/shards/                  finished units of work, for resuming (mdjax.sweeps.commits)

In each file `status` says in a sentence how a row's measurement went, and `status_code` in one word.
"""

import dataclasses
from pathlib import Path

import pandas as pd

from mdjax.csv_files import read_csv
from mdjax.errors import InputError, first_line
from mdjax.files import refuse_irregular, replacing, writing

FRAMES = ("models", "pairs", "configurations")


@dataclasses.dataclass(frozen=True)
class Table:
    """A measured zoo: three frames, of models, pairs and configurations."""

    models: pd.DataFrame
    pairs: pd.DataFrame
    configurations: pd.DataFrame


def write_table(path: Path, table: Table) -> None:
    """Write the three Parquet files, each replaced in one step; InputError where the folder cannot be written."""
    with writing(f"the table {path}"):
        for name in FRAMES:
            with replacing(path / f"{name}.parquet") as temporary:
                getattr(table, name).to_parquet(temporary, index=False)


def read_table(path: str | Path) -> Table:
    """Read a table written by `mdjax measure`."""
    path = Path(path)
    refuse_irregular(*(path / f"{name}.parquet" for name in FRAMES))
    return Table(*(_read_parquet(path / f"{name}.parquet", path) for name in FRAMES))


def read_configurations(path: str | Path) -> pd.DataFrame:
    """The configurations of a table folder, or the rows of one .parquet or .csv file with the published columns."""
    path = Path(path)
    if path.is_dir():
        refuse_irregular(path / "configurations.parquet")
        return _read_parquet(path / "configurations.parquet", path)
    if path.suffix == ".csv" and path.is_file():
        try:
            return read_csv(path)
        except (ValueError, OSError) as error:
            raise InputError(f"Cannot read {path}: {first_line(error)}. Give a CSV file with a header line.") from None
    return _read_parquet(path, path)


def _read_parquet(path: Path, asked: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise InputError(f"{asked} is no table: {path} does not exist. Make one with 'mdjax measure'.") from None
    except Exception as error:  # pyarrow raises many types for a cut file
        raise InputError(
            f"Cannot read {path}: {first_line(error)}. Run 'mdjax measure' again: finished work is kept."
        ) from None
