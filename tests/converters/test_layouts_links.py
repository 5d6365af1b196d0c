"""Files given by links: the name given tells what a file is; what a file says does not lead out of its folder."""

import json
from pathlib import Path

import pytest
import safetensors.torch
from torch_checkpoints import LINEAR, convert, write

from mdjax.zoo.store import Zoo


def cached(root: Path, *, sharded: bool) -> Path:
    """LINEAR as the Hugging Face cache keeps it: names in a snapshot that link to blobs; the name to convert."""
    snapshot, blobs = root / "models--x--y/snapshots/rev", root / "models--x--y/blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    parts = [[name] for name in LINEAR] if sharded else [list(LINEAR)]
    places = {}
    for number, part in enumerate(parts, 1):
        name = f"model-{number:05d}-of-{len(parts):05d}.safetensors" if sharded else "model.safetensors"
        safetensors.torch.save_file({entry: LINEAR[entry] for entry in part}, blobs / f"sha{number}")
        (snapshot / name).symlink_to(f"../../blobs/sha{number}")
        places |= dict.fromkeys(part, name)
    if not sharded:
        return snapshot / "model.safetensors"
    (blobs / "sha9").write_text(json.dumps({"weight_map": places}))
    (snapshot / "model.safetensors.index.json").symlink_to("../../blobs/sha9")
    return snapshot / "model.safetensors.index.json"


@pytest.mark.parametrize("sharded", [True, False])
def test_a_model_of_the_hugging_face_cache(tmp_path, sharded):
    path = cached(tmp_path, sharded=sharded)
    for number, source in enumerate((path.parent, path)):
        report = convert(source, tmp_path / str(number))
        assert [outcome.path for outcome in report.converted] == [path]
        assert Zoo(tmp_path / str(number)).manifest["model_id"].tolist() == [f"rev/{path.name}"]


@pytest.mark.parametrize("place", ["../blobs/sha1", "/etc/passwd", "..", "sub/shard.safetensors", "..\\blobs\\sha1"])
def test_a_linked_index_names_no_file_outside_its_folder(tmp_path, place):
    path = cached(tmp_path, sharded=True)
    path.resolve().write_text(json.dumps({"weight_map": dict.fromkeys(LINEAR, place)}))
    (refused,) = convert(path, None, dry_run=True).refused
    assert "which is not simply the name of one in its folder" in refused.reason


def test_a_link_to_an_index_elsewhere_finds_the_shards_beside_the_index(tmp_path):
    path = cached(tmp_path, sharded=True)
    whole = tmp_path / "whole"
    whole.mkdir()
    for name in path.parent.iterdir():
        (whole / name.name).write_bytes(name.read_bytes())
    for number, target in enumerate((whole / path.name, path)):
        (tmp_path / f"{number}.index.json").symlink_to(target)
        assert len(convert(tmp_path / f"{number}.index.json", None, dry_run=True).converted) == 1


def test_a_short_name_for_a_file_of_a_known_layout(tmp_path):
    name = "different_knobs_subset_noisy_05/bs_16/lr_decay/ResNet18_w3/net_exp_4.pkl"
    write(tmp_path, name)
    (tmp_path / "latest.pkl").symlink_to(tmp_path / name)
    (refused,) = convert(tmp_path / "latest.pkl", None, dry_run=True).refused
    # Read as one of the published zoo, which a linear layer is not.
    assert refused.path == tmp_path / name
