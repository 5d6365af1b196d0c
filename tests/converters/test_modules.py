"""Any module through torchax: equal to PyTorch, statistics re-estimated, stacked and measured like any other model."""

import copy
import functools
import importlib.util
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn
from torch_derivatives import direction, jax_derivatives, relative, torch_derivatives
from torch_families import perturbed

import converters
import mdjax
from converters.errors import RefusedError
from mdjax.errors import InputError
from mdjax.landscape import curves
from mdjax.landscape.curves import CurveSettings
from mdjax.metrics.connectivity import ModeConnectivity
from mdjax.metrics.losses import Losses
from mdjax.zoo.data import Dataset

# Not by importing it: how it is imported is tested here.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torchax") is None, reason="torchax is not installed; pip install 'mdjax[torchax]'"
)


class Convolutions(nn.Module):
    """BatchNorm after every kind of convolution, an embedding of places, weights tied, a buffer that is a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6))
        self.depthwise = nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6)
        self.norm = nn.BatchNorm2d(6, affine=False)
        self.up = nn.ConvTranspose2d(6, 4, 2)
        self.dropout = nn.Dropout(0.5)
        self.square = nn.Linear(4, 4)
        self.again = nn.Linear(4, 4)
        self.again.weight = self.square.weight
        self.last = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 10)
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 0.5, 1.5]))
        self.register_buffer("order", torch.tensor([2, 0, 3, 1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.up(self.norm(self.depthwise(x))))
        x = self.dropout(x).amax((2, 3))[:, self.order] * self.scale
        return self.head(self.last(torch.tanh(self.again(torch.relu(self.square(x))))))


class Encoder(nn.Module):
    """Rows of an image as a sequence for two layers of attention."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.1)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x.squeeze(1)).mean(1))


MODULES = {"convolutions": Convolutions, "encoder": Encoder}
IMAGES = np.random.default_rng(0).normal(size=(4, 1, 8, 8)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(10, size=4)


@functools.cache
def module(name: str, seed: int = 0) -> nn.Module:
    return perturbed(MODULES[name](), seed)


@functools.cache
def converted(name: str) -> converters.Converted:
    return converters.from_module(module(name), torch.from_numpy(IMAGES))


def named(model, tree) -> dict[str, np.ndarray]:
    """A tree in the layout of params as arrays by their names in PyTorch."""
    found = {}
    for name in model.names:
        if name.is_param:
            leaf = functools.reduce(lambda node, part: node[part], name.path, tree)
            found[name.torch] = np.moveaxis(leaf, -1, name.outputs) if leaf.ndim > 1 else leaf
    return found


@pytest.mark.parametrize("name", MODULES)
def test_equal_to_torch(name):
    network, (model, params, state) = module(name), converted(name)
    vectors = direction(network, seed=2)
    rest = {entry: value for entry, value in network.state_dict().items() if entry not in vectors}
    rest |= {"again.weight": vectors["square.weight"]} if name == "convolutions" else {}
    tangents, _ = model.arrays(vectors | rest)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = torch_derivatives(network, IMAGES, LABELS, vectors)
    inputs = np.moveaxis(IMAGES, 1, -1)
    logits, gradient, product = jax_derivatives(model, params, state, inputs, LABELS, tangents)
    assert np.abs(expected.logits).max() > 0.05
    np.testing.assert_allclose(logits, expected.logits, rtol=1e-5, atol=1e-5)
    assert relative(named(model, gradient), expected.gradient) < 1e-5
    assert relative(named(model, product), expected.product) < 1e-4


def trained_a_step(network: nn.Module, images: np.ndarray) -> tuple[np.ndarray, nn.Module]:
    """What PyTorch makes of one batch in train mode without dropout; momentum 1 leaves the batch's own statistics."""
    network = copy.deepcopy(network).train()
    for part in network.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.momentum = 1.0
        if isinstance(part, nn.Dropout):
            part.eval()
    with torch.no_grad():
        return network(torch.from_numpy(images)).numpy(), network


def test_statistics_are_re_estimated():
    network, (model, params, state) = module("convolutions"), converted("convolutions")
    logits, trained = trained_a_step(network, IMAGES)
    inputs = np.concatenate([np.moveaxis(IMAGES, 1, -1), np.full((2, 8, 8, 1), 99, np.float32)])
    weights = jnp.array([1.0, 1, 1, 1, 0, 0])
    found, statistics = jax.jit(model.batch_apply)(params, state, inputs, weights)
    np.testing.assert_allclose(found[:4], logits, rtol=1e-4, atol=1e-4)
    _, expected = model.arrays(trained.state_dict())
    assert not np.allclose(expected["norm"]["running_var"], state["norm"]["running_var"], rtol=0.1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), statistics, expected)
    np.testing.assert_array_equal(statistics["scale"], state["scale"])


def test_checkpoints_stack_and_are_measured_like_any_other_model():
    model, *_ = converted("convolutions")
    networks = [copy.deepcopy(module("convolutions", seed)) for seed in (0, 1)]
    for network in networks:  # what is not re-estimated has to agree where a curve is drawn
        network.scale.fill_(1.5)
    models = [model.arrays(network.state_dict()) for network in networks]
    images = np.moveaxis(IMAGES, 1, -1)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *models)
    logits = jax.jit(jax.vmap(model.apply, (0, 0, None)))(*stacked, images)
    labels = LABELS.astype(np.int32)
    data = Dataset("four", images, labels, images, labels, 10)
    metric = ModeConnectivity(CurveSettings(num_steps=2, start="random"), num_points=3, align=True)
    table = mdjax.measure(models, model=model, data=data, metrics=[Losses(), metric])
    assert (table.models["status"] == "ok").all()
    assert np.isfinite(table.pairs["mode_connectivity"]).all()
    for place, network in enumerate(networks):
        with torch.no_grad():
            expected = network(torch.from_numpy(IMAGES))
        np.testing.assert_allclose(logits[place], expected, rtol=1e-5, atol=1e-5)
        loss = nn.functional.cross_entropy(expected, torch.from_numpy(LABELS))
        assert table.models["train_loss"][place] == pytest.approx(float(loss), rel=1e-5)


