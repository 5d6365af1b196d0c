"""ResNets by the names of their weights: pytorch-cifar and the paper's zoo, pytorch-cifar100, torchvision and timm.

Key names: github.com/kuangliu/pytorch-cifar and github.com/nsfzyzz/loss_landscape_taxonomy (the same),
github.com/weiaicunzai/pytorch-cifar100, github.com/pytorch/vision. The published ModelZoos hold torchvision's names
for a network with a 3×3 stem and no max-pool.
"""

import itertools

from converters.errors import RefusedError
from converters.families.keys import Arrays, Facts, LayerNames, image_shape, nonlinearity, rows
from mdjax.models import Architecture
from mdjax.models.resnets import BASIC, BLOCKS

_CONVOLUTIONS = {name: name for number in (1, 2, 3) for name in (f"conv{number}", f"bn{number}")}

_CIFAR = LayerNames(
    layers={"conv1": "conv1", "bn1": "bn1", "linear": "linear"},
    block=_CONVOLUTIONS | {"shortcut_conv": "shortcut.0", "shortcut_bn": "shortcut.1"},
)

_CIFAR100 = LayerNames(
    layers={"conv1": "conv1.0", "bn1": "conv1.1", "linear": "fc"},
    block={
        "conv1": "residual_function.0",
        "bn1": "residual_function.1",
        "conv2": "residual_function.3",
        "bn2": "residual_function.4",
        "conv3": "residual_function.6",
        "bn3": "residual_function.7",
        "shortcut_conv": "shortcut.0",
        "shortcut_bn": "shortcut.1",
    },
    stage=lambda stage, block: f"conv{stage + 1}_x.{block}",
)

_TORCHVISION = LayerNames(
    layers={"conv1": "conv1", "bn1": "bn1", "linear": "fc"},
    block=_CONVOLUTIONS | {"shortcut_conv": "downsample.0", "shortcut_bn": "downsample.1"},
)

LAYER_NAMES = {"resnet18": _CIFAR, "resnet": _CIFAR, "resnet_cifar100": _CIFAR100, "resnet_torchvision": _TORCHVISION}


def guesses(arrays: Arrays, facts: Facts) -> list[Architecture]:
    """The ResNets that a state_dict may be, by its stem, its head and the number of its blocks."""
    found = [_guess(family, arrays, facts) for family in ("resnet", "resnet_cifar100", "resnet_torchvision")]
    return [architecture for architecture in found if architecture is not None]


def _guess(family: str, arrays: Arrays, facts: Facts) -> Architecture | None:
    called = LAYER_NAMES[family]
    stem, head = f"{called.layers['conv1']}.weight", f"{called.layers['linear']}.weight"
    width, classes = rows(arrays, stem, 4), rows(arrays, head, 2)
    blocks = tuple(_count_blocks(arrays, called, stage) for stage in (1, 2, 3, 4))
    basic = f"{called.stage(1, 0)}.{called.block['conv3']}.weight" not in arrays
    depth = next((depth for depth in BLOCKS if BLOCKS[depth] == blocks and (depth in BASIC) == basic), None)
    if not width or not classes or depth is None:
        return None
    nonlinearity(facts, ["relu"])
    _, channels, size, _ = arrays[stem].shape
    variant = ""
    if family == "resnet_torchvision":
        # With and without a pool the 3×3 stem has the same weights; small images, the usual ones, are not pooled.
        variant = "7x7" if size == 7 else "3x3-pool" if facts.get("max_pool", False) else "3x3"
    if facts.get("max_pool") is not None and facts["max_pool"] != (variant in ("7x7", "3x3-pool")):
        raise RefusedError(f"max_pool is {facts['max_pool']}, but a {family} with a {size}×{size} stem has none such")
    shape = image_shape(facts, channels, 224 if size == 7 else 32)
    if family == "resnet" and depth == 18:
        family = "resnet18"
    return Architecture(family, width, shape, classes, depth, variant)


def _count_blocks(arrays: Arrays, called: LayerNames, stage: int) -> int:
    names = (f"{called.stage(stage, block)}.{called.block['conv1']}.weight" for block in itertools.count())
    return next(number for number, name in enumerate(names) if name not in arrays)
