"""Arrays in an .npz, whose types and sizes are known before any is expanded."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from mdjax.archives import check_entries
from mdjax.errors import InputError, first_line
from mdjax.inputs import open_regular
from mdjax.memory import check_content
from mdjax.zoo.arrays import ARRAYS, FACTS
from mdjax.zoo.draws import DRAWN, Draw, drawn_rows
from mdjax.zoo.npy import Form, largest, read_form, read_numbers, read_rows


class Archive:
    """An open .npz; `names` are those of its arrays.

    ValueError, with the reason, for what `mdjax.archives.check_entries` refuses, such as an array that comes twice.
    """

    def __init__(self, file: BinaryIO):
        self._archive = zipfile.ZipFile(file)
        check_entries(self._archive, ".npy")
        self._entries = {entry.filename.removesuffix(".npy"): entry for entry in self._archive.infolist()}
        self.names = list(self._entries)

    def form(self, name: str) -> Form:
        """What the header of an array says; ValueError for one of objects, or that is not whole."""
        entry = self._entries[name]
        with self._archive.open(entry) as file:
            return read_form(file, entry.file_size)

    def read(self, name: str, rows: np.ndarray | None = None, *, narrow: bool = False) -> np.ndarray:
        """An array, or rows of it, `narrow` as for `read_numbers`; errors as zipfile raises them, of a wrong checksum
        for one."""

        def numbers(file: IO[bytes], form: Form) -> np.ndarray:
            if rows is None:
                return read_numbers(file, form, narrow=narrow)
            return read_rows(file, form, rows, narrow=narrow)

        return self._whole(name, numbers)

    def largest(self, name: str) -> int | None:
        """The greatest number of an array of labels, see `mdjax.zoo.npy.largest`."""
        return self._whole(name, largest)

    def _whole(self, name: str, read: Callable[[IO[bytes], Form], Any]) -> Any:
        entry = self._entries[name]
        with self._archive.open(entry) as file:
            found = read(file, read_form(file, entry.file_size))
            file.read(1)  # the checksum is compared at the end
        return found


def read_npz(path: Path, draw: Draw | None = None) -> dict[str, Any]:
    """The arrays of data in an .npz, or rows drawn from them, and the facts beside them.

    InputError, which names the file and the array. What is drawn from is unpacked from its first to its last number, a
    block at a time.
    """
    arrays: dict[str, Any] = {}
    name = ""
    try:
        with open_regular(path) as file:
            if not zipfile.is_zipfile(file):  # np.load would read a single array, or speak of pickles
                raise ValueError("it is no whole .npz file")
            content = Archive(file)
            for name in ARRAYS:
                if name not in content.names:
                    found = ", ".join(content.names)[:200] or "nothing"
                    raise InputError(f"{path} has no array {name}; it holds {found}. Save {', '.join(ARRAYS)}.")
            names = [*ARRAYS, *(fact for fact in FACTS if fact in content.names)]
            forms: dict[str, Form] = {}
            for name in names:
                forms[name] = content.form(name)
            rows, drawn = drawn_rows(str(path), draw, {name: form.length for name, form in forms.items()})
            needed = sum(form.needed_by(rows.get(name)) for name, form in forms.items())
            check_content(f"The arrays of {path}", needed, path.stat().st_size)
            for name in names:
                arrays[name] = content.read(name, rows.get(name), narrow=name.startswith("x_"))
            if drawn is not None:
                arrays[DRAWN] = drawn._replace(largest_label=content.largest("y_train"))
    except InputError:
        raise
    except Exception as error:  # a damaged archive can raise nearly anything
        where = f"array {name} of {path}" if name else str(path)
        raise InputError(f"Cannot read {where}: {first_line(error)}. Save it again with numpy.savez.") from None
    return arrays
