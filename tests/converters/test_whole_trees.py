"""Whole trees of checkpoints, converted, measured and diagnosed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from torch_checkpoints import save
from torch_resnet import random_resnet
from torch_zoo import config, write_trial

from converters.cli import main
from mdjax.cli import main as mdjax_main
from mdjax.table import read_table
from mdjax.zoo.data import load


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
            save(root, name, random_resnet(width, 10 * width + seed))


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
        "losses,cka",
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
    settings = ["--set", "cka.num_batches=1"]
    arguments = ["--out", str(tmp_path / "table"), "--preset", "fast", "--metrics", metrics]
    mdjax_main(["measure", str(tmp_path / "zoo"), *arguments, *settings])
    table = read_table(tmp_path / "table")
    assert (table.models["status"] == "ok").all(), table.models["status"]
    rows = table.configurations.sort_values(["width", "epochs"], ignore_index=True)
    assert len(table.pairs) == len(rows) == len(facts["bs"])
    assert rows["num_models"].tolist() == [2] * len(rows)
    for name, values in facts.items():
        assert rows[name].dropna().tolist() == values
    features = ["train_error", "test_error", "CKA"]
    assert rows[features].notna().all(axis=None)
    capsys.readouterr()
    mdjax_main(["diagnose", str(tmp_path / "table"), "--out", str(tmp_path / "verdicts.csv")])
    assert f"{len(rows)} configurations" in capsys.readouterr().out
    verdicts = pd.read_csv(tmp_path / "verdicts.csv")
    assert sorted(verdicts["configuration"]) == sorted(rows["configuration"])
    assert verdicts["cause"].notna().all()
