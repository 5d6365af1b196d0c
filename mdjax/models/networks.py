"""Networks without normalisation as Flax modules: an MLP and a CNN."""

import flax.linen as nn
import jax

from mdjax.models.layers import Conv, Convolution, dense, global_mean, placed


class MLP(nn.Module):
    """`depth` hidden layers of `width` units with ReLU, over the flattened input."""

    width: int
    num_classes: int
    depth: int

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
        hidden = placed(inputs, self.convolution)
        for layer in range(self.depth):
            hidden = Conv(
                self.width * 2**layer,
                stride=1 if layer == 0 else 2,
                use_bias=True,
                convolution=self.convolution,
                name=f"conv{layer}",
            )(hidden)
            hidden = nn.relu(hidden)
        return dense(self.num_classes, global_mean(hidden, self.convolution), "linear")
