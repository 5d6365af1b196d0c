"""Wrappers: the one state_dict in a file, and the averaged one beside it."""

import numpy as np
import pytest
import torch
from torch_checkpoints import OTHER, OTHERS, STATE, Network, assert_same, prefixed

import converters
from converters import state_dicts, wrappers

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


def test_files_of_averaged_weights_alone_name_the_option(tmp_path):
    for name in ("state_dict_ema", "model_ema", "ema"):
        torch.save({name: STATE, "epoch": 3}, tmp_path / "model.pt")
        with pytest.raises(converters.RefusedError, match=rf"averaged weights alone \({name}\). Take them with --ema"):
            converters.read_state_dict(tmp_path / "model.pt")
        assert_same(converters.read_state_dict(tmp_path / "model.pt", ema=True))


@pytest.mark.parametrize("ema", [False, True])
def test_averaged_weights_without_names_are_refused(tmp_path, ema):
    shadow = {"decay": 0.99, "shadow_params": list(STATE.values())}
    for content in ({"ema_state_dict": shadow}, {"ema": shadow, "step": 3}, shadow):
        torch.save(content, tmp_path / "model.pt")
        with pytest.raises(converters.RefusedError, match="a list without names .* save model.state_dict"):
            converters.read_state_dict(tmp_path / "model.pt", ema=ema)


BESIDE = {
    "criterion.weight": {"criterion.weight": torch.ones(10)},
    "a metric": {"acc.total": torch.tensor(5), "acc.correct": torch.tensor(3)},
    "metrics by phase": {
        "train_acc.total": torch.tensor(5),
        "val_f1.tp": torch.ones(2),
        "test_metrics.a.fn": torch.ones(2),
    },
    "loss": {"loss_fn.pos_weight": torch.ones(2), "val_loss.value": torch.tensor(1.0)},
}


@pytest.mark.parametrize("name", BESIDE)
def test_criteria_and_metrics_beside_a_network_are_left_out_and_said(tmp_path, name):
    torch.save({"state_dict": {**prefixed("model."), **BESIDE[name]}}, tmp_path / "model.ckpt")
    assert_same(converters.read_state_dict(tmp_path / "model.ckpt"))
    (note,) = state_dicts.read_checkpoint(tmp_path / "model.ckpt").notes
    assert all(entry.partition(".")[0] in note for entry in BESIDE[name])


def test_what_else_lies_beside_a_network_is_kept(tmp_path):
    torch.save({"state_dict": {**prefixed("model."), "teacher.weight": torch.ones(2)}}, tmp_path / "model.ckpt")
    assert "teacher.weight" in converters.read_state_dict(tmp_path / "model.ckpt")
    torch.save({**STATE, "accuracy.weight": torch.ones(2)}, tmp_path / "model.pt")
    assert "accuracy.weight" in converters.read_state_dict(tmp_path / "model.pt")


def test_long_names_and_many_of_them_are_not_told_whole():
    long = "x" * 10**6
    weights = {"w": torch.ones(2)}
    for content in ({long: 1, (long,) * 1000: 2}, {f"{long}{k}": weights for k in range(9)}):
        with pytest.raises(converters.RefusedError) as told:
            wrappers.unwrap(content)
        assert len(str(told.value)) < 400
