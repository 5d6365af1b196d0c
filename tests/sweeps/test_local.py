"""From zoo to table: rows, resuming, broken models, damaged groups, killed runs."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import digits, one, trained

from mdjax.cli import main
from mdjax.engine import Programs, measuring
from mdjax.engine.plan import Plan
from mdjax.errors import InputError
from mdjax.models import FunctionModel
from mdjax.statuses import StatusCode
from mdjax.sweeps import local, preparation
from mdjax.sweeps.running import Runner
from mdjax.table import read_configurations, read_table
from mdjax.zoo.data import load
from mdjax.zoo.grids import Grid
from mdjax.zoo.store import Zoo
from mdjax.zoo.training import train

GRID = Grid(width=(2, 3), batch_size=(64, 128), data_share=(0.5, 1.0), epochs=2, seeds=3)
FRAMES = ("models", "pairs", "configurations")


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    return train(GRID, tmp_path_factory.mktemp("zoo") / "zoo")


@pytest.fixture(scope="module")
def measured(grown, tmp_path_factory):
    out = tmp_path_factory.mktemp("table") / "table"
    return local.measure(grown, out=out, preset="fast"), out


@pytest.fixture
def zoo(grown, tmp_path):
    shutil.copytree(grown.path, tmp_path / "zoo")
    return Zoo(tmp_path / "zoo")


def untimed(frame):
    """A frame without the seconds its metrics took; lists as tuples, whether they have been in a file or not."""
    frame = frame[[name for name in frame if not name.endswith("_seconds")]].copy()
    for name in frame.columns[[pd.api.types.is_object_dtype(dtype) for dtype in frame.dtypes]]:
        frame[name] = [tuple(value) if isinstance(value, list | np.ndarray) else value for value in frame[name]]
    return frame


def assert_same(table, other):
    for name in FRAMES:
        frame, expected = untimed(getattr(table, name)), untimed(getattr(other, name))
        pd.testing.assert_frame_equal(frame, expected, check_exact=True)


def test_one_row_per_model_pair_and_configuration(measured):
    table, out = measured
    assert len(table.models) == 24
    assert table.models["model_id"].is_unique
    assert len(table.pairs) == 8 * 3  # CKA of all pairs; a curve for the first of each configuration
    assert table.pairs["mode_connectivity"].notna().sum() == 8
    assert len(table.configurations) == 8
    assert (table.models[["status", "status_code"]] == "ok").all(axis=None)
    undefined = table.pairs["status_code"] == StatusCode.UNDEFINED
    assert table.pairs.loc[undefined, "CKA"].isna().all()
    assert (table.pairs.loc[~undefined, "status_code"] == "ok").all()
    hit = table.configurations["configuration"].isin(table.pairs.loc[undefined, "configuration"])
    assert (table.configurations["status_code"] == np.where(hit, "undefined", "ok")).all()
    published = (
        "data_amount para_amount log_data_amount log_para_amount log_bs width data bs test_acc train_acc "
        "generalization_gap test_loss train_loss CKA hessian_e hessian_t mode_connectivity "
        "mode_connectivity_peak test_error train_error"
    )
    assert set(published.split()) <= set(table.configurations)
    assert table.configurations[published.split()].notna().all(axis=None)
    assert set(table.configurations["data"]) == {5.0, 10.0}
    assert set(table.models["preset"]) == {"fast"}
    pd.testing.assert_frame_equal(read_configurations(out), table.configurations)
    assert_same(read_table(out), table)


def test_aggregates_are_the_published_ones(measured):
    table, _ = measured
    first = table.configurations.iloc[0]
    models = table.models[table.models["configuration"] == first["configuration"]]
    assert first["train_error"] == pytest.approx(models["train_error"].mean())
    assert first["train_error_se"] == pytest.approx(models["train_error"].std() / np.sqrt(3))
    assert first["hessian_t"] == pytest.approx(np.log(models["hessian_trace"].mean()), abs=1e-3)
    assert first["hessian_e"] == pytest.approx(np.log(models["hessian_eigenvalue"].mean()), abs=1e-3)
    assert first["data_amount"] == digits().subset_size(first["data"] / 10)


def test_a_second_run_measures_nothing_and_a_further_metric_only_itself(grown, tmp_path, monkeypatch):
    done = []
    original = Runner.run
    monkeypatch.setattr(Runner, "run", lambda self, unit: (done.append(unit.metric.name), original(self, unit))[1])
    options = {"out": tmp_path / "table", "preset": "fast"}
    first = local.measure(grown, metrics="losses", **options)
    assert set(done) == {"losses"}
    done.clear()
    assert_same(local.measure(grown, metrics="losses", **options), first)
    assert not done
    both = local.measure(grown, metrics="losses,cka", **options)
    assert set(done) == {"cka"}
    assert {"train_error", "CKA"} <= set(both.configurations)
    done.clear()
    local.measure(grown, metrics="losses", seed=1, **options)
    assert set(done) == {"losses"}


def test_a_model_with_nan_weights_is_a_row_with_a_status(zoo, measured):
    group = zoo.groups[0]
    architecture = zoo.architecture(group)
    rows = zoo.manifest[zoo.manifest["group"] == group]
    params, state = zoo.read_group(group)
    params = jax.tree.map(np.array, params)
    params["linear"]["kernel"][1] = np.nan
    shutil.rmtree(zoo.path / "groups" / group)
    facts = ["model_id", "configuration", "seed", "batch_size", "data_share", "label_noise"]
    Zoo(zoo.path).append(group, architecture, rows[facts].to_dict("records"), params, state)
    table = local.measure(zoo.path, preset="fast", metrics="losses,hessian,cka")
    models = table.models.set_index("model_id")
    broken = rows["model_id"].iloc[1]
    assert models.loc[broken, "status"] == "weights are not finite"
    assert models.loc[broken, "status_code"] == StatusCode.WEIGHTS_NOT_FINITE
    assert np.isnan(models.loc[broken, "train_error"])
    assert (models.drop(index=broken)["status"] == "ok").all()
    expected = measured[0].models.set_index("model_id")
    for column in ("train_loss", "train_error", "hessian_eigenvalue", "hessian_trace"):
        np.testing.assert_allclose(
            models.drop(index=broken)[column], expected.drop(index=broken)[column], rtol=1e-5, atol=1e-5
        )
    configurations = table.configurations.set_index("configuration")
    assert configurations.loc[rows["configuration"].iloc[0], "status"] == "1 of 3 models: weights are not finite"


def test_a_damaged_group_becomes_rows_with_a_status_and_is_measured_once_restored(zoo, measured, tmp_path):
    group = zoo.groups[2]
    damaged = next((zoo.path / "groups" / group / "arrays" / "d").iterdir())
    content = damaged.read_bytes()
    damaged.write_bytes(content[:100])
    options = {"out": tmp_path / "table", "preset": "fast"}
    table = local.measure(zoo.path, **options)
    hit = table.models["group"] == group
    assert table.models.loc[hit, "status"].str.contains(f"Group {group} of .* is damaged").all()
    assert (table.models.loc[hit, "status_code"] == StatusCode.GROUP_DAMAGED).all()
    assert (table.models.loc[~hit, "status_code"] == StatusCode.OK).all()
    damaged.write_bytes(content)
    restored = local.measure(zoo.path, **options)
    assert (restored.models["status"] == "ok").all()
    for column in ("train_loss", "hessian_trace"):
        np.testing.assert_allclose(restored.models[column], measured[0].models[column], rtol=1e-5)


SHORTAGES = {
    "device": (measuring, "_call", jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")),
    "host": (measuring, "_call", MemoryError("Unable to allocate 9 GiB")),
    "while loading": (Zoo, "read_group", MemoryError("Unable to allocate 9 GiB")),
    "by the system": (measuring, "_call", OSError(errno.ENOMEM, "Cannot allocate memory")),
    "while compiling": (Programs, "fitting", jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")),
}


@pytest.mark.parametrize("where", SHORTAGES)
def test_what_lacked_memory_is_tried_again(grown, measured, tmp_path, monkeypatch, capsys, where):
    owner, name, error = SHORTAGES[where]

    def refuse(*_):
        raise error

    options = {"out": tmp_path / "table", "metrics": "losses", "preset": "fast"}
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, refuse)
        table = local.measure(grown, **options)
    assert (table.models["status_code"] == StatusCode.TOO_LARGE).all()
    assert "losses lacked memory for 24 of its models" in " ".join(capsys.readouterr().err.split())
    tried = local.measure(grown, **options)
    pd.testing.assert_series_equal(tried.models["train_loss"], measured[0].models["train_loss"], check_exact=True)


@pytest.mark.parametrize("plan", [Plan("vmap", 1, "patches"), Plan("vmap", 4, "patches"), Plan("map", 16, "patches")])
def test_the_plan_changes_nothing(grown, measured, monkeypatch, plan):
    monkeypatch.setattr(preparation, "default_plan", lambda *_: plan)
    monkeypatch.setattr(preparation, "_UNIT_SIZE", 3)
    table = local.measure(grown, preset="fast")
    if plan.chunk_size == 1:
        for name in ("models", "configurations"):
            expected = untimed(getattr(measured[0], name))
            found = untimed(getattr(table, name))[expected.columns]
            pd.testing.assert_frame_equal(found, expected, check_exact=True)
        return
    models, expected = table.models, measured[0].models
    columns = ["train_loss", "train_error", "test_loss", "test_error", "hessian_eigenvalue", "hessian_trace"]
    np.testing.assert_allclose(models[columns], expected[columns], rtol=1e-5, atol=1e-5)
    columns = ["mode_connectivity", "mode_connectivity_peak", "CKA"]
    np.testing.assert_allclose(table.pairs[columns], measured[0].pairs[columns], rtol=1e-5, atol=1e-5)


def test_ones_own_models_are_measured_without_a_zoo():
    architecture, params, state = trained("mlp")
    model = architecture.model()
    models = [(one(params, i), one(state, i)) for i in range(3)]
    table = local.measure(models, model=model.apply, data=digits(), preset="fast")
    assert list(table.models["model_id"]) == ["model0", "model1", "model2"]
    assert len(table.configurations) == 1
    assert table.configurations[["train_error", "hessian_t", "mode_connectivity", "CKA"]].notna().all(axis=None)


def test_other_weights_are_measured_anew(tmp_path):
    options = {"data": digits(), "out": tmp_path / "table", "metrics": "losses"}
    keys = jax.random.split(jax.random.key(0))
    first, second = (
        local.measure([({"w": jax.random.normal(key, (64, 10))}, {})], model=linear, **options) for key in keys
    )
    assert first.models["train_loss"][0] != second.models["train_loss"][0]


def linear(params, state, inputs):
    return inputs.reshape(len(inputs), -1) @ params["w"]


def test_wrong_use_is_refused_in_one_sentence(grown, tmp_path):
    file = tmp_path / "file"
    file.touch()
    weights = [({"w": jnp.ones((64, 10))}, {})]
    cases = [
        (lambda: local.measure(grown, out=file / "t"), "Cannot write the table .* Choose a folder"),
        (lambda: local.measure(grown, metrics="hesian"), "Unknown metric 'hesian'. Choose from losses"),
        (lambda: local.measure(grown, preset="quick"), "Unknown preset 'quick'"),
        (lambda: local.measure(grown, data="digits32"), "read inputs of shape \\(8, 8, 1\\), but digits32 has"),
        (lambda: local.measure(tmp_path / "none"), "is no zoo"),
        (lambda: local.measure(weights), "Give a zoo, or a list of \\(params, state\\) with model=apply"),
        (lambda: local.measure(weights, model=linear), "No data to measure on"),
        (
            lambda: local.measure([*weights, ({"w": jnp.ones((3, 2))}, {})], model=linear, data=load("digits")),
            "differ in structure or shape",
        ),
        (lambda: local.measure([], model=linear, data="digits"), "Cannot measure an empty list"),
        (lambda: local.measure(weights, model=object(), data="digits"), "model is 'object'. Give a function"),
        (
            lambda: local.measure([(weights[0][0], {"mean": jnp.ones(1)})], model=linear, data="digits"),
            "Cannot re-estimate the statistics",
        ),
        (lambda: local.measure(Zoo.create(tmp_path / "empty", data="digits")), "holds no model that can be read"),
    ]
    for call, message in cases:
        with pytest.raises(InputError, match=message):
            call()
    assert FunctionModel(linear) == FunctionModel(linear)


KILL_GRID = """
data = "digits"
architecture = "mlp"
width = [2, 3]
batch_size = [64, 128]
epochs = 60
seeds = 2
"""


def run_cli(*arguments):
    return subprocess.Popen([sys.executable, "-m", "mdjax", *map(str, arguments)], stderr=subprocess.DEVNULL)


def kill_when(process, folder, pattern, count):
    """SIGKILL as soon as `count` files of the pattern are there; False where the process was faster."""
    for _ in range(6000):
        if len(list(folder.glob(pattern))) >= count:
            os.kill(process.pid, signal.SIGKILL)
            return process.wait() == -signal.SIGKILL
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    raise AssertionError("nothing was written")


@pytest.mark.slow
def test_killed_runs_end_with_the_tables_of_an_undisturbed_one(tmp_path):
    grid = tmp_path / "grid.toml"
    grid.write_text(KILL_GRID)
    options = ("--preset", "fast")
    for name in ("calm", "killed"):
        zoo, table = tmp_path / f"{name}-zoo", tmp_path / f"{name}-table"
        train_command, measure_command = ("train", grid, "--out", zoo), ("measure", zoo, "--out", table, *options)
        if name == "killed":
            assert kill_when(run_cli(*train_command), zoo / "groups", "*/group.json", 2)
            assert 1 <= len(list((zoo / "groups").glob("*/group.json"))) < 4
        main([*map(str, train_command)])  # goes on in this process, which has its programs already
        if name == "killed":
            assert kill_when(run_cli(*measure_command), table / "shards", "*.parquet", 3)
            assert not (table / "models.parquet").exists()
        main([*map(str, measure_command)])
    calm, killed = (read_table(tmp_path / f"{name}-table") for name in ("calm", "killed"))
    assert_same(killed, calm)
    assert len(calm.models) == 8
    assert calm.models["model_id"].is_unique
