"""Folding: prefixes, reparametrisations and half precision become plain arrays, as torch has them."""

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch_checkpoints import assert_same, prefixed

import converters


@pytest.mark.parametrize("names", [["module_list.0.weight", "module_list.3.weight"], ["modules.a", "model_b.c"]])
def test_names_that_only_look_like_prefixes_stay(tmp_path, names):
    torch.save({name: torch.ones(2) for name in names}, tmp_path / "model.pt")
    assert list(converters.read_state_dict(tmp_path / "model.pt")) == names


def test_a_prefix_that_not_all_share_stays(tmp_path):
    entries = {**prefixed("module."), "scale": torch.ones(1)}
    torch.save(entries, tmp_path / "model.pt")
    assert converters.read_state_dict(tmp_path / "model.pt").keys() == entries.keys()


def weight_normed() -> tuple[nn.Module, nn.Module]:
    network = nn.Sequential(nn.Linear(5, 4), nn.Conv2d(3, 4, 3), nn.Linear(4, 3))
    nn.utils.weight_norm(network[0])
    nn.utils.weight_norm(network[1], dim=1)
    nn.utils.weight_norm(network[2], dim=None)
    return network, nn.utils.remove_weight_norm


def newly_weight_normed() -> tuple[nn.Module, nn.Module]:
    network = nn.Sequential(nn.Linear(5, 4), nn.Conv2d(3, 4, 3))
    parametrizations.weight_norm(network[0])
    parametrizations.weight_norm(network[1], dim=1)
    return network, lambda layer: nn.utils.parametrize.remove_parametrizations(layer, "weight")


def pruned() -> tuple[nn.Module, nn.Module]:
    network = nn.Sequential(nn.Linear(5, 4), nn.Conv2d(3, 4, 3))
    for layer in network:
        prune.random_unstructured(layer, "weight", 0.5)
    return network, lambda layer: prune.remove(layer, "weight")


@pytest.mark.parametrize("make", [weight_normed, newly_weight_normed, pruned])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_reparametrisations_are_folded_as_torch_does(tmp_path, make):
    torch.manual_seed(0)
    network, remove = make()
    with torch.no_grad():
        for value in network.parameters():
            value.mul_(torch.rand_like(value) + 0.5)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    for layer in network:
        layer(torch.ones(1, 3, 5, 5) if isinstance(layer, nn.Conv2d) else torch.ones(1, layer.in_features))
        remove(layer)
    expected = {name: value.numpy() for name, value in network.state_dict().items()}
    found = converters.read_state_dict(tmp_path / "model.pt")
    assert_same({name: found[name] for name in sorted(found)}, dict(sorted(expected.items())), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_half_precision_is_widened(tmp_path, dtype, suffix):
    values = torch.tensor([0.5, -1.75, 3.0, 240.0])
    path = tmp_path / f"model{suffix}"
    entries = {"weight": values.to(dtype), "count": torch.tensor(3)}
    torch.save(entries, path) if suffix == ".pt" else safetensors.torch.save_file(entries, path)
    assert_same(converters.read_state_dict(path), {"weight": values.numpy(), "count": np.array(3)})
