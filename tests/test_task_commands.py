"""Other tasks than classes through the commands: a regression sweep grown, measured, calibrated and diagnosed."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
import torch

import mdjax
from mdjax.calibration import targets
from mdjax.cli import main
from mdjax.columns import described
from mdjax.errors import InputError
from mdjax.table import read_table
from mdjax.tasks import TASKS, Task
from mdjax.zoo.data import Draw, dataset_of, load
from mdjax.zoo.grids import Grid
from mdjax.zoo.store import Zoo

GRID = """
data = "regression:diabetes.npz"
architecture = "mlp"
width = [2, 16]
batch_size = 32
data_share = [0.25, 1.0]
learning_rate = [0.01, 0.1]
epochs = 20
seeds = 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """442 patients' progression of diabetes, in standard deviations; and a zoo of regressions on it."""
    path = tmp_path_factory.mktemp("regression")
    x, y = sklearn.datasets.load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (20 * x[order]).astype(np.float32), ((y - y.mean()) / y.std())[order].astype(np.float32)
    np.savez(path / "diabetes.npz", x_train=x[:352], y_train=y[:352], x_test=x[352:], y_test=y[352:])
    (path / "grid.toml").write_text(GRID)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        main(["train", "grid.toml", "--out", "zoo"])
        main(["measure", "zoo", "--out", "table"])
    return path


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def test_a_zoo_says_what_its_models_were_asked(here):
    assert Zoo("zoo").data == f"regression:{here / 'diabetes.npz'}"
    table = read_table("table")
    assert (table.models["status"] == "ok").all()
    assert (table.configurations["task"] == "regression").all()
    units = {name: feature.unit for name, feature in described(table.configurations).items()}
    assert units["train_loss"] == "squared units" and units["test_error"] == "%"
    # Ten numbers explain some of it, and nobody all.
    best = table.configurations["test_error"].min()
    assert 40 < best < 75
    assert (table.configurations["hessian_t"] > 0).all()
    assert table.configurations["mode_connectivity"].notna().all()


