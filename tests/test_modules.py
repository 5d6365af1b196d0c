"""Any module through torchax: equal to PyTorch, statistics re-estimated, stacked and measured like any other model."""

import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch_derivatives import direction, jax_derivatives, relative, torch_derivatives
from torch_families import perturbed

import converters

pytest.importorskip("torchax", reason="torchax is not installed; pip install 'mdjax[torchax]'")


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


def named(model, tree, state) -> dict[str, np.ndarray]:
    """A tree in the layout of params as arrays by their names in PyTorch: `arrays` of a unit vector, undone."""
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
    assert relative(named(model, gradient, state), expected.gradient) < 1e-5
    assert relative(named(model, product, state), expected.product) < 1e-4
