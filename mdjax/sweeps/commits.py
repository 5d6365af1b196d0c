"""Finished units of work in a folder: written once, looked up by name, whatever becomes of their writer."""

import os
from pathlib import Path

import pandas as pd

from mdjax.files import make_writable, remove_leftovers, temporary_beside, writing
from mdjax.statuses import TRANSIENT


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
            remove_leftovers(folder)

    def read(self, name: str) -> pd.DataFrame | None:
        """The rows of a finished unit, or None where it has still to be done."""
        path = self.folder / f"{name}.parquet"
        if not path.exists():
            return None
        try:
            rows = pd.read_parquet(path)
            if is_finished(rows):
                return rows
        except Exception:  # pyarrow raises many types for a cut file; the unit is simply done again
            pass
        path.unlink(missing_ok=True)
        return None

    def commit(self, name: str, rows: pd.DataFrame) -> None:
        """Store a unit's rows for good, all or nothing; a unit that is not finished is left out."""
        if not is_finished(rows):
            return
        path = self.folder / f"{name}.parquet"
        temporary = temporary_beside(path)
        with writing(str(path), "Free space, then run the same command again: finished work is kept."):
            rows.to_parquet(temporary, index=False)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            try:
                os.link(temporary, path)
                temporary.unlink()
            except FileExistsError:
                temporary.unlink()
            except OSError:
                # No hard links on this file system. Names tell the content, so that either writer is right.
                temporary.replace(path)


def is_finished(rows: pd.DataFrame) -> bool:
    """Whether no row's status may be another the next time."""
    return TRANSIENT.isdisjoint(rows.get("status_code", ()))
