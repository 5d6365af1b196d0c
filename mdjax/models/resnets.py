"""Residual networks with BatchNorm after each convolution: depths 10 to 152, narrow or wide, three stems.

Source: He et al., "Deep residual learning for image recognition", CVPR 2016; the stride of a bottleneck is on its
3×3 convolution.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mdjax.models.layers import (
    BatchNorm,
    Conv,
    Convolution,
    Statistics,
    dense,
    global_mean,
    lax_convolution,
    max_pool,
    normalised,
    num_channels,
    placed,
)

Stem = Literal["3x3", "3x3-pool", "7x7"]
"""The first convolution: 3×3, the same followed by a 3×3 max-pool of stride 2, or 7×7 of stride 2 with that pool."""

BLOCKS: dict[int, tuple[int, ...]] = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    14: (1, 1, 1, 1),
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Depth → blocks of each stage. 10, 18 and 34 are made of basic blocks, the others of bottlenecks."""

BASIC = (10, 18, 34)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with BatchNorm and a shortcut, projected only where the shape changes."""

    features: int
    stride: int
    convolution: Convolution

    @nn.compact
    def __call__(self, inputs: jax.Array, weights: jax.Array | None) -> jax.Array:
        form = self.convolution
        hidden = Conv(self.features, stride=self.stride, convolution=form, name="conv1")(inputs)
        hidden = nn.relu(BatchNorm(form, name="bn1")(hidden, weights))
        hidden = Conv(self.features, convolution=form, name="conv2")(hidden)
        hidden = BatchNorm(form, name="bn2")(hidden, weights)
        return nn.relu(hidden + _shortcut(inputs, weights, self.features, self.stride, form))


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions with BatchNorm, four times as many channels at the end as inside."""

    features: int
    stride: int
    convolution: Convolution

    @nn.compact
    def __call__(self, inputs: jax.Array, weights: jax.Array | None) -> jax.Array:
        form = self.convolution
        hidden = Conv(self.features, size=1, padding=0, convolution=form, name="conv1")(inputs)
        hidden = nn.relu(BatchNorm(form, name="bn1")(hidden, weights))
        hidden = Conv(self.features, stride=self.stride, convolution=form, name="conv2")(hidden)
        hidden = nn.relu(BatchNorm(form, name="bn2")(hidden, weights))
        hidden = Conv(4 * self.features, size=1, padding=0, convolution=form, name="conv3")(hidden)
        hidden = BatchNorm(form, name="bn3")(hidden, weights)
        return nn.relu(hidden + _shortcut(inputs, weights, 4 * self.features, self.stride, form))


def _shortcut(
    inputs: jax.Array, weights: jax.Array | None, features: int, stride: int, convolution: Convolution
) -> jax.Array:
    if stride == 1 and num_channels(inputs, convolution) == features:
        return inputs
    shortcut = Conv(features, size=1, stride=stride, padding=0, convolution=convolution, name="shortcut_conv")(inputs)
    return BatchNorm(convolution, name="shortcut_bn")(shortcut, weights)


