"""VGG-16 and VGG-19 for 32×32 images, with and without BatchNorm.

Sources: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015; as
laid out by Garipov et al., NeurIPS 2018: two hidden linear layers as wide as the last convolution. Dropout is left out.
"""

from typing import Literal

import flax.linen as nn
import jax

from mdjax.models.layers import BatchNorm, Conv, Convolution, dense, max_pool, placed

Normalisation = Literal["plain", "bn"]

STAGES: dict[int, tuple[int, ...]] = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Depth → convolutions of each stage, which ends with a 2×2 max-pool."""


class VGG(nn.Module):
    """3×3 convolutions with bias and ReLU in five stages of k, 2k, 4k, 8k, 8k channels (usually k = 64)."""

    width: int
    num_classes: int
    depth: int
    convolution: Convolution = "lax"
    normalisation: Normalisation = "plain"

    @nn.compact
    def __call__(self, inputs: jax.Array, weights: jax.Array | None = None) -> jax.Array:
        hidden = placed(inputs, self.convolution)
        for stage, count in enumerate(STAGES[self.depth]):
            for layer in range(count):
                features = self.width * min(2**stage, 8)
                convolve = Conv(features, use_bias=True, convolution=self.convolution, name=f"stage{stage}_conv{layer}")
                hidden = convolve(hidden)
                if self.normalisation == "bn":
                    hidden = BatchNorm(self.convolution, name=f"stage{stage}_bn{layer}")(hidden, weights)
                hidden = nn.relu(hidden)
            hidden = max_pool(hidden, size=2, stride=2)
        hidden = placed(hidden, self.convolution)
        hidden = hidden.reshape(hidden.shape[0], -1)
        for layer in range(2):
            hidden = nn.relu(dense(8 * self.width, hidden, f"hidden{layer}"))
        return dense(self.num_classes, hidden, "linear")
