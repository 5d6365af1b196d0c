"""mdjax check: from files of PyTorch, safetensors and Flax to a verdict, or one sentence that says what is wrong."""

import contextlib
import importlib.util
import re
import shutil
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp
import pandas as pd
import pytest
import safetensors.torch
import torch
from flax import serialization
from torch.nn.utils import prune
from torch_families import OwnCNN
from torch_resnet import random_resnet

import mdjax
from mdjax.calibration import targets
from mdjax.cli import main
from mdjax.diagnosis.calibrations import Calibration
from mdjax.diagnosis.surface import Points, Surface
from mdjax.errors import InputError
from mdjax.zoo.store import Zoo

needs_torchax = pytest.mark.skipif(
    importlib.util.find_spec("torchax") is None, reason="torchax is not installed; pip install 'mdjax[torchax]'"
)

CODE = """
import flax.linen
import torch
from torch import nn

class Branching(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.left, self.right = nn.Linear(16, width), nn.Linear(16, width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3)
    def forward(self, x):
        x = x.flatten(1)
        return self.head(self.norm(torch.tanh(self.left(x)) + self.right(x)))

class Sequences(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)
    def forward(self, x):
        assert x.ndim == 3
        return self.head((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))

class Two(nn.Module):
    def forward(self, x):
        return x, x

class Flax(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x, train: bool = True):
        hidden = flax.linen.Dense(6)(x.reshape(len(x), -1))
        hidden = flax.linen.BatchNorm(use_running_average=not train)(hidden)
        return flax.linen.Dense(3)(hidden + flax.linen.tanh(hidden))
"""


def plain(seed: int = 0, width: int = 5) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(16, width), torch.nn.Tanh(), torch.nn.Linear(width, 3)
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """Small data, networks of all kinds and their code."""
    root = tmp_path_factory.mktemp("files")
    with contextlib.chdir(root):
        labels = np.arange(60) % 3
        inputs = (np.random.default_rng(0).normal(size=(60, 4, 4)) + labels[:, None, None]).astype(np.float32)
        split = {"x_train": inputs[:40], "y_train": labels[:40], "x_test": inputs[40:], "y_test": labels[40:]}
        np.savez("my.npz", **split)
        np.savez("five.npz", **{name: part[:, 0, :3] if part.ndim == 3 else part for name, part in split.items()})
        Path("mynet.py").write_text(CODE)
        namespace: dict = {"__name__": "mynet"}
        torch.manual_seed(1)
        exec(compile(CODE, "mynet.py", "exec"), namespace)
        for seed in range(2):
            torch.save(plain(seed).state_dict(), f"plain{seed}.pt")
            safetensors.torch.save_file(plain(seed).state_dict(), f"plain{seed}.safetensors")
            torch.save({"model": namespace["Branching"]().state_dict(), "epoch": 3}, f"branching{seed}.pt")
        torch.save(plain(0, width=4).state_dict(), "narrow.pt")
        torch.save(namespace["Sequences"]().state_dict(), "sequences.pt")
        torch.save({name: value * torch.nan for name, value in plain().state_dict().items()}, "nan.pt")
        Path("damaged.pt").write_bytes(b"PK\x03\x04 and nothing more")
        for seed in range(2):
            variables = namespace["Flax"]().init(jax.random.key(seed), np.zeros((2, 4, 4, 1), np.float32), train=False)
            Path(f"flax{seed}.msgpack").write_bytes(serialization.to_bytes(variables))
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(root / "orbax", variables)
    return root


