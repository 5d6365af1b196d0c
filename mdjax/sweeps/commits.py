"""Finished units of work in a folder: written once, looked up by name, whatever becomes of their writer."""

import contextlib
import os
import shutil
from pathlib import Path

import pandas as pd

from mdjax.errors import InputError
from mdjax.files import flush, make_writable, temporary_file, writing
from mdjax.inputs import is_passing
from mdjax.parquet import read_frame, write_frame
from mdjax.statuses import TRANSIENT

_NAME, _COLUMNS = "unit", "columns"
"""The entries of a file's attributes that say which unit it is of, so that files cannot be mistaken for each other, and
what its columns are."""


class Commits:
    """A folder of finished units; the first writer of a name wins, and nothing half-written is seen.

    Rows whose status may be another the next time (`mdjax.statuses.TRANSIENT`) are no finished work: a unit that holds
    one is neither kept nor, where an earlier version kept it, found.

    InputError, before anything is computed, where the folder cannot be written.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        with writing(f"the table {folder.parent}"):
            make_writable(folder)

    def read(self, name: str) -> pd.DataFrame | None:
        """The rows of a finished unit, or None where it has still to be done, or cannot be read just now.

        InputError where it would take more memory than the limit (`mdjax.memory`).
        """
        path = self.folder / f"{name}.parquet"
        if not path.exists() and not path.is_symlink():
            return None
        try:
            rows = read_frame(path)
            is_its_own = rows.attrs.pop(_NAME, name) == name and rows.attrs.pop(_COLUMNS, [*rows]) == [*rows]
            if is_its_own and is_finished(rows):
                return rows
        except InputError:
            raise
        except Exception as error:  # pyarrow raises many types for a cut file; the unit is simply done again
            if is_passing(error):
                return None
        self.discard(name)
        return None

    def discard(self, name: str) -> None:
        """Remove a unit that is damaged or not what its name says, so that it is done again."""
        path = self.folder / f"{name}.parquet"
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
            return
        with contextlib.suppress(OSError):
            path.unlink()

    def commit(self, name: str, rows: pd.DataFrame) -> None:
        """Store a unit's rows for good, all or nothing; a unit that is not finished is left out."""
        if not is_finished(rows):
            return
        path = self.folder / f"{name}.parquet"
        remedy = "Free space, then run the same command again: finished work is kept."
        with writing(str(path), remedy), temporary_file(self.folder) as temporary:
            named = rows.copy(deep=False)
            named.attrs = {_NAME: name, _COLUMNS: [*rows]}
            write_frame(named, temporary)
            flush(temporary)
            try:
                os.link(temporary, path)
            except FileExistsError:
                pass  # another process was faster
            except OSError:
                # No hard links on this file system. Names tell the content, so that either writer is right.
                temporary.replace(path)


def is_finished(rows: pd.DataFrame) -> bool:
    """Whether no row's status may be another the next time."""
    return TRANSIENT.isdisjoint(rows.get("status_code", ()))
