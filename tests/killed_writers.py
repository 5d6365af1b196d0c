"""What writers that were killed leave behind."""

import uuid
from pathlib import Path

from mdjax import files


def leftover_of_a_killed_writer(folder: Path, *, is_folder: bool = False, host: str = files._HOST) -> Path:
    """An unfinished file or folder whose writer, on a machine, is no more."""
    path = folder / f"{files.TEMPORARY}{host}-{uuid.uuid4().hex}"
    path.mkdir() if is_folder else path.write_text("half")
    return path
