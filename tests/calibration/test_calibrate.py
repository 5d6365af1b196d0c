"""From a task to what small networks say of larger ones: by the command line and from Python, killed and resumed."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import digits

import mdjax
from mdjax.calibration import growing, targets
from mdjax.calibration.growing import calibrate
from mdjax.calibration.targets import parse_recipe, target_of
from mdjax.cli import main
from mdjax.diagnosis.calibrations import Calibration
from mdjax.diagnosis.trees import load_trees
from mdjax.engine import measuring
from mdjax.errors import InputError
from mdjax.models import Architecture
from mdjax.zoo.grids import Grid
from mdjax.zoo.training import train

QUICK = {"recipe": {"epochs": 3}, "seeds": 1, "landscape": False, "show_progress": False}
CALIBRATE = ["calibrate", "--like", "mlp-w4", "--data", "digits", "--budget", "2m", "--recipe", "epochs=8"]
CALIBRATE += ["--seeds", "1", "--no-landscape", "--out", "CAL"]
COMMAND = ["--data", "digits", "--budget", "2m", "--recipe", "epochs=3", "--seeds", "1"]


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A calibration by the command line."""
    out = tmp_path_factory.mktemp("calibration") / "cal"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "_SHARES", 2)  # as `two_amounts`
        main([*CALIBRATE[:-1], str(out)])
    return out


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Networks of width 4: too cold, as calibrated, too hot."""
    grid = Grid(width=(4,), batch_size=(64,), learning_rate=(0.0005, 0.05, 5.0), epochs=8, seeds=1)
    folder = tmp_path_factory.mktemp("asked")
    zoo = train(grid, folder / "zoo", show_progress=False)
    mdjax.measure(zoo, out=folder / "table", preset="fast", metrics="losses,hessian", show_progress=False)
    return folder / "table"


def test_the_folder_says_what_was_grown_and_how_far_to_trust_it(calibrated):
    found = Calibration.load(calibrated)
    zoo = pd.read_parquet(calibrated / "zoo.parquet")
    assert found.num_models == len(zoo)
    assert set(zoo["width"]) == {1, 2, 4} and zoo["data_share"].nunique() > 1
    assert found.facts["family"] == "mlp" and found.facts["epochs"] == 8
    assert "optimizer" in found.accuracy
    for accuracy in found.accuracy.values():
        low, high = accuracy.interval
        assert low <= accuracy.balanced <= high or accuracy.balanced in (0, 100)
    assert found.accuracy["optimizer"].balanced > 60
    assert not (calibrated / "trees.json").exists()


@pytest.mark.slow
def test_trees_are_grown_for_networks_whose_settings_are_not_known(table, two_amounts, tmp_path, capsys):
    main(["calibrate", "--like", "mlp-w2", "--out", str(tmp_path / "cal"), *COMMAND[:4], "--recipe", "epochs=2"])
    trees = load_trees(tmp_path / "cal/trees.json")
    assert trees and trees.keys() <= {"optimizer", "width", "data"}
    assert trees.keys() == Calibration.load(tmp_path / "cal").trees.keys()
    rows = pd.read_parquet(table / "configurations.parquet").drop(columns="learning_rate")
    verdict = mdjax.explain(rows.iloc[1:2], tmp_path / "cal")
    assert verdict.stage == "trees" and {answer.question for answer in verdict.answers} == trees.keys()


def test_verdicts_by_it_tell_gains_and_accuracy(calibrated, table, tmp_path, capsys):
    main(["diagnose", str(table), "--tree", str(calibrated), "--out", str(tmp_path / "verdicts.csv")])
    rates = pd.read_parquet(table / "configurations.parquet")["learning_rate"]
    verdicts = pd.read_csv(tmp_path / "verdicts.csv").set_index(rates)
    assert (verdicts["stage"] == "calibration").all()
    assert verdicts["optimizer_answer"][0.0005] == "small"
    assert verdicts["optimizer_answer"][5.0] == "large"
    assert verdicts["p_temperature_high"][5.0] > 0.3 > verdicts["p_temperature_high"][0.0005]
    assert (verdicts["optimizer_tree"] == "calibration").all()
    capsys.readouterr()
    name = verdicts["configuration"][0.0005]
    main(["diagnose", str(table), "--tree", str(calibrated), "--configuration", name])
    told = capsys.readouterr().out
    assert "half the batch, or twice the learning rate: " in told and "± " in told
    assert "optimizer: right in " in told and "a validation tree in" in told
    main(
        ["report", str(table), "--tree", str(calibrated), "--configuration", name, "--out", str(tmp_path / "page.html")]
    )
    page = (tmp_path / "page.html").read_text()
    assert "Calibrated on this task" in page and "twice the learning rate: " in page


def test_rows_whose_settings_are_not_known_are_left_to_the_trees(calibrated, table):
    rows = pd.read_parquet(table / "configurations.parquet").drop(columns="learning_rate")
    verdict = mdjax.explain(rows.iloc[:1], calibrated)
    assert verdict.stage != "calibration"
    assert "The calibration does not speak of this configuration: learning_rate and batch_size not known" in str(
        verdict
    )
    for name, value, expected in (
        ("family", "cnn", "mlp"),
        ("optimizer", "adamw", "sgd"),
        ("depth", 3, 2),
        ("num_classes", 8.0, 10),
        ("label_noise", 0.1, 0.0),
    ):
        other = mdjax.explain(rows.iloc[:1].assign(learning_rate=0.05, **{name: value}), calibrated)
        assert other.stage != "calibration"
        assert f"{name} is another than the calibration's {expected}" in str(other)


def test_it_goes_on_where_it_stopped_and_keeps_to_itself(calibrated, two_amounts, monkeypatch, capsys):
    before = (calibrated / "calibration.json").read_bytes()
    monkeypatch.setattr(growing, "train_stack", lambda *a, **k: pytest.fail("nothing is left to train"))
    monkeypatch.setattr(growing.CellGrower, "_next", lambda self, grown, smallest, limit: None)
    main([*CALIBRATE[:-1], str(calibrated)])
    assert (calibrated / "calibration.json").read_bytes() == before
    with pytest.raises(SystemExit):
        main([*CALIBRATE[:-1], str(calibrated), "--recipe", "epochs=4"])
    assert "holds a calibration of other networks, data or options" in capsys.readouterr().err


def test_networks_that_lacked_memory_are_not_kept_as_networks_that_guess(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(measuring, "_call", refuse)
    with pytest.raises(InputError, match="0 of the cells of width and data were grown"):
        calibrate(Architecture("mlp", 2, (8, 8, 1)), data=digits(), out=tmp_path / "cal", budget="1m", **QUICK)
    assert "networks of width 1 do not fit the memory" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.glob("cal/cells/*.parquet"))


@pytest.mark.slow
def test_a_killed_calibration_goes_on(tmp_path):
    out = tmp_path / "cal"
    command = [
        sys.executable,
        "-m",
        "mdjax",
        "calibrate",
        "--like",
        "mlp-w2",
        "--out",
        str(out),
        *COMMAND,
        "--no-landscape",
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not list(out.glob("cells/*.parquet")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("cells/*.parquet")}
    assert kept and not (out / "calibration.json").exists()
    main(command[3:])
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert Calibration.load(out).num_models > 0


class Own(nn.Module):
    """A network of no family, with BatchNorm-free branches."""

    width: int

    @nn.compact
    def __call__(self, inputs):
        hidden = nn.tanh(nn.Dense(self.width)(inputs.reshape(len(inputs), -1)))
        return nn.Dense(10)(hidden + nn.relu(nn.Dense(self.width)(hidden)))


def build(width):
    module = Own(width)

    def apply(params, state, inputs):
        return module.apply({"params": params}, inputs)

    def init(key):
        return module.init(key, jnp.zeros((1, 8, 8, 1)))["params"], {}

    return apply, init


def test_any_network_whose_size_is_one_number_is_calibrated(tmp_path, two_amounts):
    found = calibrate(2, build=build, data=digits(), out=tmp_path / "cal", budget="2m", **QUICK)
    assert isinstance(found, Calibration)
    assert found.facts["family"] is None and not found.trees
    apply, init = build(4)
    models = [init(jax.random.key(seed)) for seed in range(2)]
    facts = {"width": 4, "batch_size": 64, "learning_rate": 0.05, "data_share": 1.0}
    table = mdjax.measure(models, model=apply, data=digits(), metrics="losses", facts=facts, show_progress=False)
    verdict = mdjax.explain(table.configurations, found)
    assert verdict.stage == "calibration" and len(verdict.calibration.gains) == 4


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> str:
    """Some of the digits."""
    path, data = tmp_path_factory.mktemp("few") / "few.npz", digits()
    arrays = {f"{kind}_{part}": getattr(data, f"{kind}_{part}") for kind in "xy" for part in ("train", "test")}
    np.savez(path, **{name: values[: 288 if "train" in name else 64] for name, values in arrays.items()})
    return str(path)


@pytest.fixture
def two_amounts(monkeypatch):
    """Each amount of data is another program, and two say what a third would."""
    monkeypatch.setattr(targets, "_SHARES", 2)


GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "guides" / "calibrate.md").read_text()
EXAMPLES = [line.split("#")[0] for line in GUIDE.splitlines() if re.match(r"mdjax calibrate (?!.*--plan)", line)]


@pytest.mark.slow
@pytest.mark.parametrize("line", EXAMPLES, ids=[line.split()[3] for line in EXAMPLES])
def test_the_guides_commands_run_on_networks_of_width_2(line, few, two_amounts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save(
        {
            "0.weight": torch.zeros(2, 64),
            "0.bias": torch.zeros(2),
            "1.weight": torch.zeros(10, 2),
            "1.bias": torch.zeros(10),
        },
        "net.pt",
    )
    _, *words = shlex.split(re.sub(r"-w\d+", "-w2", line).replace("my.npz", few).replace("digits", few))
    if "--recipe" not in words:
        words += ["--recipe", ""]
    recipe = words.index("--recipe") + 1
    words[recipe] = re.sub(r",?epochs=\d+", "", words[recipe]) + ",epochs=1,batch_size=32"
    main([*words, "--seeds", "1", "--no-landscape"])
    assert "networks of width 1 to 2" in capsys.readouterr().out
    assert Calibration.load(words[words.index("--out") + 1]).num_models >= 24


def test_a_plan_times_the_smallest_and_grows_no_more(tmp_path, capsys):
    main(["calibrate", "--like", "mlp-w4", "--out", str(tmp_path / "cal"), *COMMAND, "--no-landscape", "--plan"])
    told = capsys.readouterr().out
    assert "grown" in told and "in all" in told
    assert len(list((tmp_path / "cal" / "cells").glob("*.parquet"))) == 1
    assert not (tmp_path / "cal" / "calibration.json").exists()


def test_batch_sizes_set_the_temperature_as_well(tmp_path, few, two_amounts, capsys):
    arguments = [
        "--recipe",
        "epochs=1,batch_size=8",
        "--vary",
        "batch_size",
        "--seeds",
        "1",
        "--no-landscape",
        "--budget",
        "2m",
    ]
    out = tmp_path / "cal"
    main(["calibrate", "--like", "mlp-w2", "--data", few, "--out", str(out), *arguments])
    zoo = pd.read_parquet(out / "zoo.parquet")
    assert zoo["batch_size"].nunique() > 3 and zoo["learning_rate"].nunique() == 1
    assert Calibration.load(out).facts["varied"] == "batch_size"
    # Less time than it took is no error once there is enough to learn from.
    capsys.readouterr()
    main(["calibrate", "--like", "mlp-w2", "--data", few, "--out", str(out), *arguments[:-1], "1s"])
    assert "networks of width 1 to 2" in capsys.readouterr().out


def test_a_folder_without_a_calibration_is_told(tmp_path, table, capsys):
    with pytest.raises(SystemExit):
        main(["diagnose", str(table), "--tree", str(tmp_path)])
    assert "Run mdjax calibrate first" in capsys.readouterr().err


@pytest.mark.parametrize("budget", [0, -5.0, float("nan"), True])
def test_a_budget_that_is_no_time_is_refused_before_anything_is_grown(tmp_path, budget):
    with pytest.raises(InputError, match="time"):
        calibrate("mlp-w2", data=digits(), out=tmp_path / "cal", budget=budget, **QUICK)
    assert not (tmp_path / "cal").exists()


def test_a_zoo_says_what_it_is_like(tmp_path):
    grid = Grid(width=(2, 8), batch_size=(32,), learning_rate=(0.01,), epochs=1, seeds=1, schedule="cosine")
    target = target_of(train(grid, tmp_path / "zoo", show_progress=False), None, {"epochs": "5"})
    assert (target.family, target.width, target.training["learning_rate"], target.training["epochs"]) == (
        "mlp",
        8,
        0.01,
        5,
    )
    assert target.recipe.schedule == "cosine"
    assert target.widths() == [1, 2, 4, 8]
    assert target.shares(digits())[-1] == 1.0
    assert len(target.temperatures("learning_rate", 1000)) == 6
    assert target.temperatures("batch_size", 50) == [4, 8, 16, 32]


def test_encoders_keep_their_heads_and_scale_their_hidden_units():
    like = Architecture("encoder", 32, (8, 8, 1), 10, variant="h4 mlp48 post")
    target = target_of(like, None, None)
    assert target.widths() == [4, 8, 16, 32]
    assert target.network(16, digits()) == Architecture("encoder", 16, (8, 8, 1), 10, 2, "h4 patch2 mlp24 post")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"like": "mlp"}, "The width of the networks is not known. Say it: --like mlp-w64"),
        ({"like": "nowhere"}, "nowhere"),
        ({"like": "mlp-w1"}, "have width 1, and there are none smaller"),
        ({"like": Architecture("mlp", 8, (8, 8, 1)), "budget": "0.001s"}, "The budget of 0.001 s is too small"),
        ({"like": "mlp-w8", "recipe": {"batch_size": 1000}}, "digits has 1297 .* Give a smaller batch_size"),
        ({"like": "mlp-w8", "budget": "ten"}, "Cannot read the time 'ten'"),
        ({"like": "mlp-w8", "vary": "depth"}, "vary is 'depth'. Choose one of learning_rate, batch_size"),
        ({"like": "mlp-w8", "seeds": 0}, "seeds is 0. Give a whole number of at least 1"),
        ({"like": "mlp-w8", "recipe": {"rate": 1}}, "A recipe has no 'rate'"),
        ({"like": "mlp-w8", "recipe": {"epochs": 0}}, "recipe: epochs is 0, with which nothing is learnt"),
        ({"like": "mlp-w8", "recipe": {"learning_rate": "0"}}, "recipe: learning_rate is 0"),
        ({"like": "mlp-w8", "recipe": {"batch_size": "many"}}, "batch_size is 'many'. Give a whole number"),
        ({"like": "mlp-w8", "recipe": {"warmup": "long"}}, "warmup is 'long'. Give a fraction"),
        ({"like": "mlp-w8", "recipe": {"optimizer": "adam"}}, "optimizer is 'adam'"),
        ({"like": "big", "build": build}, "With build=, give the width of your networks"),
        ({"like": 8, "build": lambda width: None}, r"build\(1\) gives 'NoneType'. Give \(model, init\)"),
    ],
)
def test_bad_arguments_are_told_in_one_sentence(tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr(growing.CellGrower, "_measured", lambda *a: pd.DataFrame({"width": [1], "data_share": [0.125]}))
    with pytest.raises(InputError, match=message):
        calibrate(**{"data": digits(), "out": tmp_path / "cal", **QUICK, **arguments})


@pytest.mark.parametrize("text", ["epochs", "epochs=", "epochs=1,epochs=2"])
def test_a_recipe_that_cannot_be_read_is_told(text):
    with pytest.raises(InputError, match="Cannot read the recipe"):
        parse_recipe(text)


@pytest.mark.parametrize(
    "content", ["", "{}", *(json.dumps({"format": "mdjax-calibration", "version": version}) for version in (1, 2))]
)
def test_a_damaged_calibration_is_told(tmp_path, content):
    (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(InputError, match="Run mdjax calibrate again"):
        mdjax.explain({"train_error": 1.0}, tmp_path)


def test_the_surface_is_that_of_the_zoo(calibrated):
    found, zoo = Calibration.load(calibrated), pd.read_parquet(calibrated / "zoo.parquet")
    assert found.answered(zoo).rows.all()
    expected, spread = found.surface.accuracies(found.surface.points)
    # One seed of three epochs moves by several points.
    assert np.corrcoef(expected, zoo["test_acc"])[0, 1] > 0.6
    assert np.isfinite(spread).all()
