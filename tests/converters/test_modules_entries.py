"""What a module's checkpoint holds besides trained weights: orders, masks, counters, ties, frozen parameters."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn
from torch_hessians import jax_hessian, relative, torch_hessian

import converters
import mdjax
from converters.errors import RefusedError
from mdjax.landscape.curves import CurveSettings
from mdjax.metrics.connectivity import ModeConnectivity
from mdjax.zoo.data import Dataset

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torchax") is None, reason="torchax is not installed; pip install 'mdjax[torchax]'"
)

INPUTS = np.random.RandomState(0).randn(16, 5).astype(np.float32)
LABELS = (np.arange(16) % 3).astype(np.int32)


class Buffered(nn.Module):
    """A hidden layer whose units an order, a mask and a counter change; BatchNorm counts batches."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.norm, self.b = nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)
        self.register_buffer("order", torch.randperm(6))
        self.register_buffer("mask", torch.rand(6) > 0.4)
        self.register_buffer("step", torch.tensor(seed + 1))
        self.register_buffer("fixed", torch.tensor([3, 1, 0, 2, 5, 4]), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(torch.tanh(self.a(x)))[:, self.order] * self.mask
        return self.b(hidden[:, self.fixed] / self.step)


def test_orders_masks_and_counters_are_those_of_each_checkpoint():
    networks = [Buffered(seed).eval() for seed in (0, 1, 2)]
    assert not torch.equal(networks[0].order, networks[1].order)
    model, *_ = converters.from_module(networks[0], torch.from_numpy(INPUTS[:2]))
    models = [model.arrays(network.state_dict()) for network in networks]
    for network, arrays in zip(networks, models, strict=True):
        with torch.no_grad():
            expected = network(torch.from_numpy(INPUTS))
        np.testing.assert_allclose(model.apply(*arrays, jnp.asarray(INPUTS)), expected, rtol=1e-5, atol=1e-6)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *models)
    assert "num_batches_tracked" not in stacked[1]["norm"]
    data = Dataset("d", INPUTS, LABELS, INPUTS, LABELS, 3)
    curve = ModeConnectivity(CurveSettings(num_steps=1, start="random"), num_points=3)
    table = mdjax.measure(models[:2], model=model, data=data, metrics=["losses", curve], show_progress=False)
    assert (table.models["status"] == "ok").all()
    # A curve between networks of different orders leads to neither.
    assert table.pairs["status_code"].tolist() == ["undefined"]
    assert table.pairs["mode_connectivity"].isna().all()


class Built(nn.Module):
    """A program that is built on the values of some buffers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.a, self.kind = nn.Linear(5, 6), kind
        self.register_buffer("order", torch.arange(3).flip(0))
        self.register_buffer("chosen", torch.tensor([True, False, True, False, True, False]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.a(x)
        if self.kind == "mask":
            hidden = hidden[:, self.chosen]
        elif self.kind == "loop":
            hidden = sum(hidden[:, :3] for _ in range(int(self.chosen.sum())))
        else:
            hidden = hidden[:, :3] * 1 if self.chosen.any() else hidden[:, 3:] * 1
        return hidden[:, self.order]


@pytest.mark.parametrize("kind", ["mask", "loop", "branch"])
def test_buffers_that_the_program_is_built_on_are_constants_and_others_refused(kind):
    network = Built(kind)
    model, params, state = converters.from_module(network, torch.from_numpy(INPUTS[:2]))
    assert model.constants == {"chosen"}
    np.testing.assert_array_equal(state["order"], [2, 1, 0])
    with torch.no_grad():
        np.testing.assert_allclose(
            model.apply(params, state, INPUTS), network(torch.from_numpy(INPUTS)), rtol=1e-5, atol=1e-6
        )
    other = network.state_dict() | {"order": torch.tensor([0, 2, 1])}
    np.testing.assert_array_equal(model.arrays(other)[1]["order"], [0, 2, 1])
    with pytest.raises(RefusedError, match="its entry chosen is not that of the module, whose program depends on it"):
        model.arrays(other | {"chosen": torch.zeros(6, dtype=torch.bool)})


def test_entries_are_cast_as_load_state_dict_does_where_nothing_is_lost():
    network = Buffered(0).eval()
    model, *_ = converters.from_module(network, torch.from_numpy(INPUTS[:2]))
    other = Buffered(1).state_dict()
    casts = {
        "mask": (torch.uint8, torch.int64, torch.float32, torch.bool),
        "order": (torch.int32, torch.uint8, torch.float32, torch.float64),
        "step": (torch.uint8, torch.int16, torch.bfloat16),
        "norm.running_var": (torch.float64, torch.int64, torch.bool),
        "b.bias": (torch.float64, torch.int8, torch.bool),
    }
    for name, kinds in casts.items():
        for kind in kinds:
            whole = other[name].round().clamp(-1, 1).abs() if name in ("norm.running_var", "b.bias") else other[name]
            stored = other | {name: whole.to(kind)}
            network.load_state_dict(stored)
            with torch.no_grad():
                expected = network(torch.from_numpy(INPUTS))
            np.testing.assert_allclose(model.apply(*model.arrays(stored), INPUTS), expected, rtol=1e-5, atol=1e-6)


def test_entries_that_another_type_would_change_are_refused():
    network = Buffered(0)
    model, *_ = converters.from_module(network, torch.from_numpy(INPUTS[:2]))
    good = network.state_dict()
    cases = {
        "its entry order is of type float32, but int64 was expected": {"order": good["order"] + 0.5},
        "its entry mask is of type uint8, but bool was expected": {"mask": torch.full((6,), 2, dtype=torch.uint8)},
        "its entry mask is of type float32, but bool was expected": {"mask": torch.full((6,), torch.nan)},
        "its entry a.bias is of type int64, but float32 was expected": {"a.bias": torch.full((6,), 2**53 + 1)},
        "its entry a.weight is of type complex64, but": {"a.weight": good["a.weight"] * 1j},
        "its entry step holds numbers beyond 32 bits": {"step": torch.tensor(2**40)},
        "it has 1 unknown entries, first extra": {"extra": torch.ones(1, dtype=torch.int64)},
    }
    for reason, changes in cases.items():
        with pytest.raises(RefusedError, match=reason):
            model.arrays(good | changes)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.c.weight, self.c.bias = self.b.weight, self.b.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.a, self.b, self.c):
            x = torch.tanh(layer(x))
        return self.d(x)


class TiedAcross(nn.Module):
    """One layer under two names, and a weight that another layer uses transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 4), nn.Linear(4, 4)
        self.again = self.b
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.again(torch.tanh(self.b(torch.tanh(self.a(x)))))
        return self.head(hidden @ self.a.weight)


