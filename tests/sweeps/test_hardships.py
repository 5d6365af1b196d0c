"""What must not cost a sweep its other results: a metric that raises, 64-bit mode, a table that gets narrower."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import digits

import mdjax
from mdjax.errors import InputError
from mdjax.metrics import CKA, Hessian, ModelMetric, PairMetric, select
from mdjax.table import read_table
from mdjax.zoo.data import Dataset

RANDOM = np.random.RandomState(0)
X, Y = RANDOM.randn(60, 5).astype("f4"), (np.arange(60) % 3).astype("i4")
DATA = Dataset("d", X, Y, X[:9], Y[:9], 3)


def network(params, state, inputs):
    return jnp.tanh(inputs @ params["a"]) @ params["b"]


def models(count=2):
    random = np.random.RandomState(1)
    return [({"a": random.randn(5, 6).astype("f4"), "b": random.randn(6, 3).astype("f4")}, {}) for _ in range(count)]


@dataclasses.dataclass(frozen=True)
class Raising(ModelMetric):
    """Fails while it is traced, or on the host."""

    name: ClassVar[str] = "raising"
    description: ClassVar[str] = "raises"
    on_host: bool = False

    def measure(self, model, params, state, data, key):
        return {"x": jnp.zeros(())} if self.on_host else {"x": jnp.zeros(3) @ jnp.zeros(4)}

    def columns(self, raw):
        raise ZeroDivisionError("division by zero")


@dataclasses.dataclass(frozen=True)
class RaisingPair(PairMetric):
    """Refuses every pair."""

    name: ClassVar[str] = "raising_pair"
    description: ClassVar[str] = "raises"
    pairs: str = "all"

    def measure(self, model, first, second, data, key):
        raise InputError("Cannot compare these two. Give others.")

    def columns(self, raw):
        return {}


@pytest.mark.parametrize(
    ("metric", "frame", "message"),
    [
        (Raising(), "models", "raising failed: TypeError: "),
        (Raising(on_host=True), "models", "raising failed: ZeroDivisionError: division by zero"),
        (RaisingPair(), "pairs", "raising_pair failed: Cannot compare these two. Give others"),
    ],
)
def test_a_metric_that_raises_is_a_status_of_its_rows_and_the_rest_is_written(metric, frame, message, tmp_path, capsys):
    table = mdjax.measure(models(), model=network, data=DATA, metrics=["losses", metric, "cka"], out=tmp_path)
    assert message in capsys.readouterr().err.replace("\n", " ")
    rows = getattr(read_table(tmp_path), frame)
    assert (rows["status_code"] == "failed").all()
    assert rows["status"].str.startswith(message).all()
    assert table.models["train_loss"].notna().all()
    assert table.pairs["CKA"].notna().all()
    assert table.configurations["status_code"].tolist() == ["failed"]
    with pytest.raises(InputError, match=message.split("failed: ")[1]):
        mdjax.measure(models(), model=network, data=DATA, metrics=[metric])


def test_whole_number_inputs_are_measured_as_they_are():
    words = RANDOM.randint(0, 20, (60, 7))
    data = Dataset("words", words, Y, words[:9], Y[:9], 3)

    def tokens(params, state, inputs):
        return params["e"][inputs].mean(1) @ params["h"]

    weights = [({"e": RANDOM.randn(20, 4).astype("f4"), "h": RANDOM.randn(4, 3).astype("f4")}, {}) for _ in range(2)]
    table = mdjax.measure(weights, model=tokens, data=data, metrics="losses,hessian,cka,similarity")
    assert table.models[["train_loss", "hessian_trace"]].notna().all(axis=None)
    assert table.pairs["agreement"].notna().all()
    assert (table.pairs["status_code"] == "ok").all()
    assert table.pairs["CKA"].between(0, 1).all()


@pytest.mark.parametrize("metric", ["hessian", "density", "surface", "mode_connectivity", "cka"])
def test_64_bit_mode_gives_the_numbers_of_32_bits(metric):
    arguments = {"model": network, "data": DATA, "metrics": metric, "preset": "fast"}
    usual = mdjax.measure(models(), **arguments)
    with jax.enable_x64(True):
        wide = mdjax.measure(models(), **arguments)
    for name in ("models", "pairs"):
        one, other = (
            getattr(table, name).drop(columns=[c for c in getattr(table, name) if c.endswith("_seconds")])
            for table in (usual, wide)
        )
        pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_two_metrics_of_one_name_are_refused_and_one_named_twice_is_one():
    for pair in ([Hessian(), Hessian(operator="gauss_newton")], ["cka", CKA(layer="logits")]):
        with pytest.raises(InputError, match="Two metrics are called .* measure each into a table of its own"):
            select(names=pair)
    assert [metric.name for metric in select(names="losses,losses")] == ["losses"]
    with pytest.raises(InputError, match=r"density is not measured. Add it to the metrics: losses,density\."):
        select(names="losses", settings=["density.num_runs=3"])


def test_a_table_that_gets_narrower_says_what_goes(tmp_path, capsys):
    zoo = mdjax.train(mdjax.zoo.grids.Grid(width=(2,), batch_size=(64,), epochs=1, seeds=2), tmp_path / "zoo")
    options = {"data": digits(), "out": tmp_path / "table"}
    mdjax.measure(zoo, metrics="losses,cka", **options)
    capsys.readouterr()
    mdjax.measure(zoo, metrics="losses", **options)
    told = " ".join(capsys.readouterr().err.split())
    assert "held cka too, which this run was not asked for and leaves out. Name them in --metrics" in told
    mdjax.measure(zoo, metrics="losses", preset="fast", seed=1, **options)
    told = " ".join(capsys.readouterr().err.split())
    assert "held preset default; it now holds preset fast alone" in told
    assert "held seed 0; it now holds seed 1 alone" in told
    mdjax.measure(zoo, metrics="losses,cka", preset="fast", seed=1, **options)
    assert "warning" not in capsys.readouterr().err


def test_an_unknown_option_of_a_run_is_an_error():
    with pytest.raises(TypeError, match="unexpected keyword argument 'sed'"):
        mdjax.measure(models(), model=network, data=DATA, sed=1)  # pyright: ignore[reportCallIssue]
