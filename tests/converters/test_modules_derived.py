"""Modules whose weights are computed from others: pruned, normalised; by from_module, and by their code in a zoo."""

import importlib.util

import jax
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch_checkpoints import convert, reasons
from torch_hessians import jax_hessian, relative

import converters
from converters.errors import RefusedError
from converters.module_copies import copied, plain
from mdjax.errors import InputError
from mdjax.zoo.store import Zoo

torchax_only = pytest.mark.skipif(
    importlib.util.find_spec("torchax") is None, reason="torchax is not installed; pip install 'mdjax[torchax]'"
)
INPUTS = np.random.RandomState(0).randn(16, 5).astype(np.float32)
LABELS = (np.arange(16) % 3).astype(np.int32)


def network(*, num_inputs: int = 5, classes: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(num_inputs, 6), nn.Tanh(), nn.Linear(6, classes))


def pruned(**sizes: int) -> nn.Module:
    found = network(**sizes)
    prune.l1_unstructured(found[1], "weight", 0.5)
    prune.random_unstructured(found[1], "weight", 0.3)
    prune.l1_unstructured(found[3], "bias", 0.4)
    return found


def normalised(**sizes: int) -> nn.Module:
    found = network(**sizes)
    nn.utils.weight_norm(found[1])
    nn.utils.weight_norm(found[3], dim=None)
    return found


def parametrized(**sizes: int) -> nn.Module:
    found = network(**sizes)
    parametrizations.weight_norm(found[1])
    parametrizations.weight_norm(found[3], dim=1)
    return found


def spectral(**sizes: int) -> nn.Module:
    found = network(**sizes)
    nn.utils.spectral_norm(found[1])
    return found


FOLDED = (pruned, normalised, parametrized)


