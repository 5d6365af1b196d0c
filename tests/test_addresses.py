"""Paths stay paths, addresses keep their slashes, and what is neither is refused."""

from pathlib import Path

import pytest

from mdjax.addresses import Address, located
from mdjax.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/a/table/", Address("s3://bucket/a/table")),
        ("S3://Bucket/Table", Address("s3://Bucket/Table")),
        ("gs://bucket", Address("gs://bucket")),
        ("file:///tmp/table", Path("/tmp/table")),
        ("a/table", Path("a/table")),
        ("s3", Path("s3")),
        (Path("a"), Path("a")),
        ("C:\\table", Path("C:\\table")),
        (Address("s3://b/t"), Address("s3://b/t")),
    ],
)
def test_located(text, expected):
    assert located(text) == expected


def test_parts():
    address = Address("s3://bucket/table") / "rows.csv"
    assert (str(address), address.protocol, address.suffix) == ("s3://bucket/table/rows.csv", "s3", ".csv")


def test_refused():
    with pytest.raises(InputError, match=r"^s3:// names no bucket\. Give s3://BUCKET/FOLDER\.$"):
        located("s3://")
    with pytest.raises(InputError, match="lost a slash as a path. Give it as a text, 's3://bucket/zoo'"):
        located(Path("s3://bucket/zoo"))
