"""Families of checkpoints: equal to PyTorch in value and derivatives, back bit for bit, and used by the engine."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import torch_families as reference
from helpers import measured
from torch_cases import CASES, assert_same_bits, floats, state_dict
from torch_derivatives import direction, jax_derivatives, relative, torch_derivatives
from torch_resnet import random_resnet

import converters
from converters.errors import RefusedError
from mdjax.landscape.alignment import specification, verify
from mdjax.landscape.curves import random_bends
from mdjax.metrics import Examples, Hessian
from mdjax.models import Architecture
from mdjax.sweeps.units import cells
from mdjax.zoo.data import Dataset
from mdjax.zoo.store import Zoo


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


def test_tensors_load_into_the_module():
    network = reference.perturbed(reference.TorchWideResNet(10, 1, 10), 0)
    architecture = converters.recognise(state_dict(network))
    tensors = converters.to_torch(*converters.to_flax(state_dict(network), architecture), architecture)
    other = reference.TorchWideResNet(10, 1, 10)
    other.load_state_dict(dict(tensors))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


def test_counters_may_be_missing_all_together():
    arrays = state_dict(random_resnet(1, 0))
    old = {name: array for name, array in arrays.items() if not name.endswith("tracked")}
    architecture = converters.recognise(old)
    assert_same_bits(arrays, converters.to_state_dict(*converters.to_flax(old, architecture), architecture))


def test_trees_of_another_architecture_are_refused():
    architecture = Architecture("resnet", 2, depth=10)
    params, state = jax.tree.map(lambda leaf: floats(*leaf.shape), architecture.abstract)
    with pytest.raises(RefusedError, match="which is not float32"):
        converters.to_state_dict(params, state, Architecture("resnet", 3, depth=10))
    with pytest.raises(RefusedError, match="its parameters are PyTreeDef"):
        converters.to_state_dict(params, {}, architecture)


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
    found = [cells(row, dataset)[0].architecture for row, dataset in zip(rows, data, strict=True)]
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
    metric = dataclasses.replace(Hessian.of_preset("reference"), num_samples=50)
    (row,) = measured(metric, architecture.model("patches"), *stacked, data, ["a"])
    assert row["hessian_eigenvalue"] == pytest.approx(eigenvalue, rel=0.02)
    error = np.hypot(row["hessian_trace_se"], np.std(forms, ddof=1) / len(forms) ** 0.5)
    assert row["hessian_trace"] == pytest.approx(np.mean(forms), abs=4 * error)
