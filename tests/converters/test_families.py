"""Families of checkpoints: recognised by their entries, equal to PyTorch in value and derivatives, back bit for bit."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import torch_families as reference
from torch_derivatives import direction, jax_derivatives, relative, torch_derivatives
from torch_resnet import random_resnet

import converters
from converters.errors import RefusedError
from converters.families.sequences import MODEL_ZOOS
from mdjax import engine
from mdjax.errors import InputError
from mdjax.landscape.alignment import specification, verify
from mdjax.landscape.curves import random_bends
from mdjax.metrics import PRESETS, Examples
from mdjax.models import Architecture, sequence
from mdjax.sweeps.units import chunks
from mdjax.zoo.data import Dataset
from mdjax.zoo.store import Zoo

SMALL = (32, 32, 3)


@dataclass(frozen=True)
class Case:
    """A network in PyTorch, what is known of it besides its weights, and what it is to be recognised as."""

    network: Callable[[], torch.nn.Module]
    architecture: Architecture
    facts: Mapping[str, Any] = field(default_factory=dict)
    convolution: Any = "lax"
    products: bool = True


def zoo_cnn(kind: str, nonlinearity: str, dropout: str, channels: int, side: int) -> Architecture:
    text = MODEL_ZOOS[kind][0].format(nonlinearity, dropout, 10)
    return sequence(text, (side, side, channels))


CASES = {
    "cifar basic": Case(
        lambda: reference.TorchResNet("cifar", 10, 3, 7), Architecture("resnet", 3, SMALL, 7, 10), convolution="patches"
    ),
    "cifar bottleneck": Case(
        lambda: reference.TorchResNet("cifar", 14, 2, 10), Architecture("resnet", 2, SMALL, 10, 14)
    ),
    "cifar 50": Case(
        lambda: reference.TorchResNet("cifar", 50, 1, 10), Architecture("resnet", 1, SMALL, 10, 50), products=False
    ),
    "cifar100 basic": Case(
        lambda: reference.TorchResNet("cifar100", 10, 2, 100), Architecture("resnet_cifar100", 2, SMALL, 100, 10)
    ),
    "cifar100 bottleneck": Case(
        lambda: reference.TorchResNet("cifar100", 14, 2, 100), Architecture("resnet_cifar100", 2, SMALL, 100, 14)
    ),
    "torchvision": Case(
        lambda: reference.TorchResNet("torchvision", 10, 3, 5, "7x7"),
        Architecture("resnet_torchvision", 3, (65, 50, 3), 5, 10, "7x7"),
        {"input_shape": (65, 50, 3)},
        "patches",
    ),
    "torchvision bottleneck, 3×3 and pool": Case(
        lambda: reference.TorchResNet("torchvision", 14, 2, 10, "3x3-pool"),
        Architecture("resnet_torchvision", 2, SMALL, 10, 14, "3x3-pool"),
        {"max_pool": True},
    ),
    "ModelZoos ResNet-18": Case(
        lambda: reference.TorchResNet("torchvision", 18, 2, 10),
        Architecture("resnet_torchvision", 2, SMALL, 10, 18, "3x3"),
    ),
    "VGG16": Case(lambda: reference.TorchVGG(16, 2, 10, False), Architecture("vgg", 2, SMALL, 10, 16)),
    "VGG19BN": Case(lambda: reference.TorchVGG(19, 2, 10, True), Architecture("vgg", 2, SMALL, 10, 19, "bn")),
    "PreResNet": Case(
        lambda: reference.TorchPreResNet(14, 3, 10), Architecture("preresnet", 3, SMALL, 10, 14), convolution="patches"
    ),
    "PreResNet bottleneck": Case(
        lambda: reference.TorchPreResNet(47, 1, 10), Architecture("preresnet", 1, SMALL, 10, 47), products=False
    ),
    "WideResNet": Case(lambda: reference.TorchWideResNet(10, 1, 10), Architecture("wideresnet", 1, SMALL, 10, 10)),
    "CNN-s": Case(
        lambda: reference.ModelZooCNN("CNN-s", 1, "tanh", 0.0),
        zoo_cnn("CNN-s", "tanh", "", 1, 28),
        {"nonlinearity": "tanh"},
    ),
    "CNN-s with dropout": Case(
        lambda: reference.ModelZooCNN("CNN-s", 1, "sigmoid", 0.1),
        zoo_cnn("CNN-s", "sigmoid", "dropout", 1, 28),
        {"nonlinearity": "Sigmoid"},
    ),
    "CNN-l": Case(
        lambda: reference.ModelZooCNN("CNN-l", 3, "leakyrelu", 0.2),
        zoo_cnn("CNN-l", "leakyrelu", "dropout", 3, 28),
        {"nonlinearity": "leaky_relu"},
    ),
    "CNN3": Case(
        lambda: reference.ModelZooCNN("CNN3", 3, "gelu", 0.0),
        zoo_cnn("CNN3", "gelu", "", 3, 32),
        {"nonlinearity": "gelu"},
    ),
    "MLP": Case(
        lambda: reference.mlp(5 * 4 * 3, 6, 5, 4, nonlinearity="silu"),
        sequence("flatten fc1=dense6 silu fc2=dense5 silu fc3=dense4", (5, 4, 3)),
        {"nonlinearity": "silu", "input_shape": [5, 4, 3]},
    ),
    "mdjax's MLP": Case(lambda: reference.OwnMLP(60, 6, 3, 4), Architecture("mlp", 6, (60,), 4, 3)),
    "mdjax's CNN": Case(lambda: reference.OwnCNN(3, 2, 3, 4), Architecture("cnn", 2, SMALL, 4, 3)),
    "specification": Case(
        reference.Mixed,
        sequence(reference.Mixed.SPECIFICATION, (11, 7, 3)),
        {"specification": reference.Mixed.SPECIFICATION, "input_shape": (11, 7, 3)},
        "patches",
    ),
}


def state_dict(network: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in network.state_dict().items()}


def assert_same_bits(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> None:
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert array.dtype == second[name].dtype
        assert array.shape == second[name].shape
        if not name.endswith("num_batches_tracked"):
            assert array.tobytes() == second[name].tobytes(), name


@pytest.mark.parametrize("name", CASES)
def test_equal_to_torch_and_back(name):
    case = CASES[name]
    network = reference.perturbed(case.network(), seed=len(name))
    arrays = state_dict(network)
    architecture = converters.recognise(arrays, case.facts)
    assert architecture == case.architecture
    params, state = converters.to_flax(arrays, architecture)
    assert_same_bits(arrays, converters.to_state_dict(params, state, architecture))

    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, *architecture.input_shape)).astype(np.float32)
    labels = rng.integers(architecture.num_classes, size=3)
    vectors = direction(network, seed=1)
    stored = images.transpose(0, 3, 1, 2) if images.ndim == 4 else images
    expected = torch_derivatives(network, stored, labels, vectors)
    counters = {name: array for name, array in arrays.items() if name not in vectors}
    tangents, _ = converters.to_flax(vectors | counters, architecture)
    model = architecture.model(case.convolution)
    logits, *found = jax_derivatives(model, params, state, images, labels, tangents, products=case.products)
    gradient, product = (
        tree
        and {
            name: array
            for name, array in converters.to_state_dict(tree, state, architecture).items()
            if name in vectors
        }
        for tree in found
    )
    assert np.abs(expected.logits).max() > 0.05
    np.testing.assert_allclose(logits, expected.logits, rtol=1e-5, atol=1e-5)
    assert relative(gradient, expected.gradient) < 1e-5
    if case.products:
        assert relative(product, expected.product) < 1e-4


CONTAINERS: dict[str, Callable[[Mapping[str, torch.Tensor], Path], None]] = {
    "bare.pkl": torch.save,
    "bare": torch.save,
    "net.pth": lambda tensors, path: torch.save({"net": tensors, "acc": 91.2, "epoch": 3}, path),
    "model_state.pt": lambda tensors, path: torch.save({"epoch": 3, "model_state": tensors}, path),
    "parallel.tar": lambda tensors, path: torch.save({"state_dict": prefixed(tensors, "module.")}, path),
    "lightning.ckpt": lambda tensors, path: torch.save({"state_dict": prefixed(tensors, "model."), "epoch": 3}, path),
    "old.pt": lambda tensors, path: torch.save(tensors, path, _use_new_zipfile_serialization=False),
    "weights.safetensors": lambda tensors, path: safetensors.torch.save_file(
        {name: value.contiguous() for name, value in tensors.items()}, path
    ),
}
"""File name → how a state_dict is saved under it."""


def prefixed(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


@pytest.mark.parametrize("name", CASES)
def test_a_family_comes_out_of_every_container_as_it_went_in(name, tmp_path):
    case = CASES[name]
    network = reference.perturbed(case.network(), seed=len(name))
    for file, save in CONTAINERS.items():
        save(network.state_dict(), tmp_path / file)
        arrays = converters.read_state_dict(tmp_path / file)
        assert_same_bits(state_dict(network), arrays)
        assert converters.recognise(arrays, case.facts) == case.architecture


# Real sizes: every name and shape, without computing anything.


def without_memory(network: torch.nn.Module) -> dict[str, np.ndarray]:
    """Arrays of the shapes and types of a state_dict that take no memory."""
    return {
        name: np.broadcast_to(np.zeros((), np.int64 if name.endswith("tracked") else np.float32), tuple(value.shape))
        for name, value in network.state_dict().items()
    }


RESNETS = [("cifar", "resnet", ""), ("cifar100", "resnet_cifar100", ""), ("torchvision", "resnet_torchvision", "7x7")]
SIZES = {
    **{
        f"{layout} {depth}": (
            lambda layout=layout, depth=depth, stem=stem or "3x3": reference.TorchResNet(layout, depth, 64, 10, stem),
            Architecture(family, 64, (224, 224, 3) if stem else SMALL, 10, depth, stem),
        )
        for layout, family, stem in RESNETS
        for depth in (26, 34, 50, 101, 152)
    },
    "VGG16BN": (lambda: reference.TorchVGG(16, 64, 100, True), Architecture("vgg", 64, SMALL, 100, 16, "bn")),
    "VGG19": (lambda: reference.TorchVGG(19, 64, 10, False), Architecture("vgg", 64, SMALL, 10, 19)),
    "PreResNet110": (lambda: reference.TorchPreResNet(110, 16, 10), Architecture("preresnet", 16)),
    "PreResNet164": (lambda: reference.TorchPreResNet(164, 16, 10), Architecture("preresnet", 16, depth=164)),
    "WideResNet28x10": (lambda: reference.TorchWideResNet(28, 10, 10), Architecture("wideresnet", 10)),
}


@pytest.mark.parametrize("name", SIZES)
def test_every_depth_is_recognised(name):
    make, architecture = SIZES[name]
    with torch.device("meta"):
        network = make()
    arrays = without_memory(network)
    assert converters.recognise(arrays) == architecture
    params, _ = converters.to_flax(arrays, architecture)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == sum(value.numel() for value in network.parameters())
    assert architecture.num_params == sum(value.numel() for value in network.parameters())


@pytest.mark.parametrize(("kind", "channels", "size"), [("CNN-s", 1, 2464), ("CNN-l", 3, 3347), ("CNN3", 3, 10853)])
def test_model_zoos_have_the_published_number_of_parameters(kind, channels, size):
    arrays = state_dict(reference.ModelZooCNN(kind, channels, "tanh", 0.0))
    assert converters.recognise(arrays, {"nonlinearity": "tanh"}).num_params == size


def test_the_papers_resnet_is_the_one_of_old_zoos():
    arrays = state_dict(random_resnet(2, 0))
    assert converters.recognise(arrays) == Architecture("resnet18", 2)
    assert converters.recognise(arrays, {"input_shape": (40, 40, 3)}).input_shape == (40, 40, 3)


def test_layers_may_come_in_the_order_of_their_numbers():
    network = reference.mlp(784, 8, 8, 8, 8, 8, 8, 8, 8, 8, 10, nonlinearity="tanh", bias=False)
    sorted_arrays = dict(sorted(state_dict(network).items()))
    text = converters.recognise(sorted_arrays, {"nonlinearity": "tanh"}).variant
    assert [word for word in text.split() if "=" in word][1:3] == ["fc2=dense8nobias", "fc3=dense8nobias"]


def test_counters_may_be_missing_all_together():
    arrays = state_dict(random_resnet(1, 0))
    old = {name: array for name, array in arrays.items() if not name.endswith("tracked")}
    architecture = converters.recognise(old)
    assert_same_bits(arrays, converters.to_state_dict(*converters.to_flax(old, architecture), architecture))


def test_tensors_load_into_the_module():
    network = reference.perturbed(reference.TorchWideResNet(10, 1, 10), 0)
    architecture = converters.recognise(state_dict(network))
    tensors = converters.to_torch(*converters.to_flax(state_dict(network), architecture), architecture)
    other = reference.TorchWideResNet(10, 1, 10)
    other.load_state_dict(dict(tensors))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


# What is refused, with the reason.


def changed(network: torch.nn.Module, **changes) -> dict[str, np.ndarray]:
    """Entries replaced, or left out by None; __ in a name stands for a dot."""
    entries = state_dict(network) | {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value for name, value in entries.items() if value is not None}


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def torchvision(**changes) -> dict[str, np.ndarray]:
    return changed(reference.TorchResNet("torchvision", 10, 1, 10), **changes)


def mlp_arrays(**changes) -> dict[str, np.ndarray]:
    return changed(reference.mlp(12, 4, 4, 3), **changes)


REFUSED = {
    "left over": (
        lambda: torchvision(extra=floats(1), other=floats(2)),
        {},
        "it is no resnet_torchvision of width 1 and depth 10, 3x3, which is closest: "
        "it has 2 unknown entries, first extra, other",
    ),
    "missing": (
        lambda: torchvision(layer2__0__bn1__bias=None),
        {},
        "it lacks 1 of 74 entries, first layer2.0.bn1.bias",
    ),
    "shape": (
        lambda: torchvision(layer3__0__conv1__weight=floats(4, 2, 1, 1)),
        {},
        "layer3.0.conv1.weight is float32[4, 2, 1, 1], but float32[4, 2, 3, 3] was expected",
    ),
    "type": (lambda: torchvision(fc__bias=np.ones(10)), {}, "fc.bias is float64[10], but float32[10] was expected"),
    "curve": (
        lambda: {f"net.conv1.weight_{i}": floats(16, 3, 3, 3) for i in range(3)},
        {},
        "(net.conv1.weight_0, net.conv1.weight_1, net.conv1.weight_2) are those of no known family",
    ),
    "deep stem": (
        lambda: torchvision(conv1__weight=None, conv1__0__weight=floats(1, 3, 3, 3)),
        {},
        "closest is resnet_torchvision",
    ),
    "nothing": (dict, {}, "its 0 entries () are those of no known family"),
    "another nonlinearity": (torchvision, {"nonlinearity": "tanh"}, "its nonlinearity is tanh, but one of relu was"),
    "no max-pool": (
        lambda: changed(reference.TorchResNet("cifar", 10, 1, 10)),
        {"max_pool": True},
        "max_pool is True, but a resnet with a 3×3 stem has none such",
    ),
    "channels": (torchvision, {"input_shape": (28, 28, 1)}, "reads 3 channels, but input_shape is (28, 28, 1)"),
    "unknown nonlinearity": (
        lambda: changed(reference.ModelZooCNN("CNN-s", 1, "relu", 0.0)),
        {},
        "its weights do not tell its nonlinearity. Give nonlinearity= one of relu, leakyrelu, tanh",
    ),
    "no such nonlinearity": (mlp_arrays, {"nonlinearity": "sine"}, "its nonlinearity is sine, but one of relu"),
    "too small images": (
        lambda: changed(reference.ModelZooCNN("CNN-s", 1, "relu", 0.0)),
        {"nonlinearity": "relu", "input_shape": (8, 8, 1)},
        "does not fit 2×2 pixels",
    ),
    "order": (
        lambda: {f"{name}.weight": floats(4, 4) for name in ("b2", "a1")},
        {"nonlinearity": "relu"},
        "its linear layers may come as b2, a1 or as a1, b2. Give a specification",
    ),
    "inputs": (mlp_arrays, {"nonlinearity": "relu", "input_shape": (4, 4, 1)}, "reads 12 numbers, but input_shape is"),
    "specification": (
        mlp_arrays,
        {"specification": "flatten fc1=dense5 relu fc2=dense4 relu fc3=dense3"},
        "its entry fc1.bias is float32[4], but float32[5] was expected",
    ),
    "word": (mlp_arrays, {"specification": "flatten lstm4 dense3", "input_shape": (12,)}, "'lstm4' describes no layer"),
    "VGG of large images": (
        lambda: changed(reference.TorchVGG(16, 1, 10, False)),
        {"input_shape": (64, 64, 3)},
        "a vgg reads images of 32 to 63 pixels a side",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_fits_no_family_is_refused_with_the_reason(name):
    entries, facts, reason = REFUSED[name]
    with pytest.raises(RefusedError) as raised:
        converters.recognise(entries(), facts)
    assert reason in str(raised.value)


def test_unknown_facts_are_refused():
    with pytest.raises(InputError, match="Unknown fact 'nonlinearty'. Give some of nonlinearity, input_shape"):
        converters.recognise(mlp_arrays(), {"nonlinearty": "tanh"})


def test_trees_of_another_architecture_are_refused():
    architecture = Architecture("resnet", 2, depth=10)
    params, state = jax.tree.map(lambda leaf: floats(*leaf.shape), architecture.abstract)
    with pytest.raises(RefusedError, match="which is not float32"):
        converters.to_state_dict(params, state, Architecture("resnet", 3, depth=10))
    with pytest.raises(RefusedError, match="its parameters are PyTreeDef"):
        converters.to_state_dict(params, {}, architecture)


# What else the engine does with a network.


STATISTICS = ["cifar bottleneck", "VGG19BN", "PreResNet", "specification"]


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_are_those_of_a_batch_in_torch(name):
    case = CASES[name]
    network = reference.perturbed(case.network(), seed=0)
    architecture = case.architecture
    params, state = converters.to_flax(state_dict(network), architecture)
    images = np.random.default_rng(0).normal(size=(5, *architecture.input_shape)).astype(np.float32)
    for part in network.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.train()
            part.momentum = 1.0
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    batch_apply = jax.jit(architecture.model("lax").batch_apply)
    padded = np.concatenate([images, np.full((1, *architecture.input_shape), 9, np.float32)])
    logits, found = batch_apply(params, state, padded, np.array([1, 1, 1, 1, 1, 0], np.float32))
    _, statistics = converters.to_flax(state_dict(network), architecture)
    np.testing.assert_allclose(logits[:5], expected, rtol=1e-3, atol=1e-3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, statistics)


GROUPS = {
    "cifar bottleneck": 13,
    "torchvision": 8,
    "VGG16": 15,
    "VGG19BN": 18,
    "PreResNet": 9,
    "WideResNet": 6,
    "CNN-s": 4,
    "CNN3": 4,
    "MLP": 2,
}


@pytest.mark.parametrize("name", GROUPS)
def test_hidden_units_are_found_in_both_forms_of_the_convolution(name):
    architecture = CASES[name].architecture
    images = jax.ShapeDtypeStruct((2, *architecture.input_shape), np.float32)
    found = [specification(architecture.model(form), *architecture.abstract, images) for form in ("lax", "patches")]
    assert found[0] == found[1]
    assert len(found[0].sizes) == GROUPS[name]


@pytest.mark.parametrize("name", ["specification", "CNN-s"])
def test_pooled_and_flattened_units_may_change_places(name):
    architecture = CASES[name].architecture
    network = reference.perturbed(CASES[name].network(), seed=0)
    params, state = converters.to_flax(state_dict(network), architecture)
    images = np.random.default_rng(0).normal(size=(4, *architecture.input_shape)).astype(np.float32)
    model = architecture.model()
    found = specification(model, params, state, images)
    assert max(found.sizes) > 1
    # One program for both, since most of the time goes into compiling it.
    assert float(jax.jit(functools.partial(verify, model, found))(params, state, images, jax.random.key(0))) < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_a_zoo_keeps_the_architecture(name):
    architecture = CASES[name].architecture
    assert Architecture(**json.loads(json.dumps(architecture.__dict__))) == architecture
    bends = jax.eval_shape(lambda params: random_bends(params, 1, jax.random.key(0)), architecture.abstract[0])
    assert jax.tree.structure(bends) == jax.tree.structure(architecture.abstract[0])


def test_zoos_hold_variants_and_old_ones_stay_readable(tmp_path):
    zoo = Zoo.create(tmp_path / "zoo", data="digits")
    for number, name in enumerate(("MLP", "mdjax's MLP")):
        architecture = CASES[name].architecture
        params, state = jax.tree.map(lambda leaf: np.zeros((1, *leaf.shape), leaf.dtype), architecture.abstract)
        row = {"model_id": str(number), "configuration": name, "seed": 0}
        zoo.append(f"group{number}", architecture, [row], params, state)
    # As written before there were variants.
    (zoo.path / "manifest.parquet").unlink()
    old = zoo.path / "groups" / "group1"
    pd.read_parquet(old / "models.parquet").drop(columns="variant").to_parquet(old / "models.parquet")
    group = json.loads((old / "group.json").read_text())
    del group["architecture"]["variant"]
    (old / "group.json").write_text(json.dumps(group))

    reopened = Zoo(tmp_path / "zoo")
    assert reopened.manifest["variant"].tolist() == [CASES["MLP"].architecture.variant, ""]
    for number, name in enumerate(("MLP", "mdjax's MLP")):
        assert reopened.architecture(f"group{number}") == CASES[name].architecture
        reopened.read_group(f"group{number}")
    data = [load_like(CASES[name].architecture) for name in ("MLP", "mdjax's MLP")]
    rows = [reopened.manifest.iloc[[number]] for number in range(2)]
    found = [next(chunks(row, dataset, 8)).architecture for row, dataset in zip(rows, data, strict=True)]
    assert found == [CASES[name].architecture for name in ("MLP", "mdjax's MLP")]


def load_like(architecture: Architecture) -> Dataset:
    inputs, labels = floats(4, *architecture.input_shape), np.zeros(4, np.int32)
    return Dataset("none", inputs, labels, inputs, labels, architecture.num_classes)


@pytest.mark.slow
def test_the_published_hessian_agrees_with_pyhessian_on_a_converted_model():
    pyhessian = pytest.importorskip("pyhessian", reason="pyhessian is not installed; pip install 'mdjax[bench]'")
    case = CASES["CNN-s"]
    network = reference.perturbed(case.network(), seed=0)
    architecture = converters.recognise(state_dict(network), case.facts)
    params, state = converters.to_flax(state_dict(network), architecture)
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(50, 28, 28, 1)).astype(np.float32), rng.integers(10, size=50)
    theirs = pyhessian.hessian(
        network,
        torch.nn.CrossEntropyLoss(),
        data=(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels)),
        cuda=False,
    )
    torch.manual_seed(0)
    eigenvalue, forms = theirs.eigenvalues()[0][0], theirs.trace()
    stacked = jax.tree.map(lambda leaf: np.asarray(leaf)[None], (params, state))
    data = Examples(images, labels.astype(np.int32), np.int32(50), images, labels.astype(np.int32))
    metric = dataclasses.replace(PRESETS["reference"]["hessian"], num_samples=50)
    (row,) = engine.measure_models(metric, architecture.model("patches"), *stacked, data, ["a"])
    assert row["hessian_eigenvalue"] == pytest.approx(eigenvalue, rel=0.02)
    error = np.hypot(row["hessian_trace_se"], np.std(forms, ddof=1) / len(forms) ** 0.5)
    assert row["hessian_trace"] == pytest.approx(np.mean(forms), abs=4 * error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("conv8k5 relu", "do not end with one like dense10"),
        ("conv8 dense10", "'conv8' describes no layer"),
        ("flatten dense0", "'dense0' describes no layer"),
        ("relu3 dense10", "'relu3' describes no layer"),
        ("dense10", "dense gets inputs of shape \\(8, 8, 1\\), but needs vectors"),
        ("flatten max2 dense10", "max gets inputs of shape \\(64,\\), but needs images"),
        ("conv8k9 flatten dense10", "a conv of size 9 does not fit 8×8 pixels"),
        ("flatten a=dense4 a=dense10", "give two layers the same name"),
    ],
)
def test_wrong_specifications_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        sequence(text, (8, 8, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"family": "vgg", "variant": "7x7"}, "variant is '7x7'. Choose one of 'plain', 'bn' for a vgg."),
        ({"family": "preresnet", "depth": 45}, "depth is 45, but a preresnet has depth 6n \\+ 2, or 9n \\+ 2"),
        ({"family": "sequence", "variant": "flatten dense4"}, "width is 2, but the layers 'flatten dense4' have 4"),
    ],
)
def test_wrong_architectures_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Architecture(**{"width": 2, "num_classes": 4} | arguments)
