"""Folders of x_train.npy, y_train.npy, x_test.npy and y_test.npy: what an .npz holds, as files of their own."""

import os
from pathlib import Path
from typing import Any

from mdjax.errors import InputError, first_line
from mdjax.inputs import expect_damage, open_regular
from mdjax.memory import check_content
from mdjax.zoo.arrays import ARRAYS, FACTS
from mdjax.zoo.npy import read_form, read_numbers


def is_in(folder: Path) -> bool:
    """Whether a folder has one of the four files."""
    return any(os.path.lexists(folder / f"{name}.npy") for name in ARRAYS)


def read(folder: Path) -> dict[str, Any]:
    """The arrays of a folder, and the facts beside them (num_classes.npy, layout.npy).

    Raises InputError, which names the file, for one that is missing, cut, of objects, or where all together would take
    more than the memory limit: every header is looked at before any array is read.
    """
    names = [*ARRAYS, *(fact for fact in FACTS if os.path.lexists(folder / f"{fact}.npy"))]
    needed = size = 0
    for name in names:
        form_needed, form_size = _attempt(folder / f"{name}.npy", lambda path: _size(path))
        needed, size = needed + form_needed, size + form_size
    check_content(f"The arrays of {folder}", needed, size)
    return {
        name: _attempt(folder / f"{name}.npy", lambda path: _numbers(path, is_input=path.name.startswith("x_")))
        for name in names
    }


def _attempt(path: Path, read: Any) -> Any:
    try:
        return read(path)
    except FileNotFoundError:
        raise InputError(
            f"{path.parent} has no file {path.name}. Save {', '.join(f'{name}.npy' for name in ARRAYS)} into it."
        ) from None
    except Exception as error:  # a damaged header can raise nearly anything
        expect_damage(error, str(path))
        raise InputError(f"Cannot read {path}: {first_line(error)}. Save it again with numpy.save.") from None


def _size(path: Path) -> tuple[int, int]:
    with open_regular(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        return read_form(file, size).needed, size


def _numbers(path: Path, *, is_input: bool) -> Any:
    with open_regular(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        return read_numbers(file, read_form(file, size), narrow=is_input)
