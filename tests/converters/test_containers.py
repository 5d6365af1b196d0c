"""Containers: each gives the same arrays, none runs what it holds, unless it is trusted."""

import argparse
import io
import json
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch_checkpoints
from torch import nn
from torch_checkpoints import STATE, Command, Network, assert_same, sharded

import converters
from converters import state_dicts


def script(path: Path) -> None:
    torch.jit.save(torch.jit.trace(Network().eval(), torch.ones(1, 3, 6, 6)), path)


def program(path: Path) -> None:
    torch.export.save(torch.export.export(Network().eval(), (torch.ones(1, 3, 6, 6),)), path)


def sharded_pickles(path: Path) -> None:
    torch.save(dict(list(STATE.items())[:3]), path.parent / "a.bin")
    torch.save(dict(list(STATE.items())[3:]), path.parent / "b.bin")
    places = {name: "a.bin" if place < 3 else "b.bin" for place, name in enumerate(STATE)}
    path.write_text(json.dumps({"weight_map": places}))


CONTAINERS = {
    "model.pt": lambda path: torch.save(STATE, path),
    "model.pth": lambda path: torch.save(dict(STATE), path, _use_new_zipfile_serialization=False),
    "model.pkl": lambda path: torch.save(OrderedDict(STATE), path, pickle_protocol=3),
    "newer.pt": lambda path: torch.save(STATE, path, pickle_protocol=5),
    "model.safetensors": lambda path: safetensors.torch.save_file(STATE, path),
    "weights": lambda path: safetensors.torch.save_file(STATE, path, metadata={"format": "pt"}),
    "script.pt": script,
    "program.pt2": program,
    "model.safetensors.index.json": sharded,
    "pytorch_model.bin.index.json": sharded_pickles,
}


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_every_container_gives_the_same_arrays(tmp_path, name):
    CONTAINERS[name](tmp_path / name)
    assert_same(converters.read_state_dict(tmp_path / name))


def test_exported_programs_of_before_torch_2_8_are_read(tmp_path):
    weights = io.BytesIO()
    torch.save(STATE, weights)
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("serialized_state_dict.pt", weights.getvalue())
    assert_same(converters.read_state_dict(tmp_path / "old.pt2"))


def numpy_one(content: object) -> bytes:
    """As numpy 1 spelled its module's name."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def test_scalars_of_numpy_1_are_read(tmp_path):
    content = numpy_one({"net": STATE, "acc": np.float64(93.1)})
    assert b"numpy.core.multiarray" in content
    (tmp_path / "model.pt").write_bytes(content)
    assert_same(converters.read_state_dict(tmp_path / "model.pt"))


def test_shards_hold_what_the_index_says_and_no_more(tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    sharded(path)
    content = json.loads(path.read_text())
    del content["weight_map"]["head.bias"]
    path.write_text(json.dumps(content))
    with pytest.raises(converters.RefusedError, match="shard model-00002-of-00002.safetensors does not hold the entr"):
        converters.read_state_dict(path)


class Restoring(nn.Module):
    """A module whose TorchScript runs code when it is loaded."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.weight * inputs

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.weight = state[0]
        self.training = state[1]


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_torchscript_that_restores_itself_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(Restoring()), tmp_path / "model.pt")
    with pytest.raises(
        converters.RefusedError, match="TorchScript that refers to __setstate__, which plain weights do not need"
    ):
        converters.read_state_dict(tmp_path / "model.pt")
    assert list(converters.read_state_dict(tmp_path / "model.pt", trust=True)) == ["weight"]


@pytest.mark.parametrize("how", ["zip", "old", "raw", "wrapped", "shard"])
def test_hostile_files_do_not_run(tmp_path, how):
    path, trace = tmp_path / "model.pt", tmp_path / "ran"
    content = {"conv.weight": Command(f"touch {trace}")}
    if how == "raw":
        path.write_bytes(pickle.dumps(content))
    elif how == "shard":
        torch.save(content, tmp_path / "a.bin")
        path = tmp_path / "model.bin.index.json"
        path.write_text(json.dumps({"weight_map": {"conv.weight": "a.bin"}}))
    else:
        torch.save(
            {"net": STATE, **content} if how == "wrapped" else content,
            path,
            _use_new_zipfile_serialization=how != "old",
        )
    with pytest.raises(converters.RefusedError) as raised:
        converters.read_state_dict(path)
    assert not trace.exists()
    if how != "raw":
        assert "posix.system, which plain weights do not need; nothing was run. Pass --trust" in str(raised.value)


@pytest.mark.parametrize("how", ["zip", "old format", "raw", "raw protocol 2"])
def test_hostile_file_does_not_run(tmp_path, how):
    path, trace = tmp_path / "hostile.pkl", tmp_path / "ran"
    content = {"conv1.weight": Command(f"touch {trace}")}
    if how.startswith("raw"):
        path.write_bytes(pickle.dumps(content, protocol=2 if how.endswith("2") else None))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(converters.RefusedError) as raised:
        state_dicts.read_state_dict(path)
    if how in ("zip", "old format"):
        assert "it refers to posix.system, which plain weights do not need; nothing was run" in str(raised.value)
    assert not trace.exists()


def test_trust_loads_whole_modules_and_namespaces(tmp_path):
    torch.save({"model": Network(), "args": argparse.Namespace(lr=0.1)}, tmp_path / "wrapped.pt")
    torch.save(Network(), tmp_path / "module.pt")
    for name in ("wrapped.pt", "module.pt"):
        with pytest.raises(converters.RefusedError):
            converters.read_state_dict(tmp_path / name)
        assert_same(converters.read_state_dict(tmp_path / name, trust=True))


def test_trusted_file_whose_classes_are_not_there_is_refused(tmp_path, monkeypatch):
    torch.save(Network(), tmp_path / "module.pt")
    monkeypatch.delattr(torch_checkpoints, "Network")
    with pytest.raises(converters.RefusedError, match=r"Network, .* and loading it failed: .*Network"):
        converters.read_state_dict(tmp_path / "module.pt", trust=True)
