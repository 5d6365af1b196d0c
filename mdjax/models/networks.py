"""The network families as Flax modules: MLP, a CNN without normalisation, the ResNet-18 of the paper."""

import flax.linen as nn
import jax

from mdjax.models.layers import BatchNorm, Conv, Convolution, dense


class MLP(nn.Module):
    """`depth` hidden layers of `width` units with ReLU, over the flattened input."""

    width: int
    num_classes: int
    depth: int
    convolution: Convolution = "lax"

    @nn.compact
    def __call__(self, inputs: jax.Array, weights: jax.Array | None = None) -> jax.Array:
        hidden = inputs.reshape(inputs.shape[0], -1)
        for layer in range(self.depth):
            hidden = nn.relu(dense(self.width, hidden, f"hidden{layer}"))
        return dense(self.num_classes, hidden, "linear")


class CNN(nn.Module):
    """`depth` 3×3 convolutions with bias and ReLU; each after the first halves the size and doubles the channels.

    No normalisation, so no state: the simplest convolutional network whose loss landscape is its own.
    """

    width: int
    num_classes: int
    depth: int
    convolution: Convolution = "lax"

    @nn.compact
    def __call__(self, inputs: jax.Array, weights: jax.Array | None = None) -> jax.Array:
        hidden = inputs
        for layer in range(self.depth):
            hidden = Conv(
                self.width * 2**layer,
                stride=1 if layer == 0 else 2,
                use_bias=True,
                convolution=self.convolution,
                name=f"conv{layer}",
            )(hidden)
            hidden = nn.relu(hidden)
        return dense(self.num_classes, hidden.mean((1, 2)), "linear")


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
        shortcut = inputs
        if self.stride != 1 or inputs.shape[-1] != self.features:
            shortcut = Conv(
                self.features,
                size=1,
                stride=self.stride,
                padding=0,
                convolution=self.convolution,
                name="shortcut_conv",
            )(inputs)
            shortcut = BatchNorm(name="shortcut_bn")(shortcut, weights)
        return nn.relu(hidden + shortcut)


class ResNet18(nn.Module):
    """The paper's ResNet-18 of width k: a 3×3 stem and four stages of two blocks with k, 2k, 4k, 8k channels.

    For three input channels and ten classes it has `2724 k² + 257 k + 10` parameters. The published network
    pools 4×4 at the end, which for its 32×32 inputs is the global mean used here for any input size.
    """

    width: int
    num_classes: int
    depth: int
    convolution: Convolution = "lax"

    @nn.compact
    def __call__(self, inputs: jax.Array, weights: jax.Array | None = None) -> jax.Array:
        hidden = Conv(self.width, convolution=self.convolution, name="conv1")(inputs)
        hidden = nn.relu(BatchNorm(name="bn1")(hidden, weights))
        for stage in range(4):
            for block in range(2):
                stride = 2 if stage > 0 and block == 0 else 1
                hidden = BasicBlock(self.width * 2**stage, stride, self.convolution, name=f"layer{stage + 1}_{block}")(
                    hidden, weights
                )
        return dense(self.num_classes, hidden.mean((1, 2)), "linear")
