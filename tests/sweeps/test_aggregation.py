"""From the rows of units to frames: statuses, signed logarithms, standard errors, described features."""

import itertools

import numpy as np
import pandas as pd
import pytest

from mdjax.columns import described
from mdjax.metrics import METRICS, Hessian, Losses, Similarity
from mdjax.statuses import Status, StatusCode
from mdjax.sweeps.aggregation import _jackknife_se, aggregate, compose, signed_log, with_status


def test_signed_log_is_the_logarithm_where_that_exists_and_ordered_everywhere():
    values = np.array([0.1, 1, 10, 1e5])
    np.testing.assert_allclose(signed_log(values), np.log(values), atol=1e-4)
    wide = signed_log(np.array([-1e5, -1, -1e-3, 0, 1e-3, 1, 1e5]))
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
    errors = _jackknife_se(rows, "CKA")
    spread = rows.groupby("configuration")["CKA"].mean().std()
    assert np.sqrt((errors**2).mean()) == pytest.approx(spread, rel=0.05)
    disjoint = rows[(rows["model_a"] == "m0") & (rows["model_b"] == "m1")]
    assert _jackknife_se(disjoint, "CKA").empty


def test_a_status_is_a_sentence_and_a_code():
    found = Status(StatusCode.DIVERGED, "curve diverged")
    assert with_status({"x": 1.0}) == {"x": 1.0, "status": "ok", "status_code": "ok"}
    assert with_status({"x": np.nan}) == {"x": pytest.approx(np.nan, nan_ok=True)} | {
        "status": "x is not finite",
        "status_code": "not_finite",
    }
    assert with_status({"x": np.nan, "status": found})["status_code"] == "diverged"


MANIFEST = pd.DataFrame(
    {
        "model_id": ["a0", "a1", "b0"],
        "configuration": ["a", "a", "b"],
        "num_params": 10,
        "status": "ok",
        "status_code": "ok",
    }
)


def rows_of(columns):
    return pd.DataFrame(columns | {"status": ["ok"] * 3, "status_code": ["ok"] * 3})


def test_what_goes_wrong_first_is_what_a_row_and_its_configuration_say():
    losses = rows_of({"model_id": ["a0", "a1", "b0"], "train_loss": [1.0, 3.0, 5.0]})
    hessian = rows_of({"model_id": ["a0", "a1", "b0"], "hessian_eigenvalue": [1.0, np.nan, 2.0]})
    hessian.loc[1, ["status", "status_code"]] = ["hessian is not finite", "not_finite"]
    damaged = {"b0": Status(StatusCode.GROUP_DAMAGED, "Group b is damaged.")}
    results = {Losses(): [losses[:2]], Hessian(): [hessian[:2]]}
    table = compose(MANIFEST, results, damaged, {"preset": "fast"}, num_train=100)
    assert table.models["status_code"].tolist() == ["ok", "not_finite", "group_damaged"]
    assert table.models["status"].tolist() == ["ok", "hessian is not finite", "Group b is damaged."]
    assert table.configurations["status_code"].tolist() == ["not_finite", "group_damaged"]
    assert table.configurations["status"].tolist() == [
        "1 of 2 models: hessian is not finite",
        "1 of 1 models: Group b is damaged.",
    ]
    assert table.configurations["train_loss"].tolist()[0] == 2.0
    assert "status_code" in table.pairs
    assert set(table.models["preset"]) == {"fast"}


def test_features_are_made_and_described_as_their_metric_says(tmp_path):
    models = MANIFEST.assign(hessian_trace=[1.0, 3.0, -5.0], hessian_trace_se=0.5, hessian_eigenvalue=np.nan)
    models["hessian_eigenvalue_residual"] = np.nan
    pairs = pd.DataFrame(columns=["configuration", "model_a", "model_b", "status", "status_code"])
    table = aggregate(models, pairs, (Hessian(), Similarity()), num_train=100)
    assert table["hessian_t"].tolist() == pytest.approx([np.log(2), -np.log(5000) + np.log(1e-3)], abs=1e-2)
    assert table["hessian_t_se"].tolist() == pytest.approx([0.5, 0.1], rel=1e-3)  # of the spread; of one model's own
    table.to_parquet(tmp_path / "configurations.parquet")
    features = described(pd.read_parquet(tmp_path / "configurations.parquet"))
    assert list(features) == ["hessian_e", "hessian_t"]
    assert features["hessian_t"].label == "Hessian trace (ln)"


def test_every_metric_describes_itself():
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.description
        assert metric.frame in ("models", "pairs")
        assert all(feature.title for feature in metric.features)
        assert metric.by_default == bool(metric.features)
