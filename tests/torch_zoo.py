"""Trials of the published ModelZoos on disk, as Ray Tune leaves them, their networks drawn at random."""

import json
from pathlib import Path
from typing import Any

import torch
from torch_families import ModelZooCNN

KINDS = {"CNN": "CNN-s", "CNN2": "CNN-l"}
"""What a config calls a network → its published name."""


def network(config: dict[str, Any], seed: int) -> ModelZooCNN:
    """The network of a trial's config, its weights drawn anew."""
    # Of the CPU alone: torchax, once another test has imported it, adds a device whose generator cannot be asked.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind, channels = KINDS[config["model::type"]], config["model::channels_in"]
        return ModelZooCNN(kind, channels, config["model::nlin"], config["model::dropout"]).eval()


def config(**changes: Any) -> dict[str, Any]:
    """What a trial of the published zoos was started with; __ in a name stands for ::."""
    fields = {
        "model::type": "CNN",
        "model::channels_in": 1,
        "model::o_dim": 10,
        "model::nlin": "relu",
        "model::dropout": 0,
        "model::init_type": "kaiming_uniform",
        "model::use_bias": False,
        "optim::optimizer": "adam",
        "optim::lr": 1e-3,
        "optim::wd": 1e-3,
        "optim::momentum": 0.9,
        "seed": 0,
        "training::batchsize": 10,
        "training::epochs_train": 50,
        "cuda": False,
        "dataset::dump": "/data/zoos/MNIST/tune_zoo/dataset.pt",
    }
    return fields | {name.replace("__", "::"): value for name, value in changes.items()}


def write_trial(folder: Path, fields: dict[str, Any], epochs: list[int], *, padded: bool = False) -> None:
    """A trial as Ray Tune leaves it; each epoch's weights are drawn from a seed of 100 · seed + epoch."""
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps(fields))
    rows = [
        {
            "train_loss": 2.0 / (epoch + 1) if epoch else -999,
            "train_acc": 0.1 * epoch if epoch else -999,
            "test_loss": 2.5 / (epoch + 1),
            "test_acc": 0.05 * epoch,
            "training_iteration": epoch,
            "config": fields,
        }
        for epoch in range(max(epochs) + 1)
    ]
    (folder / "result.json").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (folder / "progress.csv").write_text("train_loss\n")
    for epoch in epochs:
        place = folder / (f"checkpoint_{epoch:06d}" if padded else f"checkpoint_{epoch}")
        place.mkdir()
        weights = network(fields, 100 * fields["seed"] + epoch)
        torch.save(weights.state_dict(), place / "checkpoints")
        torch.save(torch.optim.SGD(weights.parameters(), lr=0.1).state_dict(), place / "optimizer")
