"""Wrappers: the one state_dict in a file, and the averaged one beside it."""

import numpy as np
import pytest
import torch
from torch_checkpoints import OTHER, OTHERS, STATE, Network, assert_same, prefixed

import converters

WRAPPERS = {
    "net": lambda: {"net": STATE, "acc": 93.1, "epoch": 3},
    "state_dict and optimizer": lambda: {
        "state_dict": STATE,
        "optimizer": torch.optim.SGD(Network().parameters(), lr=0.1, momentum=0.9).state_dict(),
    },
    "model_state": lambda: {"epoch": 2, "model_state": STATE, "optimizer_state": {}},
    "model": lambda: {"model": STATE, "args": {"lr": 0.1}},
    "a name of its own": lambda: {"generator": STATE, "step": torch.tensor(3)},
    "twice": lambda: {"model": {"state_dict": STATE, "step": 3}},
    "Lightning": lambda: {
        "state_dict": prefixed("model."),
        "pytorch-lightning_version": "2.4.0",
        "hyper_parameters": {"lr": 0.1},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1, "momentum": 0.9}]}],
        "epoch": 4,
    },
    "timm": lambda: {"arch": "resnet18", "state_dict": STATE, "state_dict_ema": OTHER, "epoch": 1},
    "numpy scalar": lambda: {"net": STATE, "acc": np.float64(93.1), "history": np.arange(3), "last": np.int32(3)},
    "DataParallel": lambda: prefixed("module."),
    "compiled in DataParallel": lambda: prefixed("module.", "_orig_mod."),
    "DataParallel compiled": lambda: prefixed("_orig_mod.", "module."),
    "Lightning compiled": lambda: {"state_dict": prefixed("net.", "_orig_mod.")},
    "AveragedModel": lambda: {"n_averaged": torch.tensor(5), **prefixed("module.")},
    "AveragedModel of DataParallel": lambda: {"n_averaged": torch.tensor(5), **prefixed("module.", "module.")},
    "numpy arrays": lambda: {"state_dict": STATE, "mean": np.ones(3)},
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_and_prefixes_are_taken_off(tmp_path, name):
    torch.save(WRAPPERS[name](), tmp_path / "model.ckpt")
    assert_same(converters.read_state_dict(tmp_path / "model.ckpt"))


def test_averaged_weights_are_taken_on_request(tmp_path):
    torch.save(WRAPPERS["timm"](), tmp_path / "model.pth.tar")
    assert_same(converters.read_state_dict(tmp_path / "model.pth.tar", ema=True), OTHERS)
    torch.save({"model": STATE, "model_ema": prefixed("module.")}, tmp_path / "other.pt")
    assert_same(converters.read_state_dict(tmp_path / "other.pt", ema=True))
    torch.save({"model": STATE}, tmp_path / "none.pt")
    with pytest.raises(converters.RefusedError, match="it holds no averaged weights"):
        converters.read_state_dict(tmp_path / "none.pt", ema=True)
