"""Tables: signed logarithms, standard errors, shards that survive anything."""

import itertools
import os

import numpy as np
import pandas as pd
import pytest

from mdjax import table
from mdjax.errors import InputError


def test_signed_log_is_the_logarithm_where_that_exists_and_ordered_everywhere():
    values = np.array([0.1, 1, 10, 1e5])
    np.testing.assert_allclose(table.signed_log(values), np.log(values), atol=1e-4)
    wide = table.signed_log(np.array([-1e5, -1, -1e-3, 0, 1e-3, 1, 1e5]))
    assert (np.diff(wide) > 0).all()
    assert np.isfinite(wide).all()


def test_the_error_of_pairs_that_share_models_is_honest():
    """Differences that add up over models: the mean over all pairs of five models, 2,000 times."""
    random = np.random.default_rng(0)
    pairs = list(itertools.combinations(range(5), 2))
    effects = random.normal(size=(2000, 5))
    rows = pd.DataFrame(
        {
            "configuration": np.repeat(np.arange(2000), len(pairs)),
            "model_a": [f"m{a}" for a, _ in pairs] * 2000,
            "model_b": [f"m{b}" for _, b in pairs] * 2000,
            "CKA": np.concatenate([[e[a] + e[b] for a, b in pairs] for e in effects]),
        }
    )
    errors = table._jackknife_se(rows, "CKA")
    spread = rows.groupby("configuration")["CKA"].mean().std()
    assert np.sqrt((errors**2).mean()) == pytest.approx(spread, rel=0.05)
    disjoint = rows[(rows["model_a"] == "m0") & (rows["model_b"] == "m1")]
    assert table._jackknife_se(disjoint, "CKA").empty


@pytest.fixture
def shards(tmp_path):
    return table.Shards(tmp_path / "shards")


FRAME = pd.DataFrame({"model_id": ["a", "b"], "value": [1.0, np.nan]})


@pytest.mark.parametrize("links", [True, False])
def test_a_shard_comes_out_as_it_went_in(shards, links, monkeypatch):
    if not links:  # as on file systems without hard links
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError("no links")))
    assert shards.read("x") is None
    shards.commit("x", FRAME)
    pd.testing.assert_frame_equal(shards.read("x"), FRAME)
    assert [path.name for path in shards.folder.iterdir()] == ["x.parquet"]


def test_the_first_writer_of_a_shard_wins(shards):
    shards.commit("x", FRAME)
    shards.commit("x", FRAME.assign(value=7.0))
    pd.testing.assert_frame_equal(shards.read("x"), FRAME)


def test_a_cut_shard_is_done_again(shards):
    shards.commit("x", FRAME)
    path = shards.folder / "x.parquet"
    path.write_bytes(path.read_bytes()[:20])
    assert shards.read("x") is None
    shards.commit("x", FRAME)
    pd.testing.assert_frame_equal(shards.read("x"), FRAME)


def test_a_damaged_table_is_told_in_one_sentence(tmp_path):
    (tmp_path / "configurations.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="Cannot read .*configurations.parquet: .*Run 'mdjax measure' again"):
        table.read_configurations(tmp_path)
    with pytest.raises(InputError, match="is no table"):
        table.read_table(tmp_path / "none")
