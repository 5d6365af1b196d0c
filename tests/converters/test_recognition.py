"""Which family a state_dict is of: every published size, and what is refused with the reason."""

import jax
import numpy as np
import pytest
import torch
import torch_families as reference
from torch_cases import SMALL, changed, floats, mlp_arrays, state_dict
from torch_resnet import random_resnet

import converters
from converters.errors import RefusedError
from mdjax.errors import InputError
from mdjax.models import Architecture, sequence


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


def torchvision(**changes) -> dict[str, np.ndarray]:
    return changed(reference.TorchResNet("torchvision", 10, 1, 10), **changes)


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
