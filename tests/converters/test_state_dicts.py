"""State_dicts: what cannot be taken is refused with its reason, whatever was done to the file."""

import io
import pickle
import sys

import pytest
import torch
from torch_checkpoints import convert
from torch_refused import REFUSED
from torch_resnet import random_resnet

import converters
from converters import families, state_dicts
from mdjax.errors import InputError
from mdjax.models import Architecture


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_is_refused_with_its_reason(tmp_path, name, low_limits):
    content, reason = REFUSED[name]
    (tmp_path / name).write_bytes(content())
    with pytest.raises(converters.RefusedError) as raised:
        converters.read_state_dict(tmp_path / name)
    assert reason in str(raised.value)
    assert "weights_only" not in str(raised.value)
    assert str(tmp_path) not in str(raised.value)


def changed(**changes) -> dict[str, torch.Tensor]:
    """A good state_dict with entries replaced, or left out by None; __ in a name stands for a dot."""
    entries = dict(random_resnet(2, 5).state_dict())
    entries.update({name.replace("__", "."): value for name, value in changes.items()})
    return {name: value for name, value in entries.items() if value is not None}


def good_bytes(**options) -> bytes:
    file = io.BytesIO()
    torch.save(changed(), file, **options)
    return file.getvalue()


def flipped() -> bytes:
    content = bytearray(good_bytes())
    place = content.index(changed()["conv1.weight"].numpy().tobytes())
    content[place] ^= 1
    return bytes(content)


BAD_CONTENT = {
    "missing entry": (lambda: changed(layer3__0__bn1__bias=None), "it lacks 1 of 122 entries, first layer3.0.bn1.bias"),
    "missing counter": (lambda: changed(bn1__num_batches_tracked=None), "first bn1.num_batches_tracked"),
    "surplus entry": (lambda: changed(extra=torch.ones(1)), "it has 1 unknown entries, first extra"),
    "prefix": (lambda: {f"net.{name}" if "bn" in name else name: value for name, value in changed().items()}, "lacks"),
    "shape": (
        lambda: changed(layer2__0__conv1__weight=torch.ones(4, 2, 1, 1)),
        "layer2.0.conv1.weight is float32[4, 2, 1, 1], but float32[4, 2, 3, 3] was expected",
    ),
    "transposed": (lambda: changed(linear__weight=torch.ones(16, 10)), "float32[16, 10], but float32[10, 16] was"),
    "classes": (lambda: changed(linear__bias=torch.ones(100)), "linear.bias is float32[100], but float32[10]"),
    "type": (
        lambda: changed(bn1__weight=torch.ones(2, dtype=torch.int32)),
        "bn1.weight is int32[2], but float32[2] was",
    ),
    "beyond float32": (
        lambda: changed(bn1__weight=torch.full((2,), 1e300, dtype=torch.float64)),
        "its entry bn1.weight is float64 and holds numbers beyond float32",
    ),
    "sparse": (lambda: changed(linear__weight=torch.ones(10, 16).to_sparse()), "linear.weight is no plain array"),
    "no data": (lambda: changed(linear__weight=torch.ones(10, 16, device="meta")), "linear.weight is no plain array"),
    "counter": (lambda: changed(bn1__num_batches_tracked=torch.ones(2)), "bn1.num_batches_tracked is no whole number"),
    "list": (lambda: [torch.ones(2)], "it holds a list, not a state_dict"),
    "module": (
        lambda: torch.nn.Linear(2, 3),
        "it refers to torch.nn.modules.linear.Linear, which plain weights do not",
    ),
}


BAD_BYTES = {
    "empty": (lambda: b"", "it is empty"),
    "pointer": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "it is a Git LFS pointer",
    ),
    "page": (lambda: b"\n<!DOCTYPE html><html>Quota exceeded</html>", "it is a web page, as a failed download leaves"),
    "error page": (lambda: b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "it is a web page, as a"),
    "text": (lambda: b"hello", "it is truncated, damaged, or not written by torch.save"),
    "raw pickle": (lambda: pickle.dumps({"a": 1}), "it is truncated, damaged, or not written by torch.save"),
    "truncated": (lambda: good_bytes()[:40_000], "it is truncated"),
    "truncated old format": (lambda: good_bytes(_use_new_zipfile_serialization=False)[:-9], "it is truncated"),
    "a changed bit": (flipped, "does not fit its checksum"),
}


@pytest.mark.parametrize("case", [*BAD_CONTENT, *BAD_BYTES])
def test_bad_file_is_refused_with_its_reason(tmp_path, case):
    path = tmp_path / "bad.pkl"
    content, reason = BAD_CONTENT.get(case) or BAD_BYTES[case]
    if case in BAD_CONTENT:
        torch.save(content(), path)
    else:
        path.write_bytes(content())
    with pytest.raises(converters.RefusedError) as raised:
        families.to_flax(state_dicts.read_state_dict(path), Architecture("resnet18", 2))
    assert reason in str(raised.value)
    assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "model.safetensors.index.json"])
def test_pointers_of_git_lfs_are_told_whatever_the_ending(tmp_path, name):
    (tmp_path / name).write_bytes(BAD_BYTES["pointer"][0]())
    with pytest.raises(converters.RefusedError, match="not the weights that it stands for. Fetch them: git lfs pull"):
        state_dicts.read_state_dict(tmp_path / name)


@pytest.mark.parametrize("place", ["", "__0_0.distcp"])
def test_distributed_checkpoints_are_told_apart(tmp_path, place):
    # As torch.distributed.checkpoint.save names them; it does not run where torchax was imported.
    (tmp_path / "dcp").mkdir()
    (tmp_path / "dcp" / ".metadata").write_bytes(pickle.dumps({"state_dict_metadata": {}}))
    torch.save(changed(), tmp_path / "dcp" / "__0_0.distcp")
    with pytest.raises(converters.RefusedError, match=r"format_utils\.dcp_to_torch_save\(FOLDER, FILE\)"):
        state_dicts.read_state_dict(tmp_path / "dcp" / place)
    report = converters.convert(tmp_path / "dcp", None, dry_run=True, show_progress=False)
    assert ["dcp_to_torch_save" in outcome.reason for outcome in report.refused] == [True]


def test_float64_is_narrowed_and_said(tmp_path):
    expected = random_resnet(2, 5).state_dict()
    wide = {name: value.double() if value.is_floating_point() else value for name, value in expected.items()}
    torch.save(wide, tmp_path / "model.pt")
    for name, array in state_dicts.read_state_dict(tmp_path / "model.pt").items():
        assert array.dtype == expected[name].numpy().dtype
        assert (array == expected[name].numpy()).all()
    (outcome,) = converters.convert(tmp_path / "model.pt", None, dry_run=True, show_progress=False).converted
    assert outcome.reason == "float64 narrowed to float32"


def test_missing_or_old_torch_is_told(published, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(torch, "__version__", "2.9.1+cpu")
        with pytest.raises(InputError, match=r"torch is 2\.9\.1\+cpu, but before 2\.10 .* 'mdjax\[torch\]'"):
            convert(published, tmp_path / "zoo")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"needs torch, which is not installed\. Run pip install 'mdjax\[torch\]'"):
        convert(published, tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()
