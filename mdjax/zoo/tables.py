"""`train.parquet` and `test.parquet`: a row an example; columns of numbers, or one of lists or images, and labels."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mdjax.errors import InputError, first_line
from mdjax.inputs import expect_damage, open_regular
from mdjax.memory import check_content
from mdjax.parquet import read_metadata
from mdjax.zoo import images
from mdjax.zoo.arrays import LABELS, Layout
from mdjax.zoo.draws import DRAWN, Choice, Draw, drawn_rows

_FILES = ("train.parquet", "test.parquet")
_DEEPEST = 8
_BATCH = 2**24  # bytes of rows that are read together, about
_compute: Any = pc


def is_in(folder: Path) -> bool:
    """Whether a folder has one of the two files."""
    return any((folder / name).is_file() for name in _FILES)


def read(folder: Path, layout: Layout | None, draw: Choice | None = None) -> dict[str, Any]:
    """Inputs and labels of both tables, in the order of rows and of the training table's columns.

    One column is called as `LABELS` say. Of the others, one of lists, or of lists of lists, all of one length, gives
    inputs [n, length, ...], and one of encoded images (bytes, or a structure of `bytes` and `path`) images; otherwise
    all have to be of numbers, which are features [n, columns]: bytes (uint8) as they are, others as floats, or as whole
    numbers where the layout is tokens. Of rows that `draw` leaves out at most those of row groups that have others are
    read, and none is decoded or held; but of a sample all labels, whose largest tells how many classes there are.

    Raises InputError, which names the file and the column, for anything else, for values that are missing, and where
    they would take more than the memory limit, before they are read.
    """
    given: dict[str, Any] = {}
    names: list[str] = []
    halves = {half: folder / file for half, file in zip(("train", "test"), _FILES)}
    rows: dict[str, np.ndarray] = {}
    drawn = None
    if draw is not None:
        counts = {half: _attempt(path, lambda file: read_metadata(file).num_rows) for half, path in halves.items()}
        rows, drawn = drawn_rows(
            str(folder), draw, {f"{array}_{half}": counts[half] for array in "xy" for half in halves}
        )
    for half, path in halves.items():
        chosen = rows.get(f"x_{half}")
        columns = _attempt(path, lambda file, path=path, chosen=chosen: _columns(path, file, chosen, draw))
        label = next(name for name in columns if name in LABELS)
        names = names or [name for name in columns if name != label]
        if odd := sorted(set(names) ^ (set(columns) - {label})):
            raise InputError(
                f"{folder}: only one of {' and '.join(_FILES)} has the column {odd[0][:40]!r}. Give both the same."
            )
        given[f"x_{half}"] = _inputs(path, [columns[name] for name in names], layout)
        given[f"y_{half}"] = columns[label].values
        if drawn is not None and half == "train":
            given[DRAWN] = drawn._replace(largest_label=columns[label].largest)
        if columns[names[0]].of_images:
            given["layout"] = Layout.NHWC
    return given


def _attempt(path: Path, read: Callable[[BinaryIO], Any]) -> Any:
    """What `read` makes of an open file; InputError, which names it, for one that is missing or damaged."""
    try:
        with open_regular(path) as file:
            return read(file)
    except FileNotFoundError:
        raise InputError(f"{path.parent} has no file {path.name}. Give both {' and '.join(_FILES)}.") from None
    except Exception as error:  # pyarrow and Pillow raise many types for damaged files
        expect_damage(error, str(path))
        raise InputError(f"Cannot read {path}: {first_line(error)}. Write it again.") from None


def _columns(path: Path, file: BinaryIO, chosen: np.ndarray | None, draw: Choice | None) -> "dict[str, _Column]":
    """A file's columns, by their names, of all its rows or of some; a batch at a time, so that none is held twice."""
    metadata = read_metadata(file)
    schema = metadata.schema.to_arrow_schema()
    if len(set(schema.names)) < len(schema.names):
        raise ValueError("it has two columns of one name")
    _check_label(path, schema.names)
    for field in schema:
        _check_type(field.name, field.type)
    if metadata.num_rows == 0:
        raise ValueError("it has no rows")
    size, total = file.seek(0, 2), metadata.num_rows
    count = total if chosen is None else len(chosen)
    needed = _needed(metadata)
    check_content(f"The rows of {path}", needed * count // total, size)
    columns = {name: _Column(name, count, str(path), size) for name in schema.names}
    # Bytes stay entries of dictionaries: one that stands in each row would be as many.
    stored = [metadata.schema.column(number) for number in range(metadata.num_columns)]
    encoded = [column.path for column in stored if column.physical_type == "BYTE_ARRAY"]
    file.seek(0)
    opened: Any = pq.ParquetFile(file, read_dictionary=encoded, page_checksum_verification=True)
    step = max(1, min(2**16, _BATCH * total // max(1, needed)))
    if chosen is not None:
        _add_rows(opened, columns, chosen, step, is_sample=isinstance(draw, Draw))
    else:
        first = 0
        for batch in opened.iter_batches(step, use_threads=False):
            for name, column in columns.items():
                column.add(batch.column(name), slice(first, first + batch.num_rows))
            first += batch.num_rows
    for column in columns.values():
        column.check_full()
    return columns


def _add_rows(opened: Any, columns: "dict[str, _Column]", rows: np.ndarray, step: int, *, is_sample: bool) -> None:
    """Give columns their values of some rows, of which each goes to its place in `rows`."""
    places = np.argsort(rows, kind="stable")
    wanted = rows[places]
    labels = [name for name in columns if name in LABELS]
    first = 0
    for number in range(opened.metadata.num_row_groups):
        after = first + opened.metadata.row_group(number).num_rows
        has_rows = np.diff(np.searchsorted(wanted, (first, after)))[0] > 0
        if has_rows or is_sample:
            names = [*columns] if has_rows else labels
            start = first
            for batch in opened.iter_batches(step, row_groups=[number], columns=names, use_threads=False):
                low, high = np.searchsorted(wanted, (start, start + batch.num_rows))
                for name in labels if is_sample else ():
                    columns[name].look_at(batch.column(name))
                for name in names if low < high else ():
                    columns[name].add(batch.column(name).take(pa.array(wanted[low:high] - start)), places[low:high])
                start += batch.num_rows
        first = after


class _Column:
    """A column whose values come by batches: its name, an array [n, ...], and the largest number looked at."""

    def __init__(self, name: str, count: int, where: str, size: int):
        self.name, self.of_images = name, False
        self.values = np.empty(0)
        self.largest: int | None = None
        self._count, self._where, self._size, self._taken = count, where, size, 0

    def look_at(self, values: Any) -> None:
        """Note the largest of a batch of whole numbers, which need not be kept."""
        if pa.types.is_integer(values.type) and (most := _compute.max(values).as_py()) is not None:
            self.largest = most if self.largest is None else max(self.largest, most)

    def add(self, values: Any, places: Any) -> None:
        """Take the values of a batch to these places; ValueError, with the reason, for what does not fit the first."""
        if not len(values):
            return
        if not _is_encoded(values.type):
            self._put(_numbers(values, self.name), places)
            return
        self.of_images = True
        if pa.types.is_struct(values.type):
            values = values.flatten()[values.type.get_field_index("bytes")]
        if values.null_count:
            raise ValueError(f"values of its column {self.name[:40]!r} are missing")
        for value, place in zip(values, np.arange(self._count)[places]):
            with images.open_image(io.BytesIO(value.as_py())) as image:
                # What differs from the first is refused before it is decoded.
                self._check(images.shape_of(image), np.dtype(np.uint8))
                self._put(images.pixels(image)[np.newaxis], [place])

    def check_full(self) -> None:
        """ValueError where rows are missing."""
        if not 0 < self._taken == self._count:
            raise ValueError(f"its column {self.name[:40]!r} has {self._taken} of {self._count} rows")

    def _put(self, values: np.ndarray, places: Any) -> None:
        self._check(values.shape[1:], values.dtype)
        self.values[places] = values
        self._taken += len(values)

    def _check(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """ValueError for values of another form than the first, for which the array is made."""
        if not self._taken:
            needed = self._count * math.prod(shape) * max(4, dtype.itemsize)
            check_content(f"The column {self.name[:40]} of {self._where}", needed, self._size)
            self.values = np.empty((self._count, *shape), dtype)
        if self.values.shape[1:] != shape:
            form, first = (f"{'×'.join(map(str, sizes))}" for sizes in (shape, self.values.shape[1:]))
            raise ValueError(
                f"row {self._taken} of its column {self.name[:40]!r} is {form}, but the first is {first}: give all "
                "rows one form"
            )


def _needed(metadata: Any) -> int:
    """Bytes that the values take at most: those of a column by its type, whole numbers and floats 8 each."""
    needed = 0
    for group in (metadata.row_group(number) for number in range(metadata.num_row_groups)):
        for column in (group.column(number) for number in range(group.num_columns)):
            needed += max(8 * max(column.num_values, 0), column.total_uncompressed_size)
    return needed


def _check_type(name: str, kind: Any) -> None:
    """ValueError for a column that is neither numbers, nor lists of them, nor encoded images."""
    inner, depth = kind, 0
    while _is_list(inner) and depth < _DEEPEST:
        inner, depth = inner.value_type, depth + 1
    if not (_is_number(inner) or (depth == 0 and _is_encoded(inner))):
        raise ValueError(
            f"its column {name[:40]!r} is of the type {str(kind)[:60]}, not numbers, lists of numbers, or images"
        )


def _is_number(kind: Any) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _is_list(kind: Any) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_encoded(kind: Any) -> bool:
    """Whether a column holds the bytes of image files: as such, in a dictionary, or in a structure as `bytes`."""
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        return names in (["bytes"], ["bytes", "path"], ["path", "bytes"]) and _is_encoded(kind.field("bytes").type)
    if pa.types.is_dictionary(kind):
        return _is_encoded(kind.value_type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _check_label(path: Path, names: list[str]) -> None:
    """InputError unless one column is that of labels, and there are others."""
    found = [name for name in names if name in LABELS]
    if len(found) != 1:
        has = ", ".join(name[:40] for name in names[:10])
        raise InputError(
            f"{path} has {len(found) or 'no'} columns of labels: it holds {has}. Call one of them {', '.join(LABELS)}."
        )
    if len(names) == 1:
        raise InputError(f"{path} has no column but {found[0]!r}. Give the inputs too.")


def _inputs(path: Path, columns: list[_Column], layout: Layout | None) -> np.ndarray:
    if len(columns) == 1 and columns[0].values.ndim > 1:
        return columns[0].values
    for column in columns:
        if column.values.ndim > 1:
            raise InputError(f"{path} has others beside its column {column.name[:40]!r} of lists. Give that one alone.")
    found = [column.values for column in columns]
    if layout is Layout.TOKENS or {values.dtype for values in found} == {np.dtype(np.uint8)}:
        return np.stack(found, axis=1)
    with np.errstate(over="ignore"):  # told where values are checked
        return np.stack([values.astype(np.float32) for values in found], axis=1)


def _numbers(values: Any, name: str) -> np.ndarray:
    """Values as an array [n, ...]; ValueError where some are missing, or lists differ in length."""
    shape = [len(values)]
    while True:
        if values.null_count:
            raise ValueError(f"values of its column {name[:40]!r} are missing")
        if not _is_list(values.type):
            return values.to_numpy(zero_copy_only=False).reshape(shape)
        lengths = _compute.list_value_length(values)
        low, high = (_compute.min_max(lengths)[end].as_py() or 0 for end in ("min", "max"))
        if low != high:
            raise ValueError(f"the lists of its column {name[:40]!r} have {low} to {high} values, not all the same")
        values = values.flatten()
        shape.append(low)