@pytest.fixture
def folder(written, tmp_path, monkeypatch) -> Path:
    """A copy of the files, in which a test works."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *arguments: str) -> str:
    main(["check", *arguments, "--data", "my.npz"])
    return capsys.readouterr().out


def test_options_of_reading_and_measuring_reach_what_they_change(folder, capsys):
    torch.save({"state_dict": plain(0).state_dict(), "state_dict_ema": plain(1).state_dict()}, "averaged.pt")
    torch.save(plain(2), "whole.pt")  # an object of torch's own classes
    how = ["--nonlinearity", "tanh", "--preset", "fast"]

    def loss(*arguments):
        run(capsys, *arguments, *how, "--out", str(folder / f"kept{'-'.join(arguments)}"))
        models = pd.read_parquet(folder / f"kept{'-'.join(arguments)}" / "table" / "models.parquet")
        return models.iloc[0]

    assert loss("averaged.pt")["train_loss"] == pytest.approx(loss("plain0.pt")["train_loss"])
    assert loss("averaged.pt", "--ema")["train_loss"] == pytest.approx(loss("plain1.pt")["train_loss"])
    assert loss("plain0.pt", "--seed", "3")["measure_seed"] == 3
    assert loss("plain0.pt", "--fact", "label_noise=0.5")["applied_label_noise"] == 0.5
    assert loss("plain0.pt", "--fact", "label_noise=0.5", "--label-noise", "0")["applied_label_noise"] == 0
    assert loss("whole.pt", "--trust")["num_params"] == loss("plain0.pt")["num_params"]


@pytest.mark.slow
def test_a_checkpoint_is_asked_about_small_networks_of_its_kind(folder, monkeypatch, capsys):
    monkeypatch.setattr(targets, "_SHARES", 2)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(64, 2), torch.nn.Tanh(), torch.nn.Linear(2, 10))
    torch.save(network.state_dict(), "digits.pt")
    facts = [word for fact in ("batch_size=64", "learning_rate=0.05", "epochs=2") for word in ("--fact", fact)]
    arguments = ["digits.pt", "--data", "digits", "--nonlinearity", "tanh", "--preset", "fast", *facts]
    main(["check", *arguments, "--calibrate", "90s", "--out", "kept"])
    text = capsys.readouterr().out
    assert "small networks of this task say that one step would bring" in text
    assert "Calibrated on " in text and "sequence networks of width 1 to " in text
    assert "Calibrating would grow" not in text
    assert Path("kept/calibration/calibration.json").is_file()
    with pytest.raises(SystemExit):
        main(["check", "branching0.pt", "--data", "my.npz", "--module", "mynet.py:Branching", "--calibrate", "9s"])
    assert "Calibrate in Python, mdjax.calibrate(width, build=" in capsys.readouterr().err


@pytest.mark.slow
def test_a_checkpoint_of_a_known_family(folder, capsys):
    torch.manual_seed(0)
    torch.save({"state_dict": OwnCNN(1, 2, 2, 3).state_dict()}, "cnn.pt")
    text = run(capsys, "cnn.pt", "--out", "kept", "--report", "pages/why.html")
    assert text.startswith("Checked cnn.pt: cnn of width 2, ")
    assert "cnn.pt: " in text and "What to change: " in text and "train_error = " in text
    assert "A second checkpoint, trained alike from another seed, would add" in text
    page = Path("pages/why.html").read_text()
    assert "<html" in page and "cnn.pt" in page
    zoo = Zoo("kept/zoo")
    assert zoo.data == str(folder / "my.npz") and zoo.manifest["model_id"].tolist() == ["cnn.pt"]
    table = mdjax.table.read_table("kept/table")
    assert table.configurations[["configuration", "width"]].to_numpy().tolist() == [["cnn.pt", 2]]
    assert run(capsys, "cnn.pt", "--out", "kept") == text  # resumed


@pytest.mark.slow
def test_seeds_in_safetensors_are_compared(folder, capsys):
    text = run(capsys, "plain0.safetensors", "plain1.safetensors", "--nonlinearity", "tanh", "--out", "kept")
    assert "plain0.safetensors and 1 more: " in text and "2 seeds, measured on my" in text
    assert "A second checkpoint" not in text
    table = mdjax.table.read_table("kept/table")
    assert table.configurations["num_models"].tolist() == [2]
    assert table.configurations[["mode_connectivity_peak", "CKA"]].notna().all(axis=None)


def test_copies_are_one_model(folder, capsys):
    Path("copy.safetensors").write_bytes(Path("plain0.safetensors").read_bytes())
    text = run(capsys, "plain0.pt", "copy.safetensors", "./plain0.pt", "--fact", "nonlinearity=tanh")
    assert "copy.safetensors holds the same weights as plain0.pt: they are one model, no second seed." in text
    assert "plain0.pt was given more than once and counts once." in text
    assert text.startswith("Checked plain0.pt: sequence of width 5") and "A second checkpoint" in text


def test_checkpoints_of_one_run_are_one_seed(folder, capsys):
    for name, seed in (("net_last.pt", 0), ("net_best.pt", 1)):
        torch.save(plain(seed).state_dict(), name)
    text = run(capsys, "net_last.pt", "net_best.pt", "--nonlinearity", "tanh")
    assert text.startswith("Checked net_best.pt: ")
    assert "net_last.pt is of the same training run as net_best.pt, which is taken: they are one seed." in text


def test_a_folder_of_seeds(folder, capsys):
    for seed in range(2):
        Path(f"runs/seed{seed}").mkdir(parents=True)
        torch.save(plain(seed).state_dict(), f"runs/seed{seed}/model.pt")
    text = run(capsys, "runs", "--nonlinearity", "tanh")
    assert text.startswith("Checked runs/seed0/model.pt, runs/seed1/model.pt: sequence of width 5")
    Path("runs/other").mkdir()
    torch.save(plain(2).state_dict(), "runs/other/model.pt")
    with pytest.raises(InputError, match="holds checkpoints of 2 configurations, runs/model and runs/other first"):
        mdjax.check("runs", data="my.npz")


@pytest.mark.slow
@needs_torchax
def test_any_module_by_its_own_code(folder, capsys):
    text = run(capsys, "branching0.pt", "--module", "mynet.py:Branching", "--out", "kept", "--report", "why.html")
    assert text.startswith("Checked branching0.pt: Branching(), 237 parameters, measured on my.")
    assert "branching0.pt: " in text and "A second checkpoint" in text
    assert "train_error = " in text or "branching0.pt: at chance" in text  # nobody trained it
    table = mdjax.table.read_table("kept/table")
    assert table.models[["model_id", "configuration"]].to_numpy().tolist() == [["branching0.pt", "branching0.pt"]]
    assert "branching0.pt" in Path("why.html").read_text()
    namespace: dict = {"__name__": "mynet"}
    exec(CODE, namespace)
    module = namespace["Branching"]()
    module.load_state_dict(torch.load("branching0.pt")["model"])
    data = np.load("my.npz")
    with torch.no_grad():
        logits = module(torch.from_numpy(data["x_test"]))
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(data["y_test"]))
    assert table.models["test_loss"][0] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.slow
@needs_torchax
def test_a_module_decides_how_data_are_read(folder, capsys):
    text = run(capsys, "sequences.pt", "--module", "mynet.py:Sequences")  # as sequences, not as images of one channel
    assert text.startswith("Checked sequences.pt: Sequences(), ") and "train_error = " in text


@pytest.mark.parametrize("files", [("orbax",), ("flax0.msgpack", "flax1.msgpack")])
def test_flax(folder, capsys, files):
    text = run(capsys, *files, "--module", "mynet.py:Flax", "--out", "kept")
    assert text.startswith(f"Checked {', '.join(files)}: Flax(), ")
    table = mdjax.table.read_table("kept/table")
    assert (table.models["status_code"] == "ok").all() and len(table.pairs) == len(files) - 1


def test_a_module_of_a_known_network_becomes_a_zoo(folder):
    once = [zip(*(np.load("my.npz")[f"{part}_{half}"] for part in "xy")) for half in ("train", "test")]
    found = mdjax.check("plain0.pt", data=once, layout="nhwc", module=plain(3), out="kept", show_progress=False)
    assert found.refused == {} and found.notes == () and Zoo("kept/zoo").manifest["family"].tolist() == ["sequence"]
    assert found.verdict.to_text() in found.to_text()


def test_broken_weights_are_the_verdict(folder, capsys):
    text = run(capsys, "nan.pt", "--nonlinearity", "tanh", "--report", "why.html")
    assert "nan.pt: its weights are not finite, as after a training that diverged. Take an earlier checkpoint." in text
    assert "nan.pt: diverged" in text and "A second checkpoint" not in text
    assert "weights are not finite" in Path("why.html").read_text()


def test_what_cannot_be_read_is_left_out_and_told(folder, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["check", "plain0.pt", "damaged.pt", "--data", "my.npz", "--nonlinearity", "tanh"])
    text = capsys.readouterr().out
    assert stop.value.code == 1
    assert text.startswith("Checked plain0.pt: ")
    assert "Left out: damaged.pt: it is truncated, damaged, or not written by torch.save." in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.pt"], "There is no file or folder none.pt. Give a checkpoint."),
        (["damaged.pt"], "Cannot check damaged.pt on my: it is truncated, damaged"),
        (["damaged.pt", "branching0.pt"], r"Cannot check damaged.pt \(nor 1 more\) on my: "),
        (["branching0.pt"], "no known family; give the network's code with --module FILE.py:CLASS"),
        (["orbax"], "orbax is a Flax checkpoint, which holds no network: give the network's code with --module"),
        (["flax0.msgpack"], "flax0.msgpack is a Flax checkpoint"),
        (["plain0.pt"], "its weights do not tell its nonlinearity. Give nonlinearity= one of relu"),
        (["plain0.pt", "narrow.pt", "--nonlinearity", "tanh"], "plain0.pt and narrow.pt are of different networks"),
        (["plain0.pt", "--module", "mynet.py:Branching"], r"it lacks 8 entries of Branching\(\), first head.bias"),
        (["plain0.pt", "--module", "mynet.py:Flax"], "it cannot be read"),
        (["branching0.pt", "--module", "mynet.py:Other"], "mynet.py has no 'Other'; it has Branching"),
        (["branching0.pt", "--module", "other.py:Net"], "There is no file other.py"),
        (
            ["plain0.pt", "--module", "mynet.py:Branching", "--nonlinearity", "tanh"],
            "The module tells its nonlinearity",
        ),
        (
            ["orbax", "--module", "mynet.py:Flax", "--fact", "max_pool=true"],
            "which the fact max_pool does not change. Leave it out, or give some of width, depth, batch_size",
        ),
        (["plain0.pt", "--fact", "input_shape=4x4x1"], "The data tell the shape of inputs"),
        (["plain0.pt", "--fact", "nonlinearity"], "Cannot read the fact 'nonlinearity'. Write name=value"),
        (["plain0.pt", "--fact", "nonlinearty=tanh"], "Unknown fact 'nonlinearty'"),
        (["plain0.pt", "--tree", "none.json"], "Cannot read the trees in none.json"),
        (["plain0.pt", "--preset", "slow", "--nonlinearity", "tanh"], "Unknown preset 'slow'"),
        (["plain0.pt", "--out", "damaged.pt"], "Cannot write the folder damaged.pt: "),
        (["plain0.pt", "--report", "damaged.pt/why.html"], "Cannot write damaged.pt/why.html: "),
        (["plain0.pt", "--layout", "nwch"], "layout is 'nwch'. Choose one of nhwc"),
    ],
)
def test_mistakes_are_told_in_one_sentence(folder, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(["check", *arguments, "--data", "my.npz"])
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2
    assert error.startswith("mdjax: error: ") and len(error.splitlines()) == 1
    assert re.search(message, error), error


def test_data_have_to_fit(folder):
    with pytest.raises(InputError, match=r"Cannot check plain0.pt on five: its first layer reads 16 numbers"):
        mdjax.check("plain0.pt", data="five.npz", facts={"nonlinearity": "tanh"})
    with pytest.raises(InputError, match=r"Cannot check orbax on five: its array params/Dense_0/kernel is of shape"):
        mdjax.check("orbax", data="five.npz", module="mynet.py:Flax")
    squares = nn.Sequential([lambda x: x.reshape(len(x), 16), nn.Dense(3)])
    with pytest.raises(
        InputError, match=r"Cannot call Sequential\(\) on the data five: on inputs of \[2, 3\] it raises"
    ):
        mdjax.check("orbax", data="five.npz", module=squares)
    with pytest.raises(InputError, match="Give one file or several"):
        mdjax.check([], data="my.npz")


@needs_torchax
def test_modules_have_to_fit(folder):
    with pytest.raises(InputError, match=r"Cannot call Branching\(\) on the data five: .*Give the data that it reads"):
        mdjax.check("branching0.pt", data="five.npz", module="mynet.py:Branching")
    with pytest.raises(InputError, match="batch_size is 'many'. Give a whole number"):
        mdjax.check("branching0.pt", data="my.npz", module="mynet.py:Branching", facts={"batch_size": "many"})
    with pytest.raises(InputError, match="The weights tell the network's width. Leave the fact width out"):
        mdjax.check("plain0.pt", data="my.npz", module=plain(0), facts={"width": 5})


@needs_torchax
def test_facts_of_any_module_let_a_calibration_speak(folder):
    rng = np.random.default_rng(1)
    points = Points(10 ** rng.uniform(-4, -2, 12), rng.integers(1, 8, 12).astype(float), rng.uniform(0.1, 1, 12))
    calibration = Calibration(Surface.fitted(points, rng.uniform(30, 60, 12)), {}, {}, 12)
    facts = {"width": "6", "batch_size": "16", "learning_rate": "0.05"}
    for file, module in (("branching0.pt", "mynet.py:Branching"), ("orbax", "mynet.py:Flax")):
        found = mdjax.check(
            file, data="my.npz", module=module, facts=facts, trees=calibration, preset="fast", show_progress=False
        )
        row = found.table.configurations.iloc[0]
        assert (row["width"], row["batch_size"], row["learning_rate"]) == (6, 16, 0.05)
        assert found.verdict.stage in ("calibration", "mismatch") and found.verdict.calibration is not None


@needs_torchax
def test_a_pruned_module_is_checked(folder):
    network = plain(0)
    prune.l1_unstructured(network[1], "weight", 0.5)
    branching = torch.nn.Sequential(network, torch.nn.LayerNorm(3))
    branching(torch.ones(2, 16))  # leaves a weight that was computed beside the parameters
    torch.save(branching.state_dict(), "pruned.pt")
    found = mdjax.check("pruned.pt", data="my.npz", module=branching, preset="fast", show_progress=False)
    expected = torch.nn.functional.cross_entropy(
        branching(torch.from_numpy(np.load("my.npz")["x_train"])), torch.from_numpy(np.load("my.npz")["y_train"])
    )
    assert found.table.models["train_loss"][0] == pytest.approx(float(expected), rel=1e-4)


def test_missing_torchax_is_told(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchax", None)
    with pytest.raises(InputError, match=r"needs torchax, which is not installed. Run pip install 'mdjax\[torchax\]'"):
        mdjax.check("branching0.pt", data="my.npz", module="mynet.py:Branching")


def test_trainings_of_other_settings_are_no_seeds(folder):
    for batch_size in (16, 32):
        path = Path(f"different_knobs_subset_10/bs_{batch_size}/normal/ResNet18_w2")
        path.mkdir(parents=True)
        torch.save(random_resnet(2, batch_size).state_dict(), path / "net_exp_0.pkl")
    found = [str(path) for path in sorted(Path("different_knobs_subset_10").rglob("*.pkl"))]
    with pytest.raises(InputError, match="are of different trainings, with batch_size 16 and 32, but a verdict"):
        mdjax.check(found, data="digits32")


def test_a_folder_of_another_check_is_kept(folder):
    options = {"data": "my.npz", "facts": {"nonlinearity": "tanh"}, "out": "kept", "show_progress": False}
    first = mdjax.check("plain0.pt", **options)
    with pytest.raises(InputError, match="holds other models, or was told otherwise of them. Choose another folder"):
        mdjax.check("plain1.pt", **options)
    with pytest.raises(InputError, match="holds other models, or was told otherwise of them"):
        mdjax.check("plain0.pt", **{**options, "facts": {"nonlinearity": "tanh", "batch_size": 32}})
    pd.testing.assert_frame_equal(mdjax.table.read_table("kept/table").models, first.table.models)


def test_arrays_and_objects_are_taken_as_well(folder):
    data = {name: array for name, array in np.load("my.npz").items()}
    module = nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(3)])
    variables = module.init(jax.random.key(0), data["x_train"])
    Path("dense.msgpack").write_bytes(serialization.to_bytes(variables))
    found = mdjax.check(Path("dense.msgpack"), data=data, module=module, show_progress=False)
    assert found.checked.startswith("Checked dense.msgpack: Sequential(), 51 parameters, measured on data.")
    assert found.table.models["status_code"].tolist() == ["ok"]
