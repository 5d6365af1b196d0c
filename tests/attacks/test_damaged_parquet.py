"""Changed bytes in Parquet files: told by the digest of mdjax's own, before pyarrow meets them; of others, no crash."""

import io
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import mdjax.parquet
from mdjax.errors import InputError
from mdjax.metrics.losses import Losses
from mdjax.parquet import read_frame, write_frame
from mdjax.parquet_digests import MARK
from mdjax.stores import LocalStore
from mdjax.sweeps.commits import Commits
from mdjax.sweeps.units import Cell, Unit
from mdjax.table import FRAMES, Table, read_configurations, read_table, write_table

FRAME = pd.DataFrame({"x": [1.0, None], "n": [1, 2], "name": ["a", "b"]})
DAMAGE = "it is damaged: its bytes do not fit their digest"


def content(frame=FRAME):
    file = io.BytesIO()
    write_frame(frame, file)
    return file.getvalue()


def foreign(frame=FRAME):
    """As another program writes it."""
    return frame.to_parquet(index=False)


def read(damaged):
    return read_frame(io.BytesIO(damaged))


def test_every_changed_byte_is_told_before_anything_is_parsed(monkeypatch):
    whole = content()
    at = whole.index(MARK)
    monkeypatch.setattr(mdjax.parquet.pq, "ParquetFile", lambda *a, **k: pytest.fail("pyarrow parsed damaged bytes"))
    for place in {*range(len(whole))} - {*range(at, at + len(MARK))}:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(ValueError, match="fit their digest|its end is missing"):
            read(bytes(damaged))


def test_without_its_mark_a_file_is_read_as_another_programs():
    whole = content()
    at = whole.index(MARK)
    for place in range(at, at + len(MARK)):
        pd.testing.assert_frame_equal(read(whole[:place] + b"?" + whole[place + 1 :]), FRAME)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole, at: whole[: at // 2] + whole[at // 2 + 7 :],
        lambda whole, at: whole[: at // 2] * 2 + whole[at // 2 :],
        lambda whole, at: whole[: at - 64] + bytes(64) + whole[at:],
        lambda whole, at: whole[: at + 40] + whole[at + 90 :],
        lambda whole, at: whole[:-8] + bytes(4) + whole[-4:],
        lambda whole, at: whole[:-8] + b"\xff" * 4 + whole[-4:],
        lambda whole, at: whole[:at] + whole,
        lambda whole, at: whole + whole[-8:],
        lambda whole, at: whole[at:],
        lambda whole, at: whole[: at + 24] + whole[at + 28 :],
    ],
)
def test_parts_lost_doubled_or_zeroed_are_told(damage):
    whole = content()
    with pytest.raises(ValueError, match=DAMAGE):
        read(damage(whole, whole.index(MARK)))


def test_a_cut_file_is_told_at_every_length():
    whole = content()
    for size in range(0, len(whole), 5):
        with pytest.raises(ValueError, match="its end is missing"):
            read(whole[:size])


def test_files_of_other_programs_are_read_and_those_that_they_rewrite(tmp_path):
    pd.testing.assert_frame_equal(read(foreign()), FRAME)
    path = tmp_path / "mdjax.parquet"
    write_frame(FRAME, path)
    pd.testing.assert_frame_equal(pd.read_parquet(path), FRAME)
    path.write_bytes(foreign(pd.read_parquet(path).assign(n=[7, 8])))
    assert read_frame(path)["n"].tolist() == [7, 8]
    # pyarrow keeps a file's own metadata when it writes its table again.
    write_frame(FRAME, path)
    pq.write_table(pq.read_table(path).slice(1), path)
    assert read_frame(path)["n"].tolist() == [2]


def test_a_changed_byte_of_a_footer_is_told_of_each_file_of_a_table(tmp_path):
    rows = pd.DataFrame({"configuration": ["c", "d"], "train_loss": [1.0, np.nan], "status": "ok"})
    write_table(tmp_path / "table", Table(rows, rows, rows))
    for name in FRAMES:
        path = tmp_path / "table" / f"{name}.parquet"
        whole = path.read_bytes()
        # The schema says that values of the column may be lacking; changed to one that may not.
        path.write_bytes(whole.replace(b"%\x02\x18\ntrain_loss", b"%\x00\x18\ntrain_loss"))
        assert path.read_bytes() != whole
        with pytest.raises(InputError, match=f"Cannot read .*{name}.parquet: {DAMAGE}. Run 'mdjax measure' again"):
            read_table(tmp_path / "table")
        if name == "configurations":
            with pytest.raises(InputError, match=DAMAGE):
                read_configurations(tmp_path / "table")
        path.write_bytes(whole)
    assert read_table(tmp_path / "table").models["train_loss"][0] == 1


def test_a_shard_with_a_changed_byte_is_done_again(tmp_path):
    keys = pd.Series(["a", "b"], name="model_id")
    unit = Unit(Losses(), Cell(keys.to_frame(), None, 1.0, 0.0), ((0,), (1,)), tuple(keys), "losses-0-0")
    commits = Commits(LocalStore(tmp_path))
    commits.commit(unit, pd.DataFrame({"key": keys, "train_loss": [1.0, 2.0], "status": "ok", "status_code": "ok"}))
    path = next(tmp_path.rglob("*.parquet"))
    whole = path.read_bytes()
    for damaged in (whole.replace(b"train_loss", b"trainXloss"), whole.replace(b"%\x02", b"%\x00"), whole[:-9]):
        path.write_bytes(damaged)
        assert commits.rows([unit], lambda unit, rows: True).empty
        assert not path.exists()
    path.write_bytes(whole)
    assert commits.rows([unit], lambda unit, rows: True)["train_loss"].tolist() == [1, 2]


def test_a_foreign_footer_whose_parts_disagree_does_not_end_the_process(tmp_path):
    whole = foreign()
    # Of column x: whether values may be lacking, the length of what is counted of them, and its type.
    for number, (sound, changed) in enumerate(
        [
            (b"%\x02\x18\x01x", b"%\x00\x18\x01x"),
            (b"%\x02\x18\x01x", b"%\x04\x18\x01x"),
            (b"%\x02\x18\x01n", b"%\x42\x18\x01n"),
            (b"\x15\n%\x02\x18\x01x", b"\x15\x0b%\x02\x18\x01x"),
        ]
    ):
        assert whole.count(sound) == 1
        (tmp_path / f"{number}.parquet").write_bytes(whole.replace(sound, changed))
    script = """
import sys
from pathlib import Path
from mdjax.parquet import read_frame
for path in sorted(Path(sys.argv[1]).glob("*.parquet")):
    try:
        read_frame(path)
    except Exception as error:
        print(path.stem)
"""
    found = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert (found.returncode, found.stdout.split()) == (0, ["0", "1", "2", "3"]), found.stderr


def test_a_frame_without_columns_is_one(tmp_path):
    """pyarrow divides by their number where nothing is read of them."""
    write_frame(pd.DataFrame(), tmp_path / "empty.parquet")
    assert read_frame(tmp_path / "empty.parquet").shape == (0, 0)