@torchax_only
@pytest.mark.parametrize("made", [*FOLDED, spectral])
@pytest.mark.parametrize("run_before", [True, False])
def test_weights_that_are_computed_from_others(made, run_before):
    given = made().eval()
    if run_before:  # its last weight is a tensor with a history
        given(torch.from_numpy(INPUTS))
    converted = converters.from_module(given, torch.from_numpy(INPUTS[:2]))
    found = converted.model.apply(converted.params, converted.state, INPUTS)
    np.testing.assert_allclose(found, given(torch.from_numpy(INPUTS)).detach(), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        other = {name: value * 2 if value.is_floating_point() else value for name, value in given.state_dict().items()}
        given.load_state_dict(other)
    found = converted.model.apply(*converted.model.arrays(other), INPUTS)
    np.testing.assert_allclose(found, given(torch.from_numpy(INPUTS)).detach(), rtol=1e-5, atol=1e-5)


@torchax_only
@pytest.mark.parametrize("made", [*FOLDED, spectral])
def test_their_curvature_is_that_of_what_they_are_computed_from(made):
    given = copied(made().eval())
    converted = converters.from_module(given, torch.from_numpy(INPUTS[:2]))
    # Differences of gradients: PyTorch's own second derivative of a normalised weight is wrong and not symmetric.
    expected = differenced_hessian(given.double())
    assert relative(jax_hessian(converted, given, INPUTS, LABELS), expected) < 2e-5


def differenced_hessian(module: nn.Module, step: float = 1e-5) -> np.ndarray:
    """[p, p], by central differences of the gradient of the mean cross-entropy in float64."""
    parameters = list(module.parameters())

    def slope() -> np.ndarray:
        loss = nn.functional.cross_entropy(module(torch.from_numpy(INPUTS).double()), torch.from_numpy(LABELS).long())
        return np.concatenate([found.numpy().ravel() for found in torch.autograd.grad(loss, parameters)])

    rows = []
    for parameter in parameters:
        entries = parameter.data.view(-1)
        for number in range(len(entries)):
            start = entries[number].item()
            entries[number] = start + step
            above = slope()
            entries[number] = start - step
            rows.append((above - slope()) / (2 * step))
            entries[number] = start
    return np.stack(rows)


@torchax_only
@pytest.mark.parametrize("made", FOLDED)
def test_weights_that_are_multiplied_out_on_one_side_only_say_so(tmp_path, made):
    given = made().eval()
    torch.save(given.state_dict(), tmp_path / "a.pt")
    model, *_ = converters.from_module(given, torch.from_numpy(INPUTS[:2]))
    with pytest.raises(RefusedError, match="the module computes .* from them.* Give the entries as they were saved"):
        model.arrays(converters.read_state_dict(tmp_path / "a.pt"))
    model, *_ = converters.from_module(network(), torch.from_numpy(INPUTS[:2]))
    with pytest.raises(RefusedError, match="Give it multiplied out, by converters.read_state_dict"):
        model.arrays(given.state_dict())
    found = model.apply(*model.arrays(converters.read_state_dict(tmp_path / "a.pt")), INPUTS)
    np.testing.assert_allclose(found, given(torch.from_numpy(INPUTS)).detach(), rtol=1e-5, atol=1e-6)


@torchax_only
def test_what_a_forward_pass_keeps_is_put_back():
    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last, self.scale = nn.Linear(5, 3), None, None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.scale is None:
                self.scale = self.layer.weight.abs().sum()
            self.last = self.layer(x) * self.scale
            return self.last

    given = Keeping()
    model, params, state = converters.from_module(given, torch.from_numpy(INPUTS[:2]))
    expected = given(torch.from_numpy(INPUTS)).detach()
    for _ in range(2):
        np.testing.assert_allclose(jax.jit(model.apply)(params, state, INPUTS), expected, rtol=1e-5, atol=1e-6)
    assert model.module.last is None


@pytest.mark.parametrize("made", FOLDED)
def test_by_their_code_they_are_multiplied_out(tmp_path, made):
    given = made(num_inputs=64, classes=10).eval()
    given(torch.zeros(2, 64))
    names = list(given.state_dict())
    (tmp_path / "src").mkdir()
    torch.save(given.state_dict(), tmp_path / "src/seed0.pt")
    folded = plain(given)
    torch.save({name: value * 2 for name, value in folded.state_dict().items()}, tmp_path / "src/seed1.pt")
    report = convert(tmp_path / "src", tmp_path / "zoo", module=given, data="digits")
    assert not report.refused, reasons(report)
    zoo = Zoo(tmp_path / "zoo")
    images = np.random.RandomState(0).normal(size=(5, 8, 8, 1)).astype(np.float32)
    expected = {0: given(torch.from_numpy(images)).detach()}
    with torch.no_grad():
        for value in folded.parameters():
            value *= 2
        expected[1] = folded(torch.from_numpy(images))
    for _, row in zoo.manifest.iterrows():
        params, state = jax.tree.map(lambda leaf, row=row: leaf[row["position"]], zoo.read_group(row["group"]))
        found = zoo.architecture(row["group"]).model().apply(params, state, images)
        np.testing.assert_allclose(found, expected[row["seed"]], rtol=1e-5, atol=1e-5)
    assert list(given.state_dict()) == names  # it is left as it was


def test_a_copy_shares_nothing_and_one_that_cannot_be_made_is_refused():
    given = parametrized()
    folded = plain(given)
    assert {"1.weight", "3.weight"} <= folded.state_dict().keys()
    torch.testing.assert_close(folded(torch.from_numpy(INPUTS)), given(torch.from_numpy(INPUTS)))
    with torch.no_grad():
        folded[1].weight.zero_()
    assert given[1].weight.abs().sum() > 0
    given.stream = (number for number in range(3))
    with pytest.raises(RefusedError, match="it cannot be copied: TypeError: cannot pickle 'generator' object"):
        copied(given)


@torchax_only
@pytest.mark.parametrize(
    ("given", "inputs", "message"),
    [
        (None, torch.zeros(2, 5), "module is 'NoneType'. Give a torch.nn.Module, made and loaded"),
        (3, torch.zeros(2, 5), "module is 'int'. Give a torch.nn.Module"),
        ("x.pt", torch.zeros(2, 5), "module is 'str'. Give a torch.nn.Module"),
        (nn.Linear, torch.zeros(2, 5), "module is the class Linear. Give a torch.nn.Module, made"),
        (nn.Linear(5, 3).state_dict(), torch.zeros(2, 5), "module is 'OrderedDict'. Give a torch.nn.Module"),
        (nn.Linear(5, 3), torch.zeros(0, 5), r"example_inputs is of shape \[0, 5\]. Give at least one number"),
        (nn.Linear(0, 3), torch.zeros(2, 0), r"example_inputs is of shape \[2, 0\]. Give at least one number"),
        (nn.Linear(5, 3), None, "example_inputs is 'NoneType'. Give one tensor of examples"),
        (nn.Linear(5, 3), [], "example_inputs is 'list'. Give one tensor of examples"),
    ],
)
def test_what_is_no_module_or_no_example_is_an_error(given, inputs, message):
    with pytest.raises(InputError, match=message):
        converters.from_module(given, inputs)


@torchax_only
def test_what_is_no_state_dict_is_an_error():
    model, *_ = converters.from_module(network(), torch.from_numpy(INPUTS[:2]))
    for given, kind in ((None, "NoneType"), ([1], "list"), ("a.pt", "str"), (network(), "Sequential")):
        with pytest.raises(InputError, match=f"state_dict is '{kind}'. Give the entries by name"):
            model.arrays(given)
    with pytest.raises(RefusedError, match="it lacks 4 of 4 entries, first 1.bias"):
        model.arrays({})


class Wrapped(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


@torchax_only
def test_prefixes_of_wrappers_come_off():
    given = network()
    model, *expected = converters.from_module(given, torch.from_numpy(INPUTS[:2]))
    averaged = torch.optim.swa_utils.AveragedModel(given)
    for state in (
        {f"module.{name}": value for name, value in given.state_dict().items()},  # DataParallel, DDP
        torch.compile(given).state_dict(),
        averaged.state_dict(),
    ):
        jax.tree.map(np.testing.assert_array_equal, list(model.arrays(state)), expected)
    wrapped = Wrapped(given)
    model, *expected = converters.from_module(wrapped, torch.from_numpy(INPUTS[:2]))
    for state in (
        given.state_dict(),
        wrapped.state_dict(),
        {f"module.net.{k}": v for k, v in given.state_dict().items()},
    ):
        jax.tree.map(np.testing.assert_array_equal, list(model.arrays(state)), expected)
