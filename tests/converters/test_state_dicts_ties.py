"""Tied weights in files: never another network than the one saved, and never two parameters for one."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils import parametrizations

import converters
from converters import families, folding
from mdjax.models import Architecture


class Tied(nn.Module):
    """Four layers, two of which are one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3, self.fc4 = nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.fc3.weight, self.fc3.bias = self.fc2.weight, self.fc2.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.fc1, self.fc2, self.fc3):
            x = torch.tanh(layer(x))
        return self.fc4(x)


def network() -> Tied:
    torch.manual_seed(0)
    return Tied().eval()


def sharded(path: Path) -> None:
    state = dict(network().state_dict())
    first = {"fc1.weight": state["fc1.weight"], "fc1.bias": state["fc1.bias"]}
    rest = {name: state[name] for name in ("fc2.weight", "fc2.bias", "fc4.weight", "fc4.bias")}
    aliases = {"format": "pt", "fc3.weight": "fc2.weight"}
    safetensors.torch.save_file(first, path.parent / "a.safetensors", metadata=aliases)
    safetensors.torch.save_file(rest, path.parent / "b.safetensors", metadata={"format": "pt"})
    places = dict.fromkeys(first, "a.safetensors") | dict.fromkeys(rest, "b.safetensors")
    metadata = {"total_size": 9, "fc3.bias": "fc2.bias"}
    path.write_text(json.dumps({"metadata": metadata, "weight_map": places}))


def exported(path: Path) -> None:
    torch.export.save(torch.export.export(network(), (torch.ones(1, 6),)), path)


def traced(path: Path) -> None:
    torch.jit.save(torch.jit.trace(network(), torch.ones(1, 6)), path)


FILES = {
    "model.safetensors": lambda path: safetensors.torch.save_model(network(), str(path)),
    "model.safetensors.index.json": sharded,
    "model.pt": lambda path: torch.save(network().state_dict(), path),
    "old.pth": lambda path: torch.save(network().state_dict(), path, _use_new_zipfile_serialization=False),
    "half.pt": lambda path: torch.save({"state_dict": network().half().state_dict()}, path),
    "double.pt": lambda path: torch.save({"model": network().double().state_dict()}, path),
    "program.pt2": exported,
    "script.pt": traced,
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_ties_are_restored_and_refused_where_they_cannot_be_expressed(tmp_path, name):
    FILES[name](tmp_path / name)
    arrays = converters.read_state_dict(tmp_path / name)
    for entry, value in network().state_dict().items():
        np.testing.assert_allclose(arrays[entry], value.numpy(), atol=1e-3 if "half" in name else 0)
    reason = r"its entries fc2\.(bias|weight) and fc3\.\1 are one parameter, .* give it to converters.from_module"
    with pytest.raises(converters.RefusedError, match=reason):
        converters.recognise(arrays, {"nonlinearity": "tanh"})
    report = converters.convert(
        tmp_path / name, None, dry_run=True, facts={"nonlinearity": "tanh"}, show_progress=False
    )
    assert [outcome.reason[:11] for outcome in report.refused] == ["its entries"]


def test_a_restored_file_is_one_of_its_module(tmp_path):
    if importlib.util.find_spec("torchax") is None:  # importing it would set its telemetry
        pytest.skip("torchax is not installed; pip install 'mdjax[torchax]'")
    module = network()
    safetensors.torch.save_model(module, str(tmp_path / "model.safetensors"))
    model, params, _ = converters.from_module(module, torch.ones(2, 6))
    found, _ = model.arrays(converters.read_state_dict(tmp_path / "model.safetensors"))
    assert set(found) == set(params) == {"fc1", "fc2", "fc4"}
    np.testing.assert_array_equal(found["fc2"]["kernel"], params["fc2"]["kernel"])


@pytest.mark.parametrize("how", ["weight normalisation", "convolutions", "BatchNorm"])
def test_ties_of_other_layers_are_found(how):
    if how == "weight normalisation":
        module = Tied()
        for layer in (module.fc2, module.fc3):
            parametrizations.weight_norm(layer)
            layer.bias = torch.nn.Parameter(layer.bias.detach().clone())
        module.fc3.parametrizations.weight = module.fc2.parametrizations.weight
        arrays = folding.fold(module.state_dict())[0]
        facts = {"nonlinearity": "tanh"}
    else:
        architecture = Architecture("resnet18", 2)
        shapes = families._schema(architecture)
        arrays = {entry.name: np.ones(entry.shape, np.float32) for entry in shapes.entries}
        kind = "conv2" if how == "convolutions" else "bn2"
        arrays[f"layer1.1.{kind}.weight"] = arrays[f"layer1.0.{kind}.weight"][:]
        facts = {}
        with pytest.raises(converters.RefusedError, match=rf"layer1\.0\.{kind}\.weight and layer1\.1\.{kind}\.weight"):
            converters.to_flax(arrays, architecture)
    with pytest.raises(converters.RefusedError, match=r"weight are one parameter"):
        converters.recognise(arrays, facts)


def test_equal_entries_and_parts_of_one_memory_are_no_ties(tmp_path):
    torch.manual_seed(0)
    flat = torch.randn(2 * 16 + 24 + 12)
    sizes = {"fc1": (4, 6), "fc2": (4, 4), "fc3": (4, 4), "fc4": (3, 4)}
    parts = flat.split([rows * columns for rows, columns in sizes.values()])
    state = {f"{name}.weight": part.view(size) for (name, size), part in zip(sizes.items(), parts, strict=True)}
    state["fc3.weight"] = state["fc2.weight"].clone()
    state |= {f"{name}.bias": torch.zeros(size[0]) for name, size in sizes.items()}
    torch.save(state, tmp_path / "model.pt")
    found = converters.recognise(converters.read_state_dict(tmp_path / "model.pt"), {"nonlinearity": "tanh"})
    assert found.variant == "flatten fc1=dense4 tanh fc2=dense4 tanh fc3=dense4 tanh fc4=dense3"


def test_aliases_that_differ_are_refused_and_other_metadata_is_none(tmp_path):
    path = tmp_path / "model.safetensors"
    weights = {"a.weight": torch.ones(3, 2), "b.weight": torch.zeros(3, 2)}
    safetensors.torch.save_file(weights, path, metadata={"a.weight": "b.weight"})
    with pytest.raises(converters.RefusedError, match=r"its entry a\.weight is its entry b\.weight, but they differ"):
        converters.read_state_dict(path)
    safetensors.torch.save_file(weights, path, metadata={"format": "pt", "x": "y", "y": "x", "author": "a"})
    assert converters.read_state_dict(path).keys() == weights.keys()
    safetensors.torch.save_file(weights, path, metadata={"d.weight": "c.weight", "c.weight": "a.weight"})
    assert converters.read_state_dict(path).keys() == {*weights, "c.weight", "d.weight"}
