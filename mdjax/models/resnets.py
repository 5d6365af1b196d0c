"""Residual networks with BatchNorm after each convolution: depths 10 to 152, narrow or wide, three stems.

Source: He et al., "Deep residual learning for image recognition", CVPR 2016; the stride of a bottleneck is on its
3×3 convolution.
"""

from typing import Literal

import flax.linen as nn
import jax

from mdjax.models.layers import BatchNorm, Conv, Convolution, dense, max_pool

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
        hidden = Conv(self.features, stride=self.stride, convolution=self.convolution, name="conv1")(inputs)
        hidden = nn.relu(BatchNorm(name="bn1")(hidden, weights))
        hidden = Conv(self.features, convolution=self.convolution, name="conv2")(hidden)
        hidden = BatchNorm(name="bn2")(hidden, weights)
        return nn.relu(hidden + _shortcut(inputs, weights, self.features, self.stride, self.convolution))


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions with BatchNorm, four times as many channels at the end as inside."""

    features: int
    stride: int
    convolution: Convolution

    @nn.compact
    def __call__(self, inputs: jax.Array, weights: jax.Array | None) -> jax.Array:
        form = self.convolution
        hidden = Conv(self.features, size=1, padding=0, convolution=form, name="conv1")(inputs)
        hidden = nn.relu(BatchNorm(name="bn1")(hidden, weights))
        hidden = Conv(self.features, stride=self.stride, convolution=form, name="conv2")(hidden)
        hidden = nn.relu(BatchNorm(name="bn2")(hidden, weights))
        hidden = Conv(4 * self.features, size=1, padding=0, convolution=form, name="conv3")(hidden)
        hidden = BatchNorm(name="bn3")(hidden, weights)
        return nn.relu(hidden + _shortcut(inputs, weights, 4 * self.features, self.stride, form))


def _shortcut(
    inputs: jax.Array, weights: jax.Array | None, features: int, stride: int, convolution: Convolution
) -> jax.Array:
    if stride == 1 and inputs.shape[-1] == features:
        return inputs
    shortcut = Conv(features, size=1, stride=stride, padding=0, convolution=convolution, name="shortcut_conv")(inputs)
    return BatchNorm(name="shortcut_bn")(shortcut, weights)


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
        hidden = Conv(self.width, size, stride, padding, convolution=self.convolution, name="conv1")(inputs)
        hidden = nn.relu(BatchNorm(name="bn1")(hidden, weights))
        if self.stem != "3x3":
            hidden = max_pool(hidden, size=3, stride=2, padding=1)
        block_type = BasicBlock if self.depth in BASIC else Bottleneck
        for stage, count in enumerate(BLOCKS[self.depth]):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                hidden = block_type(self.width * 2**stage, stride, self.convolution, name=f"layer{stage + 1}_{block}")(
                    hidden, weights
                )
        return dense(self.num_classes, hidden.mean((1, 2)), "linear")
