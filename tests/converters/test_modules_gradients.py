"""Code that PyTorch does not differentiate as written: honoured, against dense float64 Hessians, or refused by name."""

import importlib.util

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import torch.utils.checkpoint
from torch import nn
from torch_hessians import jax_hessian, relative, torch_hessian

import converters
from converters.errors import RefusedError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torchax") is None, reason="torchax is not installed; pip install 'mdjax[torchax]'"
)

INPUTS = np.random.RandomState(0).randn(24, 4).astype(np.float32)
LABELS = np.arange(24) % 3


class Two(nn.Module):
    """Two layers; the forward pass is a function of it and its inputs."""

    def __init__(self, forward) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)
        self.function = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


class Rounded(torch.autograd.Function):
    """A straight-through estimator."""

    @staticmethod
    def forward(ctx, values):
        return torch.round(values * 2) / 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


@torch.no_grad()
def decorated(net, x):
    return torch.tanh(net.a(x))


def without(context):
    def forward(net, x):
        with context():
            hidden = torch.tanh(net.a(x))
        return net.b(hidden.clone())

    return forward


def switched(net, x):
    torch.set_grad_enabled(False)
    hidden = torch.tanh(net.a(x))
    torch.set_grad_enabled(True)
    return net.b(hidden)


def enabled_inside(net, x):
    with torch.no_grad():
        first = net.a(x)
        with torch.enable_grad():
            second = torch.tanh(net.a(x))
    return net.b(first + second)


def straight_through(net, x):
    hidden = net.a(x)
    return net.b(hidden + (torch.round(hidden) - hidden).detach())


def statistics(net, x):
    with torch.no_grad():
        mean, deviation = net.a(x).mean(), net.a(x).std()
    return net.b(torch.tanh((net.a(x) - mean) / deviation))


def written(net, x):
    hidden = net.a(x) * 1
    with torch.no_grad():
        hidden[:, 0] = 0.3
        hidden[:, 1:3].mul_(3)
    return net.b(torch.tanh(hidden))


def data_clamped(net, x):
    hidden = net.a(x) * 1
    hidden.data.clamp_(-0.3, 0.3)
    return net.b(torch.tanh(hidden))


def data_replaced(net, x):
    hidden = net.a(x) * 1
    hidden.data = hidden.data.clamp(-0.3, 0.3)
    return net.b(torch.tanh(hidden))


def flat_weight(net, x):
    with torch.no_grad():
        weight = net.a.weight.flatten()
    return net.b(torch.tanh(x @ weight.view(5, 4).t() + net.a.bias))


def selected(net, x):
    hidden = net.a(x)
    with torch.no_grad():
        first = hidden[:, 0]
    return net.b(torch.tanh(hidden)) * first[:, None]


def same_tensor(net, x):
    hidden = net.a(x)
    with torch.no_grad():
        same = hidden.to(hidden.dtype)
    return net.b(torch.tanh(same))


def asking(net, x):
    hidden = net.a(x)
    return net.b(torch.tanh(hidden * 2 if hidden.requires_grad and torch.is_grad_enabled() else hidden))


def in_place(net, x):
    return net.b(torch.tanh(net.a(x)).detach_())


HONOURED = {
    "detach": lambda net, x: net.b(torch.tanh(net.a(x)).detach()),
    "torch.detach": lambda net, x: net.b(torch.detach(torch.tanh(net.a(x)))),
    "detach of a view": lambda net, x: net.b(torch.tanh(net.a(x))[:, :].detach()),
    "detach_": in_place,
    "data": lambda net, x: net.b(torch.tanh(net.a(x)).data),
    "data of a view": lambda net, x: net.b(torch.tanh(net.a(x))[:, :].data),
    "data of a parameter": lambda net, x: net.b(torch.tanh(F.linear(x, net.a.weight.data, net.a.bias))),
    "no_grad": without(torch.no_grad),
    "decorator": lambda net, x: net.b(decorated(net, x)),
    "inference_mode": without(torch.inference_mode),
    "set_grad_enabled": without(lambda: torch.set_grad_enabled(False)),
    "set_grad_enabled, called": switched,
    "enable_grad inside": enabled_inside,
    "straight through": straight_through,
    "statistics without gradient": statistics,
    "written without gradient": written,
    "data clamped": data_clamped,
    "data replaced": data_replaced,
    "flattened without gradient": flat_weight,
    "a view without gradient": selected,
    "the same tensor": same_tensor,
    "asking": asking,
    "a function without gradient": lambda net, x: net.b(Rounded.apply(net.a(x).detach())),
    "checkpoint": lambda net, x: net.b(
        torch.utils.checkpoint.checkpoint(lambda v: torch.tanh(net.a(v)), x, use_reentrant=False)
    ),
    "torch.func": lambda net, x: net.b(
        torch.func.vmap(torch.func.grad(lambda hidden: (hidden**3).sum()))(torch.tanh(net.a(x)))
    ),
}


