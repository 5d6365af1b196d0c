"""A small tree in the published layout, converted once per module, and limits that small files exceed."""

from pathlib import Path

import numpy as np
import pytest
from torch_checkpoints import SUBSET, WIDE, convert, save
from torch_resnet import TorchResNet18, random_resnet

import converters
from converters import safetensors_files
from mdjax import archives, memory
from mdjax.zoo.store import Zoo


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.RandomState(0).normal(size=(4, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def networks() -> dict[tuple[int, int], TorchResNet18]:
    """Width and seed → a network; seed 9 is never to be taken."""
    return {(width, seed): random_resnet(width, 10 * width + seed) for width in (2, 3) for seed in (0, 1, 9)}


@pytest.fixture(scope="module")
def published(tmp_path_factory, networks) -> Path:
    """A small tree in the published layout: widths 2 and 3, two seeds, all three kinds of checkpoint."""
    root = tmp_path_factory.mktemp("published")
    save(root, f"{SUBSET}/net_exp_0.pkl", networks[2, 9])
    save(root, f"{SUBSET}/net_exp_0_best.pkl", networks[2, 0])
    save(root, f"{SUBSET}/net_exp_1.pkl", networks[2, 1], _use_new_zipfile_serialization=False)
    save(root, f"{WIDE}/net_exp_0_best.pkl", networks[3, 9])
    save(root, f"{WIDE}/net_exp_0_early_stopped_model.pkl", networks[3, 0])
    save(root, f"{WIDE}/net_exp_1.pkl", networks[3, 1])
    (root / SUBSET / "metrics").mkdir()
    (root / SUBSET / "metrics" / "hessian.pkl").write_bytes(b"not looked at")
    return root


@pytest.fixture(scope="module")
def converted(published, tmp_path_factory) -> tuple[converters.Report, Zoo]:
    out = tmp_path_factory.mktemp("out") / "zoo"
    return convert(published, out), Zoo(out)


@pytest.fixture
def low_limits(monkeypatch):
    monkeypatch.setattr(archives, "MAX_ENTRIES", 50)
    monkeypatch.setattr(memory, "_SLACK", 2**20)
    monkeypatch.setattr(safetensors_files, "MAX_HEADER", 2048)
