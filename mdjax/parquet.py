"""Frames in Parquet files: written with checksums and a digest, and read after what they take is known.

Never loads JAX.
"""

import io
import json
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mdjax.errors import InputError
from mdjax.inputs import open_regular
from mdjax.memory import check_content
from mdjax.parquet_digests import check_digest, with_digest

_DEEPEST = 8
"""How deep lists may lie in each other; those that mdjax writes, of a loss surface, lie 2 deep."""

_BUFFER = 2**12
"""Bytes that are read of each column to learn whether it can be."""

_OBJECT, _LIST = 160, 256
"""Most bytes of a value that pandas holds as an object, such as a decimal, and of a list or a structure without what is
in it."""

_CHECKSUMS: Any = {"write_page_checksum": True}


def frame_bytes(frame: pd.DataFrame) -> bytes:
    """The content of a file that holds a frame as it is, without its index."""
    return with_digest(frame.to_parquet(index=False, **_CHECKSUMS))


def arrow_bytes(table: pa.Table) -> bytes:
    """The content of a file that holds a table of Arrow with its metadata."""
    content = io.BytesIO()
    pq.write_table(table, content, **_CHECKSUMS)
    return with_digest(content.getvalue())


def write_frame(frame: pd.DataFrame, path: Path | BinaryIO) -> None:
    """Write a frame as it is, without its index, to a path or an open file; made whole in memory first."""
    content = frame_bytes(frame)
    if isinstance(path, Path):
        path.write_bytes(content)
    else:
        path.write(content)


def read_frame(source: Path | BinaryIO, name: str = "") -> pd.DataFrame:
    """The frame in a file.

    source: its path, or the file opened for reading.
    name: as errors call it (default: the path).

    Raises OSError where it cannot be read, InputError where it would take more memory than the limit
    (`mdjax.memory`), ValueError for columns of other than numbers, times, texts, and lists and structures of them, and,
    as pyarrow raises many types for a damaged file, anything else.
    """
    if isinstance(source, Path):
        with open_regular(source) as file:
            return read_frame(file, name or str(source))
    metadata: Any = read_metadata(source)
    _check_names(metadata)
    for field in metadata.schema.to_arrow_schema():
        if not _is_counted(field.type):
            raise ValueError(
                f"its column {field.name[:40]} is of the type {str(field.type)[:40]}, not numbers or texts"
            )
    _check_size(source, metadata, source.seek(0, 2), name)
    source.seek(0)
    return pd.read_parquet(source, page_checksum_verification=True)


def read_metadata(source: BinaryIO) -> Any:
    """What a file, open for reading, says of its content, as pyarrow's FileMetaData; raises as `read_frame` does.

    Files that mdjax wrote are held against their digest; of others a changed byte may go unseen.
    """
    check_digest(source)
    source.seek(0)
    file: Any = pq.ParquetFile(source, buffer_size=_BUFFER)
    # Where metadata and schema disagree, asking for a column's metadata ends the process: pyarrow declares that it
    # raises nothing. Reading raises: it is begun, of no row, with every group of rows.
    for group in range(file.num_row_groups if file.schema_arrow.names else 0):  # without columns it divides by zero
        next(file.reader.iter_batches(0, row_groups=[group], column_indices=None, use_threads=False), None)
    return file.metadata


def _check_names(metadata: Any) -> None:
    """ValueError where a name comes twice, or the three places that tell the columns tell others.

    The footer has no checksum: a column whose name was damaged would be another one.
    """
    names = metadata.schema.to_arrow_schema().names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has two columns named {twice!r}")
    stored = {metadata.schema.column(k).path.split(".")[0] for k in range(metadata.num_columns)}
    told = json.loads((metadata.metadata or {}).get(b"pandas", b"{}")).get("columns")
    if told is not None and (
        [entry["field_name"] for entry in told] != names
        or any(entry["name"] not in (None, entry["field_name"]) for entry in told)
    ):
        raise ValueError("its columns are not those that it says it was written with")
    if not any("." in name for name in names) and stored != set(names):
        raise ValueError("its columns are not those that it says it was written with")


def _is_counted(kind: pa.DataType, depth: int = 0) -> bool:
    """Whether `_bytes_taken` knows what values of a type take."""
    if depth > _DEEPEST:
        return False
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type) or pa.types.is_primitive(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_counted(kind.value_type, depth + 1)
    if pa.types.is_struct(kind):
        return all(_is_counted(kind.field(k).type, depth + 1) for k in range(kind.num_fields))
    return _is_text(kind) or _is_plain(kind) or _is_object(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_plain(kind: pa.DataType) -> bool:
    return pa.types.is_null(kind) or (pa.types.is_primitive(kind) and not _is_object(kind))


def _is_object(kind: pa.DataType) -> bool:
    return pa.types.is_decimal(kind) or pa.types.is_date(kind) or pa.types.is_time(kind)


def _check_size(source: BinaryIO, metadata: Any, size: int, name: str) -> None:
    """InputError where the values take more than the limit; a value in a dictionary counts as often as it stands."""
    schema = metadata.schema.to_arrow_schema()
    simple = {field.name for field in schema if _is_plain(field.type)}
    least = most = 0
    for group in range(metadata.num_row_groups):
        for k in range(metadata.row_group(group).num_columns):
            column = metadata.row_group(group).column(k)
            count, expanded = max(column.num_values, 0), max(column.total_uncompressed_size, 0)
            least += max(8 * count, expanded)
            most += max(8 * count, expanded)
            if metadata.schema.column(k).path not in simple:
                is_text = column.physical_type == "BYTE_ARRAY"
                nested = _LIST * metadata.schema.column(k).path.count(".")
                most += count * (nested + (max(expanded, 64) if is_text else _OBJECT))
    what = f"The rows of {name}"
    check_content(what, least, size)
    try:
        check_content(what, most, size)
    except InputError:  # it may be less: the values are looked at, each text once
        others = [field.name for field in schema if field.name not in simple]
        columns = [metadata.schema.column(k) for k in range(metadata.num_columns)]
        texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
        source.seek(0)
        table = pq.read_table(source, columns=others, read_dictionary=texts, page_checksum_verification=True)
        taken = sum(_bytes_taken(chunk) for column in table.columns for chunk in column.chunks)
        check_content(what, least + taken, size)


def _bytes_taken(values: Any) -> int:
    """At most how many bytes values take in a frame; texts are entries of dictionaries."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        return len(values) * _longest(values.dictionary)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _LIST * len(values) + _bytes_taken(values.flatten())
    if pa.types.is_struct(kind):
        return _LIST * len(values) + sum(_bytes_taken(field) for field in values.flatten())
    if _is_text(kind):
        return len(values) * _longest(values)
    return len(values) * (_OBJECT if _is_object(kind) else 8)


def _longest(values: Any) -> int:
    """Bytes of the longest text, and what Python takes for each."""
    if not _is_text(values.type):
        return _OBJECT
    compute: Any = pc
    return 64 + ((compute.max(compute.binary_length(values)).as_py() if len(values) else 0) or 0)
