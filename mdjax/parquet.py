"""Frames in Parquet files: written with checksums, and read after what they take is known. Never loads JAX."""

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

CHECKSUMS: Any = {"write_page_checksum": True}
"""What every writer of Parquet files passes: files without are read too, but a changed byte in them may go unseen."""


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame as it is, without its index."""
    frame.to_parquet(path, index=False, **CHECKSUMS)


def read_frame(source: Path | BinaryIO, name: str = "") -> pd.DataFrame:
    """The frame in a file.

    source: its path, or the file opened for reading.
    name: as errors call it (default: the path).

    Raises OSError where it cannot be read, InputError where it would take more memory than the limit
    (`mdjax.memory`), and, as pyarrow raises many types for a damaged file, anything else.
    """
    if isinstance(source, Path):
        with open_regular(source) as file:
            return read_frame(file, name or str(source))
    size = source.seek(0, 2)
    source.seek(0)
    metadata: Any = pq.read_metadata(source)
    _check_names(metadata)
    _check_size(source, metadata, size, name)
    source.seek(0)
    return pd.read_parquet(source, page_checksum_verification=True)


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


def _check_size(source: BinaryIO, metadata: Any, size: int, name: str) -> None:
    """InputError where the values take more than the limit; a value in a dictionary counts as often as it stands."""
    least = most = 0
    for group in range(metadata.num_row_groups):
        for k in range(metadata.row_group(group).num_columns):
            column = metadata.row_group(group).column(k)
            count, expanded = max(column.num_values, 0), max(column.total_uncompressed_size, 0)
            is_text = column.physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")
            least += max(8 * count, expanded)
            most += max(8 * count, expanded) if not is_text else count * max(expanded, 64)
    what = f"The rows of {name}"
    check_content(what, least, size)
    try:
        check_content(what, most, size)
    except InputError:  # it may be less: the texts are looked at, each once
        check_content(what, least + _text_bytes(source, metadata), size)


def _text_bytes(source: BinaryIO, metadata: Any) -> int:
    """At most how many bytes the texts of a file take."""
    schema = metadata.schema.to_arrow_schema()
    texts = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    source.seek(0)
    table = pq.read_table(source, columns=texts, read_dictionary=texts, page_checksum_verification=True)
    compute: Any = pc
    total = 0
    for column in table.columns:
        for chunk in column.chunks:
            values = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk
            longest = compute.max(compute.binary_length(values)).as_py() if len(values) else 0
            total += len(chunk) * (64 + (longest or 0))
    return total
