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
from torch_hessians import torch_hessian

import converters
import mdjax
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
def test_ties_are_restored_and_stay_one_layer(tmp_path, name):
    FILES[name](tmp_path / name)
    arrays = converters.read_state_dict(tmp_path / name)
    for entry, value in network().state_dict().items():
        np.testing.assert_allclose(arrays[entry], value.numpy(), atol=1e-3 if "half" in name else 0)
    architecture = converters.recognise(arrays, {"nonlinearity": "tanh"})
    assert architecture.variant == "flatten fc1=dense4 tanh fc2=dense4 tanh fc3=@fc2 tanh fc4=dense3"
    params, state = converters.to_flax(arrays, architecture)
    again = converters.to_state_dict(params, state, architecture)
    assert again.keys() == network().state_dict().keys()
    assert all(np.array_equal(again[entry], arrays[entry]) for entry in again)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_the_tied_network_that_was_saved_is_measured(tmp_path, name):
    FILES[name](tmp_path / name)
    facts = {"nonlinearity": "tanh"}
    report = converters.convert(tmp_path / name, tmp_path / "zoo", facts=facts, show_progress=False)
    assert report.exit_code == 0
    rng = np.random.RandomState(0)
    inputs, labels = rng.normal(size=(40, 6)).astype("f4"), rng.randint(0, 3, 40).astype("i4")
    table = mdjax.measure(
        tmp_path / "zoo", data=(inputs, labels, inputs, labels), metrics=("losses", "hessian"), show_progress=False
    )
    hessian = torch_hessian(network(), inputs, labels)
    (row,) = table.models.to_dict("records")
    assert row["num_params"] == len(hessian) == 6 * 4 + 4 + 20 + 15
    assert row["hessian_eigenvalue"] == pytest.approx(np.linalg.eigvalsh(hessian)[-1], rel=1e-3)
    assert row["hessian_trace"] == pytest.approx(np.trace(hessian), rel=0.05)


def test_a_layer_tied_in_part_is_refused(tmp_path):
    module = network()
    module.fc3.bias = nn.Parameter(torch.ones(4))
    torch.save(module.state_dict(), tmp_path / "model.pt")
    reason = r"its entries fc2\.weight and fc3\.weight are one parameter, .* give it to converters.from_module"
    with pytest.raises(converters.RefusedError, match=reason):
        converters.recognise(converters.read_state_dict(tmp_path / "model.pt"), {"nonlinearity": "tanh"})


def test_entries_that_the_network_ties_are_equal():
    arrays = {name: value.numpy().copy() for name, value in network().state_dict().items()}
    facts = {"specification": "fc1=dense4 tanh fc2=dense4 tanh fc3=@fc2 tanh fc4=dense3"}
    assert converters.recognise(arrays, facts).num_params == 63
    arrays["fc3.weight"][0, 0] += 1
    with pytest.raises(converters.RefusedError, match=r"fc3\.weight and fc2\.weight differ, but are tied"):
        converters.recognise(arrays, facts)


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


class First(nn.Module):
    """A first layer that comes once more: it reads a flattened image, then a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.b.weight, self.b.bias = self.a.weight, self.a.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.b(torch.relu(self.a(x.flatten(1))))))


@pytest.mark.parametrize("shape", [(8, 8, 1), (16, 4, 1), (1, 1, 64), (64,)])
def test_a_first_layer_that_comes_again_reads_images_whose_order_does_not_change(shape):
    torch.manual_seed(0)
    module = First()
    arrays = folding.fold(module.state_dict())[0]
    architecture = converters.recognise(arrays, {"nonlinearity": "relu", "input_shape": shape})
    params, state = converters.to_flax(arrays, architecture)
    assert sum(leaf.size for leaf in params["dense1"].values()) == 64 * 65
    inputs = np.random.RandomState(0).normal(size=(3, *shape)).astype(np.float32)
    expected = module(torch.from_numpy(np.moveaxis(inputs, -1, 1).copy() if len(shape) == 3 else inputs))
    np.testing.assert_allclose(architecture.model().apply(params, state, inputs), expected.detach(), atol=1e-5)
    back = converters.to_state_dict(params, state, architecture)
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)


def test_one_that_reads_several_channels_is_refused_with_the_remedy():
    arrays = folding.fold(First().state_dict())[0]
    with pytest.raises(converters.RefusedError, match="its layer a reads a flattened image of 4 channels once and a"):
        converters.recognise(arrays, {"nonlinearity": "relu", "input_shape": (4, 4, 4)})