class ResNet(nn.Module):
    """A stem and four stages of residual blocks with k, 2k, 4k, 8k channels (four times that for bottlenecks).

    The paper's ResNet-18 of width k is depth 18 with the 3×3 stem: `2724 k² + 257 k + 10` parameters for three input
    channels and ten classes. It pools 4×4 at the end, which for its 32×32 inputs is the global mean used here for
    any input size.
    """

    width: int
    num_classes: int
    depth: int
    convolution: Convolution = "lax"
    stem: Stem = "3x3"

    @nn.compact
    def __call__(self, inputs: jax.Array, weights: jax.Array | None = None) -> jax.Array:
        large = self.stem == "7x7"
        size, stride, padding = (7, 2, 3) if large else (3, 1, 1)
        hidden = placed(inputs, self.convolution)
        hidden = Conv(self.width, size, stride, padding, convolution=self.convolution, name="conv1")(hidden)
        hidden = nn.relu(BatchNorm(self.convolution, name="bn1")(hidden, weights))
        if self.stem != "3x3":
            hidden = max_pool(hidden, size=3, stride=2, padding=1)
        block_type = BasicBlock if self.depth in BASIC else Bottleneck
        for stage, count in enumerate(BLOCKS[self.depth]):
            if self.convolution == "looped" and block_type is BasicBlock and not self.is_initializing():
                names = [f"layer{stage + 1}_{block}" for block in range(count)]
                hidden, statistics = _looped_stage(self.variables, names, hidden, weights)
                if weights is not None:
                    for name, found in statistics.items():
                        self.put_variable("batch_stats", name, found)
                continue
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                hidden = block_type(self.width * 2**stage, stride, self.convolution, name=f"layer{stage + 1}_{block}")(
                    hidden, weights
                )
        return dense(self.num_classes, global_mean(hidden, self.convolution), "linear")


class _Layer(NamedTuple):
    """The arrays of a convolution and of the BatchNorm after it."""

    kernel: jax.Array
    scale: jax.Array
    bias: jax.Array
    stored: Statistics

    def outputs(
        self, inputs: jax.Array, weights: jax.Array | None, stride: int, padding: int
    ) -> tuple[jax.Array, Statistics]:
        outputs = lax_convolution(inputs, self.kernel, stride, padding)
        return normalised(outputs, weights, self.scale, self.bias, self.stored)


def _looped_stage(
    variables: Mapping[str, Any], names: list[str], hidden: jax.Array, weights: jax.Array | None
) -> tuple[jax.Array, dict[str, dict[str, dict[str, jax.Array]]]]:
    """A stage of basic blocks, and the statistics that its blocks leave: what `BasicBlock` computes, in a loop.

        variables: "params" and "batch_stats" of the network.
        names: of the stage's blocks.
        hidden, weights: as of a block.

    All convolutions of a stage but a first one that changes the shape are alike: one, in a loop, serves all of them. A
    ResNet-18 has 20 convolutions, and 11 in its program so.
    """

    def arrays(name: str, convolution: str, norm: str) -> _Layer:
        params, stored = variables["params"][name], variables["batch_stats"][name][norm]
        kernel, scale, bias = params[convolution]["kernel"], params[norm]["scale"], params[norm]["bias"]
        return _Layer(kernel, scale, bias, Statistics(stored["mean"], stored["var"]))

    found: dict[str, dict[str, dict[str, jax.Array]]] = {name: {} for name in names}
    alike, residual = [(name, index) for name in names for index in (1, 2)], hidden
    if "shortcut_conv" in variables["params"][names[0]]:
        first, statistics = arrays(names[0], "conv1", "bn1").outputs(hidden, weights, 2, 1)
        residual, others = arrays(names[0], "shortcut_conv", "shortcut_bn").outputs(hidden, weights, 2, 0)
        hidden, alike = nn.relu(first), alike[1:]
        found[names[0]] = {"bn1": statistics._asdict(), "shortcut_bn": others._asdict()}

    def step(
        carry: tuple[jax.Array, jax.Array], numbered: tuple[_Layer, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], Statistics]:
        (hidden, residual), (layer, closes_block) = carry, numbered
        outputs, statistics = layer.outputs(hidden, weights, 1, 1)
        hidden = nn.relu(outputs + jnp.where(closes_block, residual, 0.0))
        return (hidden, jnp.where(closes_block, hidden, residual)), statistics

    layers = [arrays(name, f"conv{index}", f"bn{index}") for name, index in alike]
    stacked: _Layer = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    closing = jnp.asarray([index == 2 for _, index in alike])
    (hidden, _), statistics = jax.lax.scan(step, (hidden, residual), (stacked, closing))
    for place, (name, index) in enumerate(alike):
        found[name][f"bn{index}"] = {key: leaf[place] for key, leaf in statistics._asdict().items()}
    return hidden, found