class TiedNorms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.first, self.second, self.b = nn.Linear(5, 4), nn.LayerNorm(4), nn.LayerNorm(4), nn.Linear(4, 3)
        self.second.weight = self.first.weight
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([1.0, 0.5, 2.0, 1.5]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.second(torch.tanh(self.first(self.a(x)))))


@pytest.mark.parametrize("made", [Tied, TiedAcross, TiedNorms])
def test_what_is_tied_is_one_parameter(made):
    torch.manual_seed(0)
    network = made()
    converted = converters.from_module(network, torch.from_numpy(INPUTS[:2]))
    leaves = jax.tree.leaves(converted.params)
    assert sum(leaf.size for leaf in leaves) == sum(value.numel() for value in network.parameters())
    expected = torch_hessian(network, INPUTS, LABELS)
    assert relative(jax_hessian(converted, network, INPUTS, LABELS), expected) < 2e-5


def test_what_is_tied_stays_one_parameter_of_an_exported_program(tmp_path):
    torch.manual_seed(0)
    network = TiedNorms()
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network, (torch.from_numpy(INPUTS[:2]),), dynamic_shapes=dynamic)
    torch.export.save(program, tmp_path / "model.pt2")
    converted = converters.from_exported(tmp_path / "model.pt2", trust=True)
    assert sum(leaf.size for leaf in jax.tree.leaves(converted.params)) == sum(
        value.numel() for value in network.parameters()
    )
    assert relative(jax_hessian(converted, network, INPUTS, LABELS), torch_hessian(network, INPUTS, LABELS)) < 2e-5


def test_one_copy_of_what_is_tied_is_enough():
    network = Tied()
    model, params, _ = converters.from_module(network, torch.from_numpy(INPUTS[:2]))
    state = network.state_dict()
    for left_out in ({"c.weight", "c.bias"}, {"b.weight", "b.bias"}, {"b.weight", "c.bias"}):
        found, _ = model.arrays({name: value for name, value in state.items() if name not in left_out})
        jax.tree.map(np.testing.assert_array_equal, found, params)


def frozen_layer() -> nn.Module:
    network = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    network[0].requires_grad_(False)
    return network


def frozen_bias() -> nn.Module:
    network = Buffered(0)
    network.norm.requires_grad_(False)
    network.b.bias.requires_grad_(False)
    return network


def frozen_tie() -> nn.Module:
    network = Tied()
    network.c.requires_grad_(False)
    return network


@pytest.mark.parametrize(
    ("made", "frozen"),
    [
        (Tied, ()),
        (frozen_layer, ("['0']['kernel']", "['0']['bias']")),
        (frozen_bias, ("['norm']['scale']", "['norm']['bias']", "['b']['bias']")),
        (frozen_tie, ("['b']['kernel']", "['b']['bias']")),
    ],
)
def test_frozen_parameters_are_named(made, frozen):
    network = made()
    model, params, _ = converters.from_module(network, torch.from_numpy(INPUTS[:2]))
    assert model.frozen == frozen
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    assert set(frozen) <= set(paths)
    hash(model)
    assert [value.requires_grad for value in made().parameters()] == [
        value.requires_grad for value in network.parameters()
    ]
