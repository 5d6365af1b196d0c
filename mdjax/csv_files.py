"""CSV files that a spreadsheet shows as they are: no cell of text is taken for a formula.

A text that begins as a formula does, or with quotes before that, is written with one more quote before it, which
spreadsheets take for "this is text" and reading takes off again. Numbers are written as they are, negative ones too.
"""

import csv
import re
from pathlib import Path
from typing import IO, Any, BinaryIO

import pandas as pd

_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_QUOTED = re.compile(f"'{_FORMULA.pattern}")


def csv_text(frame: pd.DataFrame) -> str:
    """A frame, without its index, as the text of a CSV file."""
    written = frame.rename(columns=_neutral)
    for position in _texts(frame):
        written.isetitem(position, frame.iloc[:, position].astype(object).map(_neutral))  # pyright: ignore[reportArgumentType]
    # The library quotes a text with a line feed, but not one with a carriage return, which ends a line as well.
    returns = any("\r" in str(text) for n in _texts(frame) for text in (frame.columns[n], *frame.iloc[:, n]))
    return written.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL)


def read_csv(path: Path | IO[str] | BinaryIO) -> pd.DataFrame:
    """The frame of a CSV file with a header, one that `csv_text` made as it was; raises ValueError and OSError."""
    frame = pd.read_csv(path, low_memory=False)  # else a column's type depends on where the file is cut into pieces
    for position in _texts(frame):
        frame.isetitem(position, frame.iloc[:, position].map(_original))  # pyright: ignore[reportArgumentType]
    return frame.rename(columns=_original)


def _texts(frame: pd.DataFrame) -> list[int]:
    """The positions of the columns that may hold texts."""
    return [n for n, kind in enumerate(frame.dtypes) if not pd.api.types.is_numeric_dtype(kind)]


def _neutral(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def _original(value: Any) -> Any:
    return value[1:] if isinstance(value, str) and _QUOTED.match(value) else value