def test_a_task_is_named_to_every_command_that_reads_data(here, tmp_path, capsys):
    data = ["--data", "diabetes.npz", "--task", "regression"]
    layers = ["--set", "hessian.by_layer=true", "--set", "hessian.layers=hidden*/kernel", "--preset", "fast"]
    main(["measure", "zoo", *data, "--metrics", "losses,hessian", *layers, "--out", str(tmp_path / "named")])
    named, told = (read_table(path).models for path in (tmp_path / "named", "table"))
    assert named["train_loss"].tolist() == told["train_loss"].tolist()
    assert "hidden0/kernel" in named["hessian_layers"][0]
    main(["measure", "zoo", *data, "--metrics", "losses", "--workers", "1", "--out", str(tmp_path / "apart")])
    assert read_table(tmp_path / "apart").models["train_loss"].tolist() == told["train_loss"].tolist()

    network = torch.nn.Sequential(torch.nn.Linear(10, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    torch.save(network.state_dict(), tmp_path / "net.pt")
    capsys.readouterr()
    given = [*data, "--nonlinearity", "relu", "--preset", "fast", "--examples", "200"]
    given += ["--out", str(tmp_path / "checked")]
    main(["check", str(tmp_path / "net.pt"), *given])
    row = read_table(tmp_path / "checked" / "table").models.iloc[0]
    arrays = np.load("diabetes.npz")
    with torch.no_grad():
        outputs = network(torch.from_numpy(arrays["x_train"]))[:, 0].numpy()
    squares = (outputs - arrays["y_train"])[Draw(200).rows("train", 352)] ** 2
    assert row["train_loss"] == pytest.approx(squares.mean(), rel=1e-5) and row["num_examples"] == 200
    assert row["train_loss_se"] == pytest.approx(squares.std() / np.sqrt(200), rel=1e-4)
    assert Zoo(tmp_path / "checked" / "zoo").data.startswith("regression:")


def test_a_sample_is_measured_in_place_of_all_the_data(here, capsys):
    arguments = ["measure", "zoo", "--data", "diabetes.npz", "--task", "regression", "--metrics", "losses"]
    main([*arguments, "--examples", "100", "--workers", "1", "--out", "sampled"])
    sampled = read_table("sampled")
    assert (sampled.models["num_examples"] == 100).all() and (sampled.configurations["num_examples"] == 100).all()
    arrays, zoo, rows = np.load("diabetes.npz"), Zoo("zoo"), Draw(100).rows("train", 352)
    # Models that were trained on the first quarter are measured on what was drawn of it.
    for share in (0.25, 1.0):
        row = sampled.models[sampled.models["data_share"] == share].iloc[0]
        own = rows[rows < 352 * share]
        params, state = zoo.read_group(row["group"])
        one = jax.tree.map(lambda leaf: leaf[row["position"]], (params, state))
        outputs = zoo.architecture(row["group"]).model().apply(*one, arrays["x_train"][own])
        squares = np.square(np.asarray(outputs).ravel() - arrays["y_train"][own])
        assert row["train_loss"] == pytest.approx(squares.mean(), rel=1e-5)
        assert row["train_loss_se"] == pytest.approx(squares.std() / np.sqrt(len(own)), rel=1e-3)
    assert (sampled.configurations["data_amount"].isin([88, 352])).all()
    # More than there are is all of them; another number or seed is another sample.
    all_of_it = mdjax.measure("zoo", data="regression:diabetes.npz", metrics="losses", num_examples=352)
    assert "num_examples" not in all_of_it.models and "train_loss_se" not in all_of_it.models
    first = sampled.models["train_loss"]
    for options in ({"num_examples": 101}, {"num_examples": 100, "seed": 1}):
        other = mdjax.measure("zoo", data="regression:diabetes.npz", metrics="losses", out="sampled", **options)
        assert (other.models["train_loss"] != first).all()
    with pytest.raises(InputError, match="is told by all of it, and only 9 examples are to be read. Name the data"):
        mdjax.measure("zoo", metrics="losses", num_examples=9)
    with pytest.raises(InputError, match="calibrate grows networks on all the data, and num_examples takes a sample"):
        mdjax.check("net.pt", data="regression:diabetes.npz", num_examples=9, calibrate="9s")


def test_shipped_trees_decline_and_the_sweep_speaks_for_itself(here, capsys):
    main(["diagnose", "table", "--out", "verdicts.csv"])
    text = capsys.readouterr().out
    assert "outside" in text
    verdicts = pd.read_csv("verdicts.csv")
    assert set(verdicts["stage"]) <= {"outside", "chance", "not_converged"} and verdicts["p_width"].isna().all()
    # Labels and gains of the sweep follow from R² alone.
    assert verdicts["gain_width"].notna().any()
    name = read_table("table").configurations["configuration"][0]
    main(["diagnose", "table", "--configuration", name])
    assert "task is regression, and classification in all rows that the trees were grown on" in capsys.readouterr().out


def test_report(here):
    main(["report", "table", "--out", "report.html"])
    assert (here / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_calibrated_and_diagnosed(here, monkeypatch):
    monkeypatch.setattr(targets, "_SHARES", 2)  # each amount of data is another program
    arguments = ["--like", "mlp-w16", "--data", "diabetes.npz", "--task", "regression", "--out", "cal", "--seeds", "1"]
    recipe = ["--recipe", "batch_size=32,learning_rate=0.03,epochs=10", "--no-landscape", "--budget", "12s"]
    main(["calibrate", *arguments, *recipe])
    assert json.loads((here / "cal" / "calibration.json").read_text())["facts"]["task"] == "regression"
    main(["diagnose", "table", "--tree", "cal", "--out", "calibrated.csv"])
    verdicts = pd.read_csv("calibrated.csv")
    assert (verdicts["stage"] == "calibration").all()
    assert verdicts[["p_temperature_low", "p_temperature_high", "p_width", "p_data"]].notna().all().all()
    # Of classes it does not speak.
    table = read_table("table").configurations
    others = mdjax.diagnose(table.drop(columns="task"), "cal")
    assert (others["stage"] != "calibration").all()


def test_a_task_is_said_in_one_way_or_refused(here, tmp_path):
    assert load("diabetes.npz", task="regression").fingerprint == load("regression:diabetes.npz").fingerprint
    # Digits as numbers: one output, whatever the classes are.
    grid = Grid(data="regression:digits", width=(2,), batch_size=(64,), epochs=1, seeds=1)
    zoo = mdjax.train(grid, tmp_path / "zoo", show_progress=False)
    assert zoo.manifest["num_classes"].tolist() == [1]
    row = mdjax.measure(zoo, metrics="losses", show_progress=False).models.iloc[0]
    assert row["status"] == "ok" and row["task"] == "regression"
    with pytest.raises(InputError, match="num_classes is 10, but its targets are 1 numbers each. Give 1."):
        dataset_of(dataclasses.replace(load("digits"), task=TASKS["regression"]))
    arrays = dict(np.load("diabetes.npz"))
    np.savez("told.npz", **arrays, task="regression")
    assert load("told.npz").task.name == "regression"
    with pytest.raises(InputError, match="task multi-label was given for 'regression:diabetes.npz', which says regr"):
        load("regression:diabetes.npz", task="multi-label")
    with pytest.raises(InputError, match="y_train has type float32.*or say what else the model is asked: --task regr"):
        load("diabetes.npz")
    with pytest.raises(InputError, match="task is 'regresion'. Choose one of classification, regression, multi-label"):
        load("diabetes.npz", task="regresion")
    with pytest.raises(InputError, match="y_train holds values outside 0 to 1. Give 1 where a label applies, else 0."):
        load("diabetes.npz", task="multi-label")
    with pytest.raises(InputError, match="y_train is float32.352.. Give the token that each position is to say"):
        load("diabetes.npz", task="next-token")
    with pytest.raises(InputError, match="have 1 outputs, but digits takes 0|read inputs of shape"):
        mdjax.measure("zoo", data="digits", metrics="losses")
    constant = {name: 0 * array if name[0] == "y" else array for name, array in arrays.items()}
    with pytest.raises(InputError, match="The training targets are all the same"):
        one = ({"w": jnp.ones((10, 1))}, {})
        mdjax.measure([one], model=lambda p, s, x: x @ p["w"], data=constant, task="regression")
    noisy = dict(label_noise="known", facts={"label_noise": 0.1})
    with pytest.raises(InputError, match="label_noise is 0.1, but the targets of data are no classes to be redrawn"):
        model = ({"w": jnp.ones((10, 1))}, {})
        mdjax.measure([model], model=lambda p, s, x: x @ p["w"], data=arrays, task="regression", **noisy)


@dataclasses.dataclass(frozen=True)
class Absolute(Task):
    """The mean absolute difference, smoothed."""

    name = "absolute"

    def loss(self, outputs, targets):
        return jnp.sqrt(jnp.square(outputs[:, 0] - targets) + 1e-3)


def test_a_task_of_ones_own_in_python(here, tmp_path):
    arrays = tuple(dict(np.load("diabetes.npz")).values())
    weights = [({"w": jnp.full((10, 1), value)}, {}) for value in (0.1, 0.2)]

    def apply(params, state, inputs):
        return inputs @ params["w"]

    table = mdjax.measure(weights, model=apply, data=arrays, task=Absolute(), out=tmp_path / "table")
    x, y = arrays[:2]
    expected = np.sqrt((x.astype("f8") @ np.full(10, 0.1) - y) ** 2 + 1e-3).mean()
    assert table.models["train_loss"][0] == pytest.approx(expected, rel=1e-5)
    assert table.models["train_error"][0] == pytest.approx(100 * expected, rel=1e-5)
    assert (table.models["task"] == "absolute").all() and (table.models["status"] == "ok").all()
    with pytest.raises(InputError, match="returns float32.2, 10. for .*, but the targets are .2.. Give data of as"):
        mdjax.measure(weights, model=lambda p, s, x: x, data=arrays, task="regression")
    with pytest.raises(InputError, match="Cannot call the loss of absolute on the model's outputs"):
        mdjax.measure(weights, model=lambda p, s, x: (x, x), data=arrays, task=Absolute())
