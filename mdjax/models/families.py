"""The table of network families: name → Flax module, the depths and variants that there are, the inputs it reads."""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn

from mdjax.models.layers import Convolution
from mdjax.models.networks import CNN, MLP
from mdjax.models.preactivation import PreResNet, WideResNet, preresnet_blocks, wideresnet_blocks
from mdjax.models.resnets import BLOCKS, ResNet
from mdjax.models.sequences import Sequence
from mdjax.models.transformer_variants import spelled
from mdjax.models.transformers import Decoder, Encoder
from mdjax.models.vgg import STAGES, VGG

Build = Callable[[int, int, int, Convolution, str], nn.Module]
"""(width, num_classes, depth, convolution, variant) → module."""


@dataclasses.dataclass(frozen=True)
class Family:
    """What a family has: `depths` says in words what `has_depth` tests; the first of `variants` is the usual one.

    `variants` None: any text that `build` understands. `spelled` makes of such a text, the width and the shape of an
    input the one that tells the network, or raises InputError. `sides`: the least and greatest height and width of an
    image, None where the family reads inputs of any shape. `reads_tokens`: inputs of one axis are whole numbers.
    """

    build: Build
    usual_depth: int
    depths: str = "any depth"
    has_depth: Callable[[int], bool] = lambda depth: True
    variants: tuple[str, ...] | None = ("",)
    sides: tuple[int, float] | None = (1, float("inf"))
    spelled: Callable[[str, int, tuple[int, ...]], str] | None = None
    reads_tokens: bool = False


def _resnet(width: int, num_classes: int, depth: int, convolution: Convolution, variant: str) -> nn.Module:
    return ResNet(width, num_classes, depth, convolution, variant or "3x3")  # pyright: ignore[reportArgumentType]


_RESNETS = Family(_resnet, 18, f"one of {', '.join(map(str, sorted(BLOCKS)))}", lambda depth: depth in BLOCKS)


def _transformer(name: str, module: Callable[[int, int, int, str], nn.Module]) -> Family:
    return Family(
        lambda w, c, d, f, v: module(w, c, d, v),
        2,
        variants=None,
        sides=None,
        spelled=functools.partial(spelled, name),
        reads_tokens=True,
    )


FAMILIES: dict[str, Family] = {
    "mlp": Family(lambda w, c, d, f, v: MLP(w, c, d), 2, sides=None),
    "cnn": Family(lambda w, c, d, f, v: CNN(w, c, d, f), 3),
    "resnet18": Family(_resnet, 18, "18", lambda depth: depth == 18),
    "resnet": _RESNETS,
    "resnet_cifar100": _RESNETS,
    "resnet_torchvision": dataclasses.replace(_RESNETS, variants=("7x7", "3x3", "3x3-pool")),
    "vgg": Family(
        lambda w, c, d, f, v: VGG(w, c, d, f, v),  # pyright: ignore[reportArgumentType]
        16,
        " or ".join(map(str, STAGES)),
        lambda depth: depth in STAGES,
        ("plain", "bn"),
        (32, 63),
    ),
    "preresnet": Family(
        lambda w, c, d, f, v: PreResNet(w, c, d, f),
        110,
        "6n + 2, or 9n + 2 from 44 on",
        lambda depth: preresnet_blocks(depth) is not None,
    ),
    "wideresnet": Family(
        lambda w, c, d, f, v: WideResNet(w, c, d, f), 28, "6n + 4", lambda depth: wideresnet_blocks(depth) is not None
    ),
    "sequence": Family(lambda w, c, d, f, v: Sequence(v, f), 1, variants=None, sides=None),
    "encoder": _transformer("encoder", Encoder),
    "decoder": _transformer("decoder", Decoder),
}
"""The ResNets differ in how their weights are named where they come from, and `resnet18` is the paper's own."""

GROWN = ("mlp", "cnn", "resnet18", "encoder", "decoder")
"""The families that `mdjax train` grows zoos of."""
