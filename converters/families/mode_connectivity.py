"""VGG, PreResNet and WideResNet by the names of their weights in github.com/timgaripov/dnn-mode-connectivity.

Garipov et al., "Loss surfaces, mode connectivity, and fast ensembling of DNNs", NeurIPS 2018. Its curves, which keep
every weight several times over, are no networks and are refused.
"""

import itertools

from converters.families.keys import Arrays, Facts, LayerNames, image_shape, nonlinearity, rows
from mdjax.models import Architecture
from mdjax.models.preactivation import BOTTLENECK_DEPTH, preresnet_blocks, wideresnet_blocks
from mdjax.models.vgg import STAGES

_CONVOLUTIONS = {name: name for number in (1, 2, 3) for name in (f"conv{number}", f"bn{number}")}

_PRERESNET = LayerNames(
    layers={"conv1": "conv1", "bn": "bn", "linear": "fc"}, block=_CONVOLUTIONS | {"shortcut_conv": "downsample.0"}
)

_WIDERESNET = LayerNames(
    layers={"conv1": "conv1", "bn": "bn1", "linear": "linear"}, block=_CONVOLUTIONS | {"shortcut_conv": "shortcut.0"}
)


class _VGG(LayerNames):
    """layer_blocks.STAGE.INDEX: convolutions in order, each with its BatchNorm after it where there is any."""

    def torch_name(self, architecture: Architecture, layer: str) -> str:
        if layer in self.layers:
            return self.layers[layer]
        stage, kind = layer.removeprefix("stage").split("_")
        number = int(kind.removeprefix("conv").removeprefix("bn"))
        index = 2 * number + kind.startswith("bn") if architecture.variant == "bn" else number
        return f"layer_blocks.{stage}.{index}"


LAYER_NAMES = {
    "vgg": _VGG(layers={"hidden0": "classifier.1", "hidden1": "classifier.4", "linear": "classifier.6"}),
    "preresnet": _PRERESNET,
    "wideresnet": _WIDERESNET,
}


def guesses(arrays: Arrays, facts: Facts) -> list[Architecture]:
    """The networks of this group that a state_dict may be."""
    found = [_vgg(arrays, facts), _preresnet(arrays, facts), _wideresnet(arrays, facts)]
    return [architecture for architecture in found if architecture is not None]


def _vgg(arrays: Arrays, facts: Facts) -> Architecture | None:
    width, classes = rows(arrays, "layer_blocks.0.0.weight", 4), rows(arrays, "classifier.6.weight", 2)
    stages = tuple(
        sum(rows(arrays, f"layer_blocks.{stage}.{index}.weight", 4) > 0 for index in range(8)) for stage in range(5)
    )
    depth = next((depth for depth in STAGES if STAGES[depth] == stages), None)
    if not width or not classes or depth is None:
        return None
    nonlinearity(facts, ["relu"])
    shape = image_shape(facts, arrays["layer_blocks.0.0.weight"].shape[1], 32)
    normalised = rows(arrays, "layer_blocks.0.1.weight", 1) > 0
    return Architecture("vgg", width, shape, classes, depth, "bn" if normalised else "plain")


def _preresnet(arrays: Arrays, facts: Facts) -> Architecture | None:
    width, classes, blocks = rows(arrays, "conv1.weight", 4), rows(arrays, "fc.weight", 2), _num_blocks(arrays)
    depth = 9 * blocks + 2 if "layer1.0.conv3.weight" in arrays else 6 * blocks + 2
    if not width or not classes or preresnet_blocks(depth) != blocks or "bn.weight" not in arrays:
        return None
    # A PreResNet has basic blocks below BOTTLENECK_DEPTH, and bottlenecks from there on.
    if (depth >= BOTTLENECK_DEPTH) != ("layer1.0.conv3.weight" in arrays):
        return None
    nonlinearity(facts, ["relu"])
    return Architecture("preresnet", width, image_shape(facts, arrays["conv1.weight"].shape[1], 32), classes, depth)


def _wideresnet(arrays: Arrays, facts: Facts) -> Architecture | None:
    channels, classes = rows(arrays, "layer1.0.conv1.weight", 4), rows(arrays, "linear.weight", 2)
    depth, stem = 6 * _num_blocks(arrays) + 4, rows(arrays, "conv1.weight", 4)
    if stem != 16 or not classes or not channels or channels % 16 or wideresnet_blocks(depth) is None:
        return None
    nonlinearity(facts, ["relu"])
    shape = image_shape(facts, arrays["conv1.weight"].shape[1], 32)
    return Architecture("wideresnet", channels // 16, shape, classes, depth)


def _num_blocks(arrays: Arrays) -> int:
    return next(number for number in itertools.count() if f"layer1.{number}.conv1.weight" not in arrays)