@pytest.mark.parametrize("name", HONOURED)
def test_hessian_is_that_of_pytorch(name):
    torch.manual_seed(0)
    network = Two(HONOURED[name])
    converted = converters.from_module(network, torch.from_numpy(INPUTS[:2]))
    expected = torch_hessian(network, INPUTS, LABELS)
    assert relative(jax_hessian(converted, network, INPUTS, LABELS), expected) < 2e-5


def test_a_caller_without_gradient_changes_nothing():
    torch.manual_seed(0)
    network = Two(without(torch.no_grad))
    with torch.no_grad():
        converted = converters.from_module(network, torch.from_numpy(INPUTS[:2]))
        found = jax_hessian(converted, network, INPUTS, LABELS)
    assert relative(found, torch_hessian(network, INPUTS, LABELS)) < 2e-5


def hooked(net, x):
    hidden = torch.tanh(net.a(x))
    if hidden.requires_grad:
        hidden.register_hook(lambda gradient: gradient * 2)
    return net.b(hidden)


def hooked_node(net, x):
    hidden = torch.tanh(net.a(x))
    if hidden.grad_fn is not None:
        hidden.grad_fn.register_prehook(lambda gradients: (gradients[0] * 2,))
    return net.b(hidden)


def packed(net, x):
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: saved * 1.5, lambda saved: saved):
        hidden = torch.tanh(net.a(x)) ** 2
    return net.b(hidden)


def differentiating(net, x):
    hidden = torch.tanh(net.a(x))
    return net.b(torch.autograd.grad((hidden**3).sum(), hidden, create_graph=True)[0])


def overwritten(net, x):
    hidden = torch.tanh(net.a(x))
    with torch.no_grad():
        hidden.mul_(2)
    return net.b(hidden)


REFUSED = {
    "straight through": (lambda net, x: net.b(Rounded.apply(net.a(x))), "autograd.Function Rounded defines a deriv"),
    "reversal": (lambda net, x: net.b(Reversed.apply(net.a(x))), "autograd.Function Reversed defines a derivative"),
    "reentrant": (
        lambda net, x: net.b(torch.utils.checkpoint.checkpoint(torch.tanh, net.a(x), use_reentrant=True)),
        "autograd.Function CheckpointFunction",
    ),
    "hook": (hooked, r"it uses \.register_hook\(\) in its forward pass"),
    "hook of a node": (hooked_node, r"it uses \.grad_fn in its forward pass"),
    "saved tensors": (packed, r"derivative of its logits by a\.\w+ is not PyTorch's"),
    "torch.autograd.grad": (differentiating, r"it uses torch.autograd.grad\(\) in its forward pass"),
    "overwritten": (overwritten, "PyTorch cannot differentiate it: one of the variables"),
    "all of it": (torch.no_grad()(lambda net, x: net.b(net.a(x))), "PyTorch finds no derivatives of its logits"),
    "data-dependent": (lambda net, x: net.b(net.a(x)) * float(net.a.bias.sum()), "torchax cannot run it: Abstract"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_derivatives_of_their_own_are_refused_by_name(name):
    forward, reason = REFUSED[name]
    with pytest.raises(RefusedError, match=reason):
        converters.from_module(Two(forward), torch.from_numpy(INPUTS[:2]))


@pytest.mark.parametrize(
    ("register", "reason"),
    [
        (lambda net: net.a.register_full_backward_hook(lambda *_: None), "its part a has a backward hook"),
        (lambda net: net.b.register_full_backward_pre_hook(lambda *_: None), "its part b has a backward hook"),
        (lambda net: net.a.weight.register_hook(lambda slope: slope * 2), "parameter a.weight has a hook on its grad"),
    ],
)
def test_backward_hooks_are_refused_by_name(register, reason):
    network = Two(lambda net, x: net.b(torch.tanh(net.a(x))))
    register(network)
    with pytest.raises(RefusedError, match=reason):
        converters.from_module(network, torch.from_numpy(INPUTS[:2]))
