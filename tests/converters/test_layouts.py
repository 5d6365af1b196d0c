"""Layouts: which model a file is, by its names and configs, each file by the layout that knows it."""

import json
from pathlib import Path

import pytest
import torch
from torch_checkpoints import LINEAR, convert, write
from torch_zoo import config, write_trial

from converters import layouts
from converters.layouts.contract import Candidate
from mdjax.zoo.store import Zoo


def found(src: Path, format: str = "auto") -> dict[str, Candidate]:
    """Path below `src` → what was found there, all of it models."""
    claims = layouts.find(src, format)
    assert all(isinstance(claim, Candidate) for claim in claims), claims
    return {claim.path.relative_to(src).as_posix(): claim for claim in claims}


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


def test_a_single_file_of_any_name_is_converted(tmp_path):
    write(tmp_path, "weights")
    report = convert(tmp_path / "weights", tmp_path / "zoo")
    assert [outcome.status for outcome in report.outcomes] == ["converted"]
    assert Zoo(tmp_path / "zoo").data == ""


def test_shards_are_taken_by_their_index_alone(tmp_path):
    for name, entries in (("a-00001-of-00002.bin", ["linear.weight"]), ("a-00002-of-00002.bin", ["linear.bias"])):
        write(tmp_path, name, content={entry: LINEAR[entry] for entry in entries})
    write(tmp_path, "b-00001-of-00002.bin")
    places = {"linear.weight": "a-00001-of-00002.bin", "linear.bias": "a-00002-of-00002.bin"}
    (tmp_path / "a.bin.index.json").write_text(json.dumps({"weight_map": places}))
    report = convert(tmp_path, tmp_path / "zoo")
    assert {outcome.path.name: (outcome.status, outcome.reason) for outcome in report.outcomes} == {
        "a-00001-of-00002.bin": ("skipped", "part of a sharded checkpoint"),
        "a-00002-of-00002.bin": ("skipped", "part of a sharded checkpoint"),
        "a.bin.index.json": ("converted", ""),
        "b-00001-of-00002.bin": ("refused", "it is one of several shards, but no index beside it names it"),
    }


def test_each_file_of_a_mixed_tree_goes_to_its_layout(tmp_path):
    taxonomy = "different_knobs_subset_10/bs_128/normal/ResNet18_w2/net_exp_0.pkl"
    write(tmp_path, taxonomy, "run/checkpoint-3.pt", "x/checkpoint/ckpt.pth", "y/z.pt", "y/optimizer")
    write(tmp_path, "hub/pytorch_model.bin")
    (tmp_path / "hub" / "config.json").write_text('{"model_type": "gpt2", "n_head": 4, "id2label": {"0": "no"}}')
    write_trial(tmp_path / "zoo" / "trial", config(), [1])
    claims = found(tmp_path)
    assert claims["hub/pytorch_model.bin"].facts == {"config": {"model_type": "gpt2", "n_head": 4}, "heads": 4}
    assert {name: claim.model_id for name, claim in claims.items()} == {
        taxonomy: "resnet18-w2-bs128-subset_10-normal-s0",
        "run/checkpoint-3.pt": f"{tmp_path.name}/run/e3",
        "hub/pytorch_model.bin": f"{tmp_path.name}/hub/pytorch_model.bin",
        "x/checkpoint/ckpt.pth": "x/ckpt.pth",
        "y/z.pt": f"{tmp_path.name}/y/z.pt",
        "zoo/trial/checkpoint_1/checkpoints": "zoo/trial/e1",
    }
    for format in layouts.LAYOUTS:
        assert len(found(tmp_path, format)) == (6 if format == "files" else 1)


def test_files_that_changed_since_the_last_search_are_read_anew(tmp_path):
    write_trial(tmp_path / "zoo" / "trial", config(), [1])
    assert found(tmp_path)["zoo/trial/checkpoint_1/checkpoints"].seed == 0
    (tmp_path / "zoo" / "trial" / "params.json").write_text(json.dumps(config(seed=5)))
    assert found(tmp_path)["zoo/trial/checkpoint_1/checkpoints"].seed == 5
