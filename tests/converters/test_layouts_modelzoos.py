"""The ModelZoos' layout: trials, their configs and their logs."""

import json

import numpy as np
import pytest
import torch
from torch_checkpoints import convert, stored_model, write
from torch_zoo import config, network, write_trial

from converters import layouts
from mdjax.zoo.store import Zoo


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
