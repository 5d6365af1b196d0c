"""Norms and roots at exact zero: the Hessian is PyTorch's, against dense float64 matrices."""

import importlib.util

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch_hessians import jax_hessian, relative, torch_hessian

import converters

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torchax") is None, reason="torchax is not installed; pip install 'mdjax[torchax]'"
)

INPUTS = np.random.RandomState(0).randn(32, 4).astype(np.float32)
LABELS = np.arange(32) % 3
INFINITY = float("inf")


class Dead(nn.Module):
    """A function of units that are all off for nearly every example, before the last layer."""

    def __init__(self, function) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.function(F.relu(self.a(x) - 0.5)))


def every_norm(hidden):
    norms = [torch.norm(hidden, p=p, dim=1) for p in (1, 2, INFINITY, "fro")]
    return hidden + torch.stack([*norms, norms[0], norms[1]], 1)


MASKED = {
    "plain": lambda h: h,
    "normalize": lambda h: F.normalize(h, dim=1),
    "normalize by 1": lambda h: F.normalize(h, p=1, dim=1),
    "normalize by the largest": lambda h: F.normalize(h, p=INFINITY, dim=1),
    "norms": every_norm,
    "kept": lambda h: h + h.norm(dim=1, keepdim=True) + torch.linalg.norm(h, dim=-1)[:, None],
    "matrix norm": lambda h: h + torch.linalg.matrix_norm(h.reshape(-1, 2, 3))[:, None],
    "cosine_similarity": lambda h: h + F.cosine_similarity(h, h.roll(1, 1), dim=1)[:, None],
    "pairwise_distance": lambda h: h + F.pairwise_distance(h, h.flip(1), eps=0.0, keepdim=True),
    "dist": lambda h: h + torch.dist(h[:1], 0 * h[:1]),
}
"""Where PyTorch's second derivatives are finite."""


@pytest.mark.parametrize("name", MASKED)
def test_hessian_is_that_of_pytorch(name):
    torch.manual_seed(0)
    network = Dead(MASKED[name])
    with torch.no_grad():
        off = (network.a(torch.from_numpy(INPUTS)) < 0.5).all(1)
    assert 10 < int(off.sum()) < 32
    converted = converters.from_module(network, torch.from_numpy(INPUTS[:2]))
    expected = torch_hessian(network, INPUTS, LABELS)
    assert np.isfinite(expected).all()
    assert relative(jax_hessian(converted, network, INPUTS, LABELS), expected) < 1e-4


def without_zero(function):
    """The same in float64, where rows of zeros are replaced before and the result after: the subgradient 0."""

    def masked(hidden):
        off = (hidden == 0).all(1, keepdim=True)
        return torch.where(off, 0.0, function(torch.where(off, torch.arange(1.0, 7).to(hidden), hidden)))

    return masked


DOUBLY_INFINITE = {
    "std": lambda h: h + h.std(1, keepdim=True) + torch.std_mean(h, 1, unbiased=False)[0][:, None],
    "norm of order 3": lambda h: h + torch.norm(h, p=3, dim=1, keepdim=True),
    "root of squares": lambda h: h.square().sum(1, keepdim=True).sqrt() * torch.ones_like(h),
    "power of squares": lambda h: (h * h).sum(1, keepdim=True) ** 0.5 * torch.ones_like(h),
    "norm of order 3/2": lambda h: torch.norm(h + h.sum(1, keepdim=True), p=1.5, dim=1, keepdim=True).expand(-1, 6),
    "cdist": lambda h: torch.cdist(h[:, None], 0 * h[:, None])[:, 0].expand(-1, 6),
}
"""Where PyTorch's second derivatives are NaN or not written; the reference masks the zeros away."""


@pytest.mark.parametrize("name", DOUBLY_INFINITE)
def test_zeros_have_no_slope(name):
    torch.manual_seed(0)
    function = DOUBLY_INFINITE[name]
    network = Dead(function)
    converted = converters.from_module(network, torch.from_numpy(INPUTS[:2]))
    if name == "cdist":  # PyTorch has no second derivative of it
        function = DOUBLY_INFINITE["root of squares"]
    network.function = without_zero(function)
    expected = torch_hessian(network, INPUTS, LABELS)
    assert np.isfinite(expected).all()
    assert relative(jax_hessian(converted, network, INPUTS, LABELS), expected) < 1e-4


KINKS = {
    "abs": torch.abs,
    "clamp": lambda h: h.clamp(min=0),
    "clamp between": lambda h: torch.clamp(h, 0.0, 1.0),
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "norm of order 1": lambda h: h * h.norm(p=1, dim=1, keepdim=True) + h,
    "square": lambda h: h**2 + h,
}


class Untrained(nn.Module):
    """Every unit is exactly 0, and moves with its bias."""

    def __init__(self, function) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)
        nn.init.zeros_(self.a.weight)
        nn.init.zeros_(self.a.bias)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.function(self.a(x)))


@pytest.mark.parametrize("name", KINKS)
def test_slopes_at_kinks_are_those_of_pytorch(name):
    torch.manual_seed(0)
    network = Untrained(KINKS[name])
    converted = converters.from_module(network, torch.from_numpy(INPUTS[:2]))
    expected = torch_hessian(network, INPUTS, LABELS)
    assert relative(jax_hessian(converted, network, INPUTS, LABELS), expected) < 1e-4
