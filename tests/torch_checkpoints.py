"""Checkpoint files for the converters' tests: how they are written, converted and read back."""

import io
import json
import os
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.utils._pytree import tree_map_only
from torch_resnet import TorchResNet18

import converters
from mdjax.zoo.store import Zoo

SUBSET = "checkpoint/different_knobs_subset_10/bs_128/normal/ResNet18_w2"
WIDE = "checkpoint/different_knobs_subset_noisy_05/bs_16/lr_decay/ResNet18_w3"
"""Folders of the published layout, for networks of widths 2 and 3."""

LINEAR = {"linear.weight": torch.arange(12.0).reshape(3, 4), "linear.bias": torch.ones(3)}


class Network(nn.Module):
    """A convolution, BatchNorm and a linear layer: entries of every kind, one of them a counter."""

    def __init__(self, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)
        with torch.no_grad():
            for value in self.state_dict().values():
                value.copy_(torch.randn(value.shape, generator=generator).abs().mul(100))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(images)).mean((2, 3)))


STATE = Network().eval().state_dict()
OTHER = Network(1).state_dict()
EXPECTED = {name: value.numpy() for name, value in STATE.items()}
OTHERS = {name: value.numpy() for name, value in OTHER.items()}
"""Two state_dicts, and what is to be read from files that hold them."""


class Command:
    """What a hostile pickle holds: loading it unsafely runs the command."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray] = EXPECTED, rtol: float = 0.0) -> None:
    """Equal names, types and values."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_allclose(found[name], array, rtol=rtol, err_msg=name)


def prefixed(*prefixes: str) -> dict[str, torch.Tensor]:
    """STATE, with all prefixes before every name."""
    return {"".join(prefixes) + name: value for name, value in STATE.items()}


def saved(content: object, **options) -> bytes:
    """The bytes that torch.save writes."""
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def sharded(path: Path) -> None:
    """Write STATE as two shards, and their index to `path`."""
    names = list(STATE)
    files = {}
    for number, part in enumerate((names[:4], names[4:]), 1):
        shard = f"model-{number:05d}-of-00002.safetensors"
        safetensors.torch.save_file({name: STATE[name] for name in part}, path.parent / shard)
        files |= dict.fromkeys(part, shard)
    path.write_text(json.dumps({"metadata": {}, "weight_map": files}))


def save(root: Path, name: str, network: TorchResNet18, **options) -> Path:
    """Write a network's state_dict to a file below `root`."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path, **options)
    return path


def write(root: Path, *names: str, content=LINEAR) -> None:
    """Write content to every file of `names` below `root`, each with weights of its own: a shift tells them apart."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shift = zlib.crc32(name.encode()) % 9973 / 64
        torch.save(tree_map_only(torch.Tensor, lambda leaf: leaf + shift if leaf.ndim else leaf, content), path)


def convert(src: Path, out: Path | None, **options) -> converters.Report:
    """`converters.convert` without a bar."""
    return converters.convert(src, out, show_progress=False, **options)


def reasons(report: converters.Report) -> dict[str, str]:
    """File name → why it was refused."""
    return {outcome.path.name: outcome.reason for outcome in report.refused}


def torch_logits(network: TorchResNet18, images: np.ndarray) -> np.ndarray:
    """PyTorch's logits of images with the channels last."""
    with torch.no_grad():
        return network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()


def stored_model(zoo: Zoo, model_id: str) -> tuple[Any, Any]:
    """(params, state) of one model of a zoo."""
    row = zoo.manifest.set_index("model_id").loc[model_id]
    return jax.tree.map(lambda leaf: leaf[row["position"]], zoo.read_group(row["group"]))
