"""Tables on disk: what cannot be read is told in one sentence."""

import pytest

from mdjax import table
from mdjax.errors import InputError


def test_a_damaged_table_is_told_in_one_sentence(tmp_path):
    (tmp_path / "configurations.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="Cannot read .*configurations.parquet: .*Run 'mdjax measure' again"):
        table.read_configurations(tmp_path)
    with pytest.raises(InputError, match="is no table"):
        table.read_table(tmp_path / "none")
