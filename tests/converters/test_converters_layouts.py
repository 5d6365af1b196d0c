"""Layouts: which model a file is, by its names and configs; and whole trees on their way to a diagnosis."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch_checkpoints import stored_model
from torch_resnet import random_resnet
from torch_zoo import config, network, write_trial

import converters
from converters import layouts
from converters.cli import main
from converters.layouts.contract import Candidate
from mdjax.cli import main as mdjax_main
from mdjax.errors import InputError
from mdjax.table import read_table
from mdjax.zoo.data import load
from mdjax.zoo.store import Zoo

LINEAR = {"linear.weight": torch.arange(12.0).reshape(3, 4), "linear.bias": torch.ones(3)}


def convert(src: Path, out: Path | None, **options) -> converters.Report:
    return converters.convert(src, out, show_progress=False, **options)


def found(src: Path, format: str = "auto") -> dict[str, Candidate]:
    """Path below `src` → what was found there, all of it models."""
    claims = layouts.find(src, format)
    assert all(isinstance(claim, Candidate) for claim in claims), claims
    return {claim.path.relative_to(src).as_posix(): claim for claim in claims}


def write(root: Path, *names: str, content=LINEAR) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, path)


# ModelZoos.


def test_a_trial_gives_its_config_and_epochs(tmp_path):
    zoo = tmp_path / "tune_zoo"
    write_trial(zoo / "trial_a", config(model__nlin="tanh", model__dropout=0.5), [0, 2])
    write_trial(zoo / "trial_b", config(model__nlin="tanh", model__dropout=0.5, seed=7), [2], padded=True)
    write_trial(zoo / "trial_c", config(model__nlin="tanh", model__dropout=0.5, optim__lr=0.01), [2])
    report = convert(tmp_path, tmp_path / "zoo")
    assert not report.refused
    manifest = Zoo(tmp_path / "zoo").manifest.set_index("model_id")
    assert sorted(manifest.index) == [f"tune_zoo/trial_{name}" for name in ("a/e0", "a/e2", "b/e2", "c/e2")]

    row = manifest.loc["tune_zoo/trial_b/e2"]
    assert (row["seed"], row["epochs"], row["batch_size"], row["dataset"]) == (7, 2, 10, "mnist")
    assert (row["learning_rate"], row["weight_decay"], row["momentum"]) == (1e-3, 1e-3, 0.9)
    assert (row["optimizer"], row["initialisation"]) == ("adam", "kaiming_uniform")
    assert (row["nonlinearity"], row["dropout"]) == ("tanh", 0.5)
    assert (row["logged_train_loss"], row["logged_test_acc"]) == (pytest.approx(2 / 3), pytest.approx(0.1))
    # At epoch 0 nothing was trained, nor its training loss measured.
    assert np.isnan(manifest.loc["tune_zoo/trial_a/e0", "logged_train_loss"])
    assert manifest.loc["tune_zoo/trial_a/e0", "logged_test_loss"] == 2.5
    names = manifest["configuration"]
    assert names["tune_zoo/trial_a/e2"] == names["tune_zoo/trial_b/e2"]
    assert names.nunique() == 3
    assert names["tune_zoo/trial_a/e2"].startswith("tune_zoo/CNN-bs10-adam-lr0.001-wd0.001-tanh-d0.5-kaiming_uniform-")


@pytest.mark.parametrize("dropout", [0, 0.5])
@pytest.mark.parametrize(("kind", "nonlinearity"), [("CNN", "tanh"), ("CNN2", "relu")])
def test_the_network_is_that_of_the_config(tmp_path, kind, nonlinearity, dropout):
    fields = config(model__type=kind, model__nlin=nonlinearity, model__dropout=dropout, model__channels_in=3)
    write_trial(tmp_path / "zoo" / "trial", fields, [1])
    convert(tmp_path / "zoo", tmp_path / "out")
    zoo = Zoo(tmp_path / "out")
    params, state = stored_model(zoo, "zoo/trial/e1")
    images = np.random.RandomState(0).normal(size=(4, 28, 28, 3)).astype(np.float32)
    model = zoo.architecture(zoo.groups[0]).model()
    with torch.no_grad():
        expected = network(fields, 1)(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(model.apply(params, state, images), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("params", "results", "reason"),
    [
        (None, None, "has neither a params.json nor a result.json with its config"),
        ("[1]", "hello", "has neither a params.json nor a result.json with its config"),
        ("[" * 5000, None, "has neither a params.json nor a result.json with its config"),
        ('{"model::nlin": "relu"}', None, "its trial's config has the seed 'None', not a whole number"),
        ('{"seed": 1e3}', None, "has the seed '1000.0'"),
    ],
)
def test_a_trial_without_a_config_is_refused(tmp_path, params, results, reason):
    write(tmp_path, "trial/checkpoint_3/checkpoints")
    for name, text in (("params.json", params), ("result.json", results)):
        if text is not None:
            (tmp_path / "trial" / name).write_text(text)
    (claim,) = layouts.find(tmp_path)
    assert reason in claim.reason


def test_a_config_may_come_from_the_log_and_hold_anything(tmp_path):
    """Free text in a config neither stops the sweep nor spoils the columns of the others."""
    odd = {
        "training::batchsize": 12.5,
        "optim::lr": "0.1",
        "optim::wd": 10**400,
        "optim::momentum": [0.9],
        "optim::optimizer": "a\ud800b",
        "model::type": "x" * 1000,
        "model::width": {"deep": None},
        "model::init_type": True,
        "dataset::dump": 3,
    }
    write_trial(tmp_path / "zoo" / "good", config(), [1])
    write_trial(tmp_path / "zoo" / "odd", config(), [1])
    (tmp_path / "zoo" / "odd" / "params.json").unlink()
    (tmp_path / "zoo" / "odd" / "result.json").write_text(json.dumps({"config": config() | odd}) + "\nnot json\n3\n")
    report = convert(tmp_path / "zoo", tmp_path / "out")
    assert len(report.converted) == 2
    manifest = Zoo(tmp_path / "out").manifest.set_index("model_id")
    row = manifest.loc["zoo/odd/e1"]
    assert row[["batch_size", "learning_rate", "weight_decay", "momentum", "initialisation"]].isna().all()
    assert row["optimizer"] == "a?b"
    assert manifest.loc["zoo/good/e1", "batch_size"] == 10


# The others.


def test_runs_of_mode_connectivity(tmp_path):
    write(tmp_path, "runs/a/checkpoint-0.pt", "runs/a/checkpoint-50.pt", "runs/b/checkpoint-50.pt")
    command = "python3 train.py --dir=runs/{} --dataset=CIFAR10 --model VGG16 --lr=0.05 --wd 5e-4 --seed={}\n"
    for name, seed in (("a", 1), ("b", 2)):
        (tmp_path / "runs" / name / "command.sh").write_text(command.format(name, seed))
    write(tmp_path, "runs/vgg-seed3/checkpoint-50.pt", "runs/vgg-seed4/checkpoint-50.pt")
    (tmp_path / "runs/vgg-seed4/command.sh").write_bytes(b"\xff 'unfinished")
    claims = found(tmp_path)
    late = claims["runs/b/checkpoint-50.pt"]
    assert late.model_id == "runs/b/e50"
    assert (late.seed, late.data) == (2, "cifar10")
    assert late.known == {
        "batch_size": 128,
        "learning_rate": 0.05,
        "weight_decay": 5e-4,
        "momentum": 0.9,
        "epochs": 50,
        "dataset": "cifar10",
    }
    assert late.configuration == claims["runs/a/checkpoint-50.pt"].configuration
    assert late.configuration != claims["runs/a/checkpoint-0.pt"].configuration
    unknown = [claims[f"runs/vgg-seed{seed}/checkpoint-50.pt"] for seed in (3, 4)]
    assert [(claim.seed, claim.configuration) for claim in unknown] == [(3, "runs/vgg-e50"), (4, "runs/vgg-e50")]


def test_runs_of_pytorch_cifar(tmp_path):
    runs = [f"checkpoint/resnet18/Friday_{hour:02d}_July" for hour in (1, 2)]
    weights = {"fc.weight": torch.zeros(10, 3072)}
    kept = (f"{runs[0]}/resnet18-131-best.pth", f"{runs[1]}/resnet18-200-regular.pth")
    write(tmp_path, *kept, content=weights)
    write(tmp_path, *(f"{runs[0]}/resnet18-{name}.pth" for name in ("121-best", "140-regular")))
    write(tmp_path, f"{runs[1]}/resnet18-190-regular.pth")
    content = {"net": {f"module.{name}": value for name, value in weights.items()}, "acc": 95.2, "epoch": 180}
    write(tmp_path, "pytorch-cifar_seed2/checkpoint/ckpt.pth", content=content)
    report = convert(tmp_path, tmp_path / "zoo")
    assert not report.refused
    assert {outcome.path.name for outcome in report.converted} == {
        "resnet18-131-best.pth",
        "resnet18-200-regular.pth",
        "ckpt.pth",
    }
    manifest = Zoo(tmp_path / "zoo").manifest.set_index("model_id")
    first, second = (manifest.loc[f"resnet18/{run.rpartition('/')[2]}/resnet18"] for run in runs)
    assert first["configuration"] == second["configuration"]
    assert (first["seed"], first["epochs"], first["checkpoint"], first["dataset"]) == (0, 131, "best", "cifar100")
    assert (second["seed"], second["epochs"], second["checkpoint"]) == (1, 200, "last")
    other = manifest.loc["pytorch-cifar_seed2/ckpt.pth"]
    assert (other["seed"], other["epoch"], other["dataset"]) == (2, 180, "cifar10")
    assert other["configuration"].startswith("pytorch-cifar-sequence-w10-")


@pytest.mark.parametrize(
    ("name", "configuration", "seed", "epoch"),
    [
        ("model.pt", "src", 0, None),
        ("lr0.1/seed12.pth", "src/lr0.1", 12, None),
        ("lr0.1/model_seed=3.ckpt", "src/lr0.1", 3, None),
        ("lr0.1/model-seed-3.best.tar", "src/lr0.1", 3, None),
        ("lr0.1/b.pt", "src/lr0.1", 1, None),
        ("lr0.1/seeds.pt", "src/lr0.1", 1, None),
        ("lr0.1/run_seed4/last.pt", "src/lr0.1/run/last", 4, None),
        ("lr0.1/seed4/best.safetensors", "src/lr0.1/best", 4, None),
        ("lr0.1/seed4/epoch_20.bin", "src/lr0.1-e20", 4, 20),
        ("a/epoch=020-step=9_seed1.ckpt", "src/a-e20", 1, 20),
        ("a/checkpoint_000005/checkpoints", "src/a/checkpoint_000005", 0, None),
    ],
)
def test_a_folder_is_a_configuration_and_its_files_are_seeds(tmp_path, name, configuration, seed, epoch):
    src = tmp_path / "src"
    write(src, "lr0.1/a.pt", name)
    claim = found(src, "files")[name]
    assert (claim.configuration, claim.seed, claim.known.get("epochs")) == (configuration, seed, epoch)
    assert claim.model_id == f"src/{name}"


def test_a_folder_with_two_networks_is_two_configurations(tmp_path):
    write(tmp_path / "src", "seed0.pt", "seed1.pt")
    write(tmp_path / "src", "wide_seed0.pt", content={"w.weight": torch.ones(5, 4)})
    convert(tmp_path / "src", tmp_path / "zoo")
    manifest = Zoo(tmp_path / "zoo").manifest
    sizes = manifest.groupby("configuration").size()
    assert sorted(sizes) == [1, 2]
    assert all(name.startswith("src-sequence-w") for name in sizes.index)


def test_a_single_file_of_any_name_is_converted(tmp_path):
    write(tmp_path, "weights")
    report = convert(tmp_path / "weights", tmp_path / "zoo")
    assert [outcome.code for outcome in report.outcomes] == ["converted"]
    assert Zoo(tmp_path / "zoo").data == ""


def test_shards_are_taken_by_their_index_alone(tmp_path):
    for name, entries in (("a-00001-of-00002.bin", ["linear.weight"]), ("a-00002-of-00002.bin", ["linear.bias"])):
        write(tmp_path, name, content={entry: LINEAR[entry] for entry in entries})
    write(tmp_path, "b-00001-of-00002.bin")
    places = {"linear.weight": "a-00001-of-00002.bin", "linear.bias": "a-00002-of-00002.bin"}
    (tmp_path / "a.bin.index.json").write_text(json.dumps({"weight_map": places}))
    report = convert(tmp_path, tmp_path / "zoo")
    assert {outcome.path.name: (outcome.code, outcome.reason) for outcome in report.outcomes} == {
        "a-00001-of-00002.bin": ("skipped", "part of a sharded checkpoint"),
        "a-00002-of-00002.bin": ("skipped", "part of a sharded checkpoint"),
        "a.bin.index.json": ("converted", ""),
        "b-00001-of-00002.bin": ("refused", "it is one of several shards, but no index beside it names it"),
    }


def test_each_file_of_a_mixed_tree_goes_to_its_layout(tmp_path):
    taxonomy = "different_knobs_subset_10/bs_128/normal/ResNet18_w2/net_exp_0.pkl"
    write(tmp_path, taxonomy, "run/checkpoint-3.pt", "x/checkpoint/ckpt.pth", "y/z.pt", "y/optimizer")
    write_trial(tmp_path / "zoo" / "trial", config(), [1])
    claims = found(tmp_path)
    assert {name: claim.model_id for name, claim in claims.items()} == {
        taxonomy: "resnet18-w2-bs128-subset_10-normal-s0",
        "run/checkpoint-3.pt": f"{tmp_path.name}/run/e3",
        "x/checkpoint/ckpt.pth": "x/ckpt.pth",
        "y/z.pt": f"{tmp_path.name}/y/z.pt",
        "zoo/trial/checkpoint_1/checkpoints": "zoo/trial/e1",
    }
    for format in layouts.LAYOUTS:
        assert len(found(tmp_path, format)) == (5 if format == "files" else 1)


def test_what_a_file_holds_beside_its_weights_is_known(tmp_path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.8, weight_decay=1e-4)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    optimizer.param_groups[0]["lr"] = 0.001
    write(tmp_path, "a.pt", content={"state_dict": LINEAR, "optimizer": optimizer.state_dict(), "epoch": 3})
    lightning = {"state_dict": LINEAR, "hyper_parameters": {"lr": 0.2, "batch_size": 64, "name": "x"}, "epoch": 4}
    write(tmp_path, "b.ckpt", content=lightning)
    convert(tmp_path, tmp_path / "zoo")
    manifest = Zoo(tmp_path / "zoo").manifest.set_index("model_id")
    first, second = manifest.loc[f"{tmp_path.name}/a.pt"], manifest.loc[f"{tmp_path.name}/b.ckpt"]
    assert (first["learning_rate"], first["momentum"], first["weight_decay"], first["epoch"]) == (0.1, 0.8, 1e-4, 3)
    assert (second["learning_rate"], second["batch_size"], second["epoch"]) == (0.2, 64, 4)


def test_averaged_weights_are_another_model(tmp_path):
    averaged = {name: value + 1 for name, value in LINEAR.items()}
    write(tmp_path / "src", "a.pt", content={"state_dict": LINEAR, "state_dict_ema": averaged})
    convert(tmp_path / "src", tmp_path / "zoo")
    convert(tmp_path / "src", tmp_path / "zoo", reading=converters.Reading(ema=True))
    zoo = Zoo(tmp_path / "zoo")
    assert zoo.manifest["model_id"].tolist() == ["src/a.pt", "src/a.pt-ema"]
    assert zoo.manifest["weights_hash"].nunique() == zoo.manifest["configuration"].nunique() == 2


def test_files_that_changed_since_the_last_search_are_read_anew(tmp_path):
    write_trial(tmp_path / "zoo" / "trial", config(), [1])
    assert found(tmp_path)["zoo/trial/checkpoint_1/checkpoints"].seed == 0
    (tmp_path / "zoo" / "trial" / "params.json").write_text(json.dumps(config(seed=5)))
    assert found(tmp_path)["zoo/trial/checkpoint_1/checkpoints"].seed == 5


# Data and facts.


def test_the_data_is_that_of_the_layout_or_as_given(tmp_path):
    src = tmp_path / "src"
    write(src, "a.pt", content={"fc.weight": torch.ones(10, 64)})
    digits = convert(src, tmp_path / "digits", data="digits")
    assert Zoo(tmp_path / "digits").data == "digits"
    assert Zoo(tmp_path / "digits").fingerprint is not None
    assert Zoo(tmp_path / "digits").manifest["input_shape"].tolist() == ["8x8x1"]
    assert digits.exit_code == 0
    assert (
        convert(src, tmp_path / "cifar", data="cifar10")
        .refused[0]
        .reason.startswith("its first layer reads 64 numbers, but input_shape is (32, 32, 3)")
    )
    # A zoo that is there says what the data is, where the files do not.
    write(src, "b.pt", content={"fc.weight": torch.ones(10, 64)})
    assert len(convert(src, tmp_path / "digits").converted) == 1
    write(src, "run/checkpoint/ckpt.pth", "c/checkpoint-1.pt")
    (src / "c" / "command.sh").write_text("python train.py --dataset CIFAR10")
    with pytest.raises(InputError, match="holds models trained on 'digits', not 'cifar10'"):
        convert(src, tmp_path / "digits")


def test_facts_that_weights_do_not_tell_may_be_given(tmp_path, capsys):
    layers = {"fc1.weight": torch.ones(5, 12), "fc1.bias": torch.ones(5), "fc2.weight": torch.ones(3, 5)}
    write(tmp_path / "src", "a.pt", content=layers)
    command = [str(tmp_path / "src"), "--out", str(tmp_path / "zoo")]
    for more, code in (([], 1), (["--fact", "nonlinearity=tanh", "--fact", "input_shape=2x2x3"], 0)):
        with pytest.raises(SystemExit) as stopped:
            main([*command, *more])
        assert stopped.value.code == code
    assert "its weights do not tell its nonlinearity" in capsys.readouterr().out
    zoo = Zoo(tmp_path / "zoo")
    assert zoo.manifest["input_shape"].tolist() == ["2x2x3"]
    assert "tanh" in zoo.architecture(zoo.groups[0]).variant
    for fact in ("nonlinearity", "input_shape=2x", "=3", "nonlinearty=tanh"):
        with pytest.raises(SystemExit) as stopped:
            main([*command, "--fact", fact])
        assert stopped.value.code == 2
        assert "mdjax-convert: error: " in capsys.readouterr().err


def test_dry_run_writes_nothing_and_counts_what_is_there(tmp_path):
    write(tmp_path / "src", "a.pt", "b.pt")
    report = convert(tmp_path / "src", None, dry_run=True)
    assert (report.zoo, len(report.converted)) == (None, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["src"]
    convert(tmp_path / "src", tmp_path / "zoo")
    write(tmp_path / "src", "c.pt")
    before = sorted(tmp_path.rglob("*"))
    report = convert(tmp_path / "src", tmp_path / "zoo", dry_run=True)
    assert [len(report.converted), len(report.skipped)] == [1, 2]
    assert sorted(tmp_path.rglob("*")) == before


# Killed for real, and the whole way to a diagnosis.


def test_a_process_that_is_killed_goes_on(tmp_path):
    src, out = tmp_path / "src", tmp_path / "zoo"
    write(src, *(f"c{number // 4:02d}/seed{number % 4}.pt" for number in range(60)))
    code = (
        "import sys, time\n"
        "from converters import conversion\n"
        "conversion.MAX_MODELS = 8\n"
        "append = conversion.Zoo.append\n"
        "def slow(*arguments):\n"
        "    append(*arguments); print('group', flush=True); time.sleep(0.2)\n"
        "conversion.Zoo.append = slow\n"
        f"conversion.convert({str(src)!r}, {str(out)!r}, show_progress=False)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(2):
            assert process.stdout.readline() == "group\n"
        process.send_signal(signal.SIGKILL)
    there = len(Zoo(out))
    assert 16 <= there < 60
    report = convert(src, out)
    assert len(report.converted) == 60 - there
    assert len(report.skipped) == there
    whole = Zoo(out).manifest
    convert(src, tmp_path / "undisturbed")
    columns = ["model_id", "configuration", "seed", "weights_hash"]
    ours, theirs = (
        m[columns].sort_values("model_id").to_numpy() for m in (whole, Zoo(tmp_path / "undisturbed").manifest)
    )
    assert (ours == theirs).all()


def images_npz(path: Path, shape: tuple[int, int, int]) -> Path:
    """Some of the digits as images of another shape, enlarged and framed."""
    digits, (side, _, channels) = load("digits"), shape
    factor, frame = side // 8, (side % 8) // 2
    arrays = {}
    for split, count in (("train", 96), ("test", 48)):
        images = getattr(digits, f"x_{split}")[:count].repeat(factor, axis=1).repeat(factor, axis=2)
        images = np.pad(images, ((0, 0), (frame, frame), (frame, frame), (0, 0)))
        arrays[f"x_{split}"], arrays[f"y_{split}"] = (
            images.repeat(channels, axis=3),
            getattr(digits, f"y_{split}")[:count],
        )
    np.savez(path, **arrays)
    return path


def taxonomy_tree(root: Path) -> None:
    folder = "checkpoint/different_knobs_subset_{}/bs_{}/normal/ResNet18_w{}/net_exp_{}.pkl"
    for width, share, batch_size in ((1, "10", 32), (2, "05", 256)):
        for seed in range(2):
            name = folder.format(share, batch_size, width, seed)
            write(root, name, content=random_resnet(width, 10 * width + seed).state_dict())


def modelzoos_tree(root: Path) -> None:
    for kind in ("CNN", "CNN2"):
        for seed in range(2):
            fields = config(model__type=kind, model__nlin="tanh", training__batchsize=32, seed=seed)
            write_trial(root / "tune_zoo" / f"trial_{kind}_{seed}", fields, [5, 20], padded=kind == "CNN2")


TREES = {
    "taxonomy": (
        taxonomy_tree,
        (32, 32, 3),
        "losses,cka",
        {"bs": [32, 256], "width": [1, 2], "data": [10.0, 5.0], "epochs": []},
    ),
    "modelzoos": (
        modelzoos_tree,
        (28, 28, 1),
        "losses,hessian,mode_connectivity,cka",
        {"bs": [32] * 4, "width": [6, 6, 8, 8], "data": [10.0] * 4, "epochs": [5, 20, 5, 20]},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", TREES)
def test_a_tree_is_converted_measured_and_diagnosed(layout, tmp_path, capsys):
    tree, shape, metrics, facts = TREES[layout]
    tree(tmp_path / "src")
    data = images_npz(tmp_path / "digits.npz", shape)
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "src"), "--out", str(tmp_path / "zoo"), "--data", str(data)])
    assert stopped.value.code == 0
    small = ["hessian.num_samples=32", "hessian.max_probes=16", "mode_connectivity.settings.num_steps=10"]
    small += ["mode_connectivity.num_points=3", "cka.num_batches=1"]
    settings = [word for text in small if text.split(".")[0] in metrics for word in ("--set", text)]
    arguments = ["--out", str(tmp_path / "table"), "--preset", "fast", "--metrics", metrics]
    mdjax_main(["measure", str(tmp_path / "zoo"), *arguments, *settings])
    table = read_table(tmp_path / "table")
    # The curvature of networks that nobody trained is not known to the accuracy asked for; nothing else went wrong.
    assert table.models["status"].str.match("ok$|hessian (trace|eigenvalue)").all(), table.models["status"]
    rows = table.configurations.sort_values(["width", "epochs"], ignore_index=True)
    assert len(table.pairs) == len(rows) == len(facts["bs"])
    assert rows["num_models"].tolist() == [2] * len(rows)
    for name, values in facts.items():
        assert rows[name].dropna().tolist() == values
    features = ["train_error", "test_error", "CKA"]
    features += ["hessian_e", "hessian_t", "mode_connectivity"] if "hessian" in metrics else []
    assert rows[features].notna().all(axis=None)
    capsys.readouterr()
    mdjax_main(["diagnose", str(tmp_path / "table"), "--out", str(tmp_path / "verdicts.csv")])
    assert f"{len(rows)} configurations" in capsys.readouterr().out
    verdicts = pd.read_csv(tmp_path / "verdicts.csv")
    assert sorted(verdicts["configuration"]) == sorted(rows["configuration"])
    assert verdicts["cause"].notna().all()
