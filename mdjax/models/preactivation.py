"""Residual networks that normalise before each convolution: PreResNet and WideResNet, in three stages.

Sources: He et al., "Identity mappings in deep residual networks", ECCV 2016; Zagoruyko and Komodakis, "Wide residual
networks", BMVC 2016; as laid out by Garipov et al., "Loss surfaces, mode connectivity, and fast ensembling of DNNs",
NeurIPS 2018: shortcuts are projected from the block's input as it is, without BatchNorm. Dropout is left out.
"""

import flax.linen as nn
import jax

from mdjax.models.layers import BatchNorm, Conv, Convolution, dense, global_mean, num_channels, placed

BOTTLENECK_DEPTH = 44
"""From this depth on a PreResNet is made of bottlenecks."""


def preresnet_blocks(depth: int) -> int | None:
    """Blocks in each stage of a PreResNet: depth 6n + 2, or 9n + 2 of bottlenecks; None where there is none."""
    size = 9 if depth >= BOTTLENECK_DEPTH else 6
    return (depth - 2) // size if depth > 2 and (depth - 2) % size == 0 else None


def wideresnet_blocks(depth: int) -> int | None:
    """Blocks in each stage of a WideResNet: depth 6n + 4; None where there is none."""
    return (depth - 4) // 6 if depth > 4 and (depth - 4) % 6 == 0 else None


class PreactivationBlock(nn.Module):
    """BatchNorm, ReLU, convolution, twice (3×3, 3×3) or three times (1×1, 3×3, 1×1 to four times the channels).

    `strided` says which of the convolutions takes the stride: 1 or 2.
    """

    features: int
    stride: int
    convolution: Convolution
    bottleneck: bool = False
    strided: int = 1
    use_bias: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array, weights: jax.Array | None) -> jax.Array:
        sizes = (1, 3, 1) if self.bottleneck else (3, 3)
        features = (4 if self.bottleneck else 1) * self.features
        hidden = inputs
        for number, size in enumerate(sizes, start=1):
            hidden = nn.relu(BatchNorm(self.convolution, name=f"bn{number}")(hidden, weights))
            hidden = Conv(
                features if number == len(sizes) else self.features,
                size,
                self.stride if number == self.strided else 1,
                padding=size // 2,
                use_bias=self.use_bias,
                convolution=self.convolution,
                name=f"conv{number}",
            )(hidden)
        if self.stride == 1 and num_channels(inputs, self.convolution) == features:
            return hidden + inputs
        projection = Conv(
            features, 1, self.stride, 0, self.use_bias, convolution=self.convolution, name="shortcut_conv"
        )
        return hidden + projection(inputs)


class PreResNet(nn.Module):
    """PreResNet of `depth` 6n + 2, from 44 on 9n + 2 of bottlenecks; stages of k, 2k, 4k channels (usually k = 16)."""

    width: int
    num_classes: int
    depth: int
    convolution: Convolution = "lax"

    @nn.compact
    def __call__(self, inputs: jax.Array, weights: jax.Array | None = None) -> jax.Array:
        bottleneck = self.depth >= BOTTLENECK_DEPTH
        hidden = Conv(self.width, convolution=self.convolution, name="conv1")(placed(inputs, self.convolution))
        for stage in range(3):
            for block in range(preresnet_blocks(self.depth) or 0):
                hidden = PreactivationBlock(
                    self.width * 2**stage,
                    2 if stage > 0 and block == 0 else 1,
                    self.convolution,
                    bottleneck,
                    strided=2 if bottleneck else 1,
                    name=f"layer{stage + 1}_{block}",
                )(hidden, weights)
        hidden = nn.relu(BatchNorm(self.convolution, name="bn")(hidden, weights))
        return dense(self.num_classes, global_mean(hidden, self.convolution), "linear")


class WideResNet(nn.Module):
    """WideResNet of `depth` 6n + 4; 16 channels, then stages of 16k, 32k, 64k for width k. Convolutions have biases."""

    width: int
    num_classes: int
    depth: int
    convolution: Convolution = "lax"

    @nn.compact
    def __call__(self, inputs: jax.Array, weights: jax.Array | None = None) -> jax.Array:
        hidden = Conv(16, use_bias=True, convolution=self.convolution, name="conv1")(placed(inputs, self.convolution))
        for stage in range(3):
            for block in range(wideresnet_blocks(self.depth) or 0):
                hidden = PreactivationBlock(
                    16 * self.width * 2**stage,
                    2 if stage > 0 and block == 0 else 1,
                    self.convolution,
                    strided=2,
                    use_bias=True,
                    name=f"layer{stage + 1}_{block}",
                )(hidden, weights)
        hidden = nn.relu(BatchNorm(self.convolution, name="bn")(hidden, weights))
        return dense(self.num_classes, global_mean(hidden, self.convolution), "linear")
