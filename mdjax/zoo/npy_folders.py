"""Folders of x_train.npy, y_train.npy, x_test.npy and y_test.npy: what an .npz holds, as files of their own."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from mdjax.errors import InputError, first_line
from mdjax.inputs import expect_damage, open_regular
from mdjax.memory import check_content
from mdjax.zoo.arrays import ARRAYS, FACTS
from mdjax.zoo.draws import DRAWN, Choice, Draw, drawn_rows
from mdjax.zoo.npy import Form, largest, read_form, read_numbers, read_rows


def is_in(folder: Path) -> bool:
    """Whether a folder has one of the four files."""
    return any(os.path.lexists(folder / f"{name}.npy") for name in ARRAYS)


def read(folder: Path, draw: Choice | None = None) -> dict[str, Any]:
    """The arrays of a folder, or rows drawn from them, and the facts beside them (num_classes.npy, layout.npy).

    Of what is drawn from nothing else is read, but for labels, whose largest tells how many classes there are.

    Raises InputError, which names the file, for one that is missing, cut, of objects, or where all together would take
    more than the memory limit: every header is looked at before any array is read.
    """
    names = [*ARRAYS, *(fact for fact in FACTS if os.path.lexists(folder / f"{fact}.npy"))]
    files = {name: folder / f"{name}.npy" for name in names}
    headers = {name: _attempt(path, lambda file, size: (read_form(file, size), size)) for name, path in files.items()}
    forms = {name: form for name, (form, _) in headers.items()}
    rows, drawn = drawn_rows(str(folder), draw, {name: form.length for name, form in forms.items()})
    needed = sum(form.needed_by(rows.get(name)) for name, form in forms.items())
    check_content(f"The arrays of {folder}", needed, sum(size for _, size in headers.values()))

    def numbers(name: str) -> Any:
        def read(file: IO[bytes], size: int) -> Any:
            form, is_input = read_form(file, size), name.startswith("x_")
            chosen = rows.get(name)
            if chosen is None:
                return read_numbers(file, form, narrow=is_input)
            return read_rows(file, form, chosen, narrow=is_input, skip=True)

        return _attempt(files[name], read)

    found = {name: numbers(name) for name in names}
    if drawn is None:
        return found
    if not isinstance(draw, Draw):
        return found | {DRAWN: drawn}
    return found | {DRAWN: drawn._replace(largest_label=_attempt(files["y_train"], _largest))}


def _largest(file: IO[bytes], size: int) -> int | None:
    form: Form = read_form(file, size)
    return largest(file, form)


def _attempt(path: Path, read: Callable[[IO[bytes], int], Any]) -> Any:
    """What `read` makes of a file, and of how many bytes it has."""
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
            file.seek(0)
            return read(file, size)
    except FileNotFoundError:
        raise InputError(
            f"{path.parent} has no file {path.name}. Save {', '.join(f'{name}.npy' for name in ARRAYS)} into it."
        ) from None
    except Exception as error:  # a damaged header can raise nearly anything
        expect_damage(error, str(path))
        raise InputError(f"Cannot read {path}: {first_line(error)}. Save it again with numpy.save.") from None