def test_weights_are_laid_out_as_curves_and_surfaces_read_them():
    model, params, _ = converted("convolutions")
    shapes = {"/".join(name.path): np.moveaxis(np.empty(name.shape), name.outputs, -1).shape for name in model.names}
    assert shapes["stem/0/kernel"] == (1, 3, 3, 6)
    assert shapes["up/kernel"] == (6, 2, 2, 4)
    assert shapes["head/kernel"] == (4, 10)
    bends = curves.random_bends(params, 1, jax.random.key(0))
    assert float(jnp.abs(bends["depthwise"]["kernel"]).max()) <= 1 / 3
    assert float(jnp.abs(bends["depthwise"]["bias"]).max()) <= 1 / 3
    assert float(jnp.abs(bends["stem"]["1"]["bias"]).max()) == 0


def exported(name: str, path, **options):
    options = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)} | options
    torch.export.save(torch.export.export(module(name), (torch.from_numpy(IMAGES),), **options), path)
    return path


@pytest.mark.parametrize("name", MODULES)
def test_exported_programs(tmp_path, name):
    path = exported(name, tmp_path / "model.pt2")
    with pytest.raises(InputError, match="would run what it says"):
        converters.from_exported(path)
    model, params, state = converters.from_exported(path, trust=True)
    inputs = np.moveaxis(np.concatenate([IMAGES, IMAGES[:3]]), 1, -1)
    with torch.no_grad():
        expected = module(name)(torch.from_numpy(IMAGES))
    np.testing.assert_allclose(model.apply(params, state, inputs)[:4], expected, rtol=1e-5, atol=1e-5)
    other, *arrays = converted(name)
    ones = jnp.ones(len(inputs))
    found, theirs = model.batch_apply(params, state, inputs, ones), other.batch_apply(*arrays, inputs, ones)
    np.testing.assert_allclose(found[0], theirs[0], rtol=1e-5, atol=1e-5)
    assert len(jax.tree.leaves(found[1])) == len(jax.tree.leaves(theirs[1]))


def test_exported_programs_of_one_batch_size_or_damaged_are_refused(tmp_path):
    path = exported("encoder", tmp_path / "fixed.pt2", dynamic_shapes=None)
    with pytest.raises(RefusedError, match="it was exported for batches of one size. Export it with"):
        converters.from_exported(path, trust=True)
    (tmp_path / "bad.pt2").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(RefusedError, match="it cannot be loaded"):
        converters.from_exported(tmp_path / "bad.pt2", trust=True)


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.flatten(1), x


class Total(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum()


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.norm(x)).flatten(1)


class Frozen(nn.Module):
    """Statistics by the usual names, in a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.running_mean).flatten(1)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten()), "its BatchNorm 0 keeps no"),
        (Pair, "it returns tuple, not one tensor of outputs"),
        (Total, r"it returns a tensor of shape \[\], not one tensor of outputs"),
    ],
)
def test_modules_without_outputs_of_each_example_are_refused(made, reason):
    with pytest.raises(RefusedError, match=reason):
        converters.from_module(made(), torch.from_numpy(IMAGES))


@pytest.mark.parametrize(
    ("made", "reason"), [(Twice, "norm.running_mean serve two layers"), (Frozen, "running_mean are not those of a Ba")]
)
def test_statistics_that_cannot_be_re_estimated_are_told(made, reason):
    model, params, state = converters.from_module(made(), torch.from_numpy(IMAGES))
    with pytest.raises(RefusedError, match=reason):
        model.batch_apply(params, state, np.moveaxis(IMAGES, 1, -1), jnp.ones(4))


def test_bad_checkpoints_of_a_module_are_refused():
    model, *_ = converted("convolutions")
    good = module("convolutions").state_dict()
    cases = {
        "it lacks 1 of 26 entries, first head.bias": {name: good[name] for name in good if name != "head.bias"},
        "it has 1 unknown entries, first extra": good | {"extra": torch.ones(1)},
        r"its entry head.bias is of shape \[3\], but \[10\] was expected": good | {"head.bias": torch.ones(3)},
        "its entries square.weight and again.weight differ": good | {"again.weight": torch.ones(4, 4)},
        "its entry head.bias is no plain array": good | {"head.bias": torch.ones(10).to_sparse()},
    }
    for reason, entries in cases.items():
        with pytest.raises(RefusedError, match=reason):
            model.arrays(entries)


def test_the_module_is_left_alone_and_nothing_is_reported():
    network = module("encoder").train()
    try:
        converted("encoder")
        assert network.training
        assert next(network.parameters()).requires_grad
    finally:
        network.eval()
    assert os.environ["ENABLE_RUNTIME_UPTIME_TELEMETRY"] == "0"


def test_missing_torchax_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchax", None)
    with pytest.raises(InputError, match=r"needs torchax, which is not installed. Run pip install 'mdjax\[torchax\]'"):
        converters.from_module(nn.Identity(), torch.ones(1, 2))


def test_examples_must_be_a_tensor():
    with pytest.raises(InputError, match="example_inputs is 'ndarray'. Give one tensor"):
        converters.from_module(nn.Identity(), IMAGES)
