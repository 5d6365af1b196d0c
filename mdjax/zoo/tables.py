"""`train.parquet` and `test.parquet`: a row an example; columns of numbers, or one of lists or images, and labels."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mdjax.errors import InputError, first_line
from mdjax.inputs import expect_damage, open_regular
from mdjax.memory import check_content
from mdjax.parquet import read_metadata
from mdjax.zoo import images
from mdjax.zoo.arrays import Layout

LABELS = ("label", "y", "target")
"""What the column of labels may be called."""

_FILES = ("train.parquet", "test.parquet")
_DEEPEST = 8
_compute: Any = pc


def is_in(folder: Path) -> bool:
    """Whether a folder has one of the two files."""
    return any((folder / name).is_file() for name in _FILES)


def read(folder: Path, layout: Layout | None) -> dict[str, Any]:
    """Inputs and labels of both tables, in the order of rows and of the training table's columns.

    One column is called as `LABELS` say. Of the others, one of lists, or of lists of lists, all of one length, gives
    inputs [n, length, ...], and one of encoded images (bytes, or a structure of `bytes` and `path`) images; otherwise
    all have to be of numbers, which are features [n, columns]: bytes (uint8) as they are, others as floats, or as whole
    numbers where the layout is tokens.

    Raises InputError, which names the file and the column, for anything else, for values that are missing, and where
    they would take more than the memory limit, before they are read.
    """
    train, test = (_table(folder / name) for name in _FILES)
    label = _label(train, folder / _FILES[0])
    names = [name for name in train.column_names if name != label]
    if sorted(test.column_names) != sorted(train.column_names):
        odd = sorted(set(test.column_names) ^ set(train.column_names))[0]
        raise InputError(
            f"{folder}: only one of {' and '.join(_FILES)} has the column {odd[:40]!r}. Give both the same."
        )
    if not names:
        raise InputError(f"{folder / _FILES[0]} has no column but {label!r}. Give the inputs too.")
    given: dict[str, Any] = {}
    for half, name, table in (("train", _FILES[0], train), ("test", _FILES[1], test)):
        try:
            given[f"x_{half}"] = _inputs(table, names, layout)
            given[f"y_{half}"] = _numbers(table, label)
        except Exception as error:  # Pillow and pyarrow raise nearly anything for damaged values
            expect_damage(error, str(folder / name))
            raise InputError(f"Cannot read {folder / name}: {first_line(error)}. Mend it.") from None
    if _is_encoded(train.schema.field(names[0]).type):
        given["layout"] = Layout.NHWC
    return given


def _table(path: Path) -> Any:
    try:
        with open_regular(path) as file:
            metadata = read_metadata(file)
            schema = metadata.schema.to_arrow_schema()
            if len(set(schema.names)) < len(schema.names):
                raise ValueError("it has two columns of one name")
            for field in schema:
                _check_type(field.name, field.type)
            size = file.seek(0, 2)
            check_content(f"The rows of {path}", _needed(metadata), size)
            file.seek(0)
            # Bytes stay entries of dictionaries: one that stands in each row would be as many.
            encoded = [column for column in _columns(metadata) if column.physical_type == "BYTE_ARRAY"]
            names = [column.path for column in encoded]
            return pq.read_table(file, read_dictionary=names, page_checksum_verification=True)
    except FileNotFoundError:
        raise InputError(f"{path.parent} has no file {path.name}. Give both {' and '.join(_FILES)}.") from None
    except Exception as error:  # pyarrow raises many types for damaged files
        expect_damage(error, str(path))
        raise InputError(f"Cannot read {path}: {first_line(error)}. Write it again.") from None


def _columns(metadata: Any) -> list[Any]:
    return [metadata.schema.column(number) for number in range(metadata.num_columns)]


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


def _label(table: Any, path: Path) -> str:
    found = [name for name in table.column_names if name in LABELS]
    if len(found) != 1:
        has = ", ".join(name[:40] for name in table.column_names[:10])
        raise InputError(
            f"{path} has {len(found) or 'no'} columns of labels: it holds {has}. Call one of them {', '.join(LABELS)}."
        )
    return found[0]


def _inputs(table: Any, names: list[str], layout: Layout | None) -> np.ndarray:
    kinds = [table.schema.field(name).type for name in names]
    if len(names) == 1 and _is_encoded(kinds[0]):
        return _decoded(table, names[0])
    if len(names) == 1 and _is_list(kinds[0]):
        return _numbers(table, names[0])
    for name, kind in zip(names, kinds, strict=True):
        if not _is_number(kind):
            raise ValueError(
                f"beside its column {name[:40]!r} of {str(kind)[:60]} there are others: give that one alone"
            )
    columns = [_numbers(table, name) for name in names]
    kinds = {column.dtype for column in columns}
    if layout is Layout.TOKENS or kinds == {np.dtype(np.uint8)}:
        return np.stack(columns, axis=1)
    found = np.empty((len(table), len(names)), np.float32)
    for number, column in enumerate(columns):
        with np.errstate(over="ignore"):  # told where values are checked
            found[:, number] = column
    return found


def _numbers(table: Any, name: str) -> np.ndarray:
    """A column as an array [n, ...]; ValueError where values are missing, or lists differ in length."""
    values, shape = table.column(name).combine_chunks(), [len(table)]
    if isinstance(values, pa.ChunkedArray):  # more than one array can hold, or none
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    while True:
        if values.null_count:
            raise ValueError(f"values of its column {name[:40]!r} are missing")
        if not _is_list(values.type):
            break
        lengths = _compute.list_value_length(values)
        low, high = (_compute.min_max(lengths)[end].as_py() or 0 for end in ("min", "max"))
        if low != high:
            raise ValueError(f"the lists of its column {name[:40]!r} have {low} to {high} values, not all the same")
        values = values.flatten()
        shape.append(low)
    return values.to_numpy(zero_copy_only=False).reshape(shape)


def _decoded(table: Any, name: str) -> np.ndarray:
    """The images of a column, uint8 [n, height, width, channels]."""
    shape: tuple[int, int, int] | None = None
    found, row = np.empty(0, np.uint8), 0
    for chunk in table.column(name).chunks:
        if pa.types.is_struct(chunk.type):
            chunk = chunk.field("bytes") if not chunk.null_count else chunk.flatten()[0]
        if chunk.null_count:
            raise ValueError(f"values of its column {name[:40]!r} are missing")
        for value in chunk:
            content = value.as_py()
            with images.open_image(io.BytesIO(content)) as image:
                other = images.shape_of(image)
                if shape is None:
                    shape = other
                    needed = 4 * len(table) * math.prod(shape)
                    check_content(f"The images of column {name[:40]}", needed, table.nbytes)
                    found = np.empty((len(table), *shape), np.uint8)
                if other != shape:
                    raise ValueError(
                        f"its image {row} is {images.form(other)}, but the first is {images.form(shape)}: give all one "
                        "size and one number of channels"
                    )
                found[row] = images.pixels(image)
            row += 1
    return found
