"""Networks of every family in PyTorch, each with the architecture that it is to be recognised as."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch_families as reference

from converters.families.sequences import MODEL_ZOOS
from mdjax.models import Architecture, sequence

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


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def changed(network: torch.nn.Module, **changes) -> dict[str, np.ndarray]:
    """Entries replaced, or left out by None; __ in a name stands for a dot."""
    entries = state_dict(network) | {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value for name, value in entries.items() if value is not None}


def mlp_arrays(**changes) -> dict[str, np.ndarray]:
    return changed(reference.mlp(12, 4, 4, 3), **changes)
