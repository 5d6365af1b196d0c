"""Finished units of work in a folder: written once, looked up by name, whatever becomes of their writer."""

import os
from pathlib import Path

import pandas as pd

from mdjax.files import flush, make_writable, temporary_file, writing


class Commits:
    """A folder of finished units; the first writer of a name wins, and nothing half-written is seen.

    InputError, before anything is computed, where the folder cannot be written.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        with writing(f"the table {folder.parent}"):
            make_writable(folder)

    def read(self, name: str) -> pd.DataFrame | None:
        """The rows of a finished unit, or None where it has still to be done."""
        path = self.folder / f"{name}.parquet"
        if not path.exists():
            return None
        try:
            return pd.read_parquet(path)
        except Exception:  # pyarrow raises many types for a cut file; the unit is simply done again
            path.unlink(missing_ok=True)
            return None

    def commit(self, name: str, rows: pd.DataFrame) -> None:
        """Store a unit's rows for good, all or nothing."""
        path = self.folder / f"{name}.parquet"
        remedy = "Free space, then run the same command again: finished work is kept."
        with writing(str(path), remedy), temporary_file(self.folder) as temporary:
            rows.to_parquet(temporary, index=False)
            flush(temporary)
            try:
                os.link(temporary, path)
            except FileExistsError:
                pass  # another process was faster
            except OSError:
                # No hard links on this file system. Names tell the content, so that either writer is right.
                temporary.replace(path)
