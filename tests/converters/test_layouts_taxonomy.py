"""The published zoo's layout: facts from the folders, and the same function as in PyTorch."""

from pathlib import Path

import numpy as np
import pytest
from torch_checkpoints import SUBSET, save, stored_model, torch_logits

from converters import layouts
from converters.layouts.contract import Candidate


def test_logits_equal_those_of_torch(converted, networks, images):
    _, zoo = converted
    assert zoo.data == "cifar10"
    assert len(zoo) == 4
    for row in zoo.manifest.itertuples():
        params, state = stored_model(zoo, row.model_id)
        model = zoo.architecture(row.group).model()
        logits = model.apply(params, state, images)
        expected = torch_logits(networks[row.width, row.seed], images)
        assert abs(expected).max() > 0.3
        np.testing.assert_allclose(logits, expected, atol=1e-5)
        assert row.num_params == 2724 * row.width**2 + 257 * row.width + 10
        assert row.num_params == sum(value.numel() for value in networks[row.width, row.seed].parameters())
        assert row.status == "ok"


def test_facts_come_from_the_folders(converted):
    report, zoo = converted
    manifest = zoo.manifest.set_index("model_id")
    row = manifest.loc["resnet18-w3-bs16-subset_noisy_05-lr_decay-s0"]
    assert row["configuration"] == "resnet18-w3-bs16-subset_noisy_05-lr_decay"
    assert (row["batch_size"], row["data_share"], row["label_noise"]) == (16, 0.5, 0.1)
    assert (row["schedule"], row["checkpoint"], row["seed"]) == ("one_decay", "early_stopped", 0)
    row = manifest.loc["resnet18-w2-bs128-subset_10-normal-s0"]
    assert (row["batch_size"], row["data_share"], row["label_noise"]) == (128, 1.0, 0.0)
    assert (row["schedule"], row["checkpoint"]) == ("constant", "best")
    assert (row["momentum"], row["weight_decay"]) == (0.9, 5e-4)
    assert manifest["learning_rate"].isna().all()
    assert manifest["epochs"].isna().all()

    assert report.exit_code == 0
    assert [len(part) for part in (report.converted, report.skipped, report.refused)] == [4, 3, 0]
    skipped = {outcome.path.name for outcome in report.skipped}
    assert skipped == {"net_exp_0.pkl", "net_exp_0_best.pkl", "hessian.pkl"}


@pytest.mark.parametrize(
    ("folder", "share", "noise"),
    [
        ("subset_10", 1.0, 0.0),
        ("subset_01", 0.1, 0.0),
        ("subset_noisy_09", 0.9, 0.1),
        ("random_label_10", 1.0, 1.0),
        ("random_label_03", 1.0, 0.3),
        ("random_label_025", 1.0, 0.25),
        ("random_label_0", 1.0, 0.0),
    ],
)
def test_share_and_noise_of_each_kind_of_folder(tmp_path, networks, folder, share, noise):
    path = save(tmp_path, f"different_knobs_{folder}/bs_32/normal/ResNet18_w2/net_exp_4.pkl", networks[2, 0])
    (found,) = layouts.find(path.parent)
    assert isinstance(found, Candidate)
    assert (found.row["data_share"], found.row["label_noise"], found.seed) == (share, noise, 4)


@pytest.mark.parametrize("depth", range(1, 7))
def test_source_may_be_any_folder_of_the_tree(published, depth):
    src = published.joinpath(*Path(SUBSET).parts[: depth - 1])
    found = [claim for claim in layouts.find(src) if SUBSET in str(claim.path) and isinstance(claim, Candidate)]
    assert {candidate.model_id for candidate in found} == {
        "resnet18-w2-bs128-subset_10-normal-s0",
        "resnet18-w2-bs128-subset_10-normal-s1",
    }
    assert all(candidate.width == 2 for candidate in found)
