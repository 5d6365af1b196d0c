"""What the architectures share: a convolution of selectable form, BatchNorm with explicit statistics, pooling."""

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from mdjax.models import examples_last

Convolution = Literal["lax", "patches", "examples_last", "batched", "looped"]
"""How convolutions are computed, with the same results at other costs.

"lax": XLA's own. "patches": a product of patches and a matrix wherever that is faster on a CPU. "examples_last":
shifted images times a matrix, for which images lie [c, rows, columns, b] inside the network
(`mdjax.models.examples_last`). "batched": a product of patches in narrow layers, which is one batched product for all
models of a call. "looped": XLA's own, with layers that are alike as one in a loop where a network has that form
(`mdjax.models.resnets`).
"""


def placed(images: jax.Array, convolution: Convolution) -> jax.Array:
    """Images [b, rows, columns, c] as they lie inside a network of this form, or such images back in that order."""
    return images.swapaxes(0, 3) if convolution == "examples_last" else images


def num_channels(images: jax.Array, convolution: Convolution) -> int:
    """How many channels images have as they lie inside a network."""
    return images.shape[0 if convolution == "examples_last" else -1]


def global_mean(images: jax.Array, convolution: Convolution) -> jax.Array:
    """The mean [b, c] over all pixels of images as they lie inside a network."""
    means = images.mean((1, 2))
    return means.T if convolution == "examples_last" else means


def fan_in_uniform(fan_in: int):
    """Initializer U(±1/√fan_in), for weights and biases alike: what the published zoo was started from."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def dense(features: int, inputs: jax.Array, name: str, *, use_bias: bool = True) -> jax.Array:
    """The outputs [b, features] of a linear layer of the calling module.

        features: how many outputs it has.
        inputs: [b, n].
        name: of the layer within the calling module.
        use_bias: whether a bias is added.

    Weights and bias start from U(±1/√n).
    """
    return dense_layer(features, inputs.shape[-1], name, use_bias=use_bias)(inputs)


def dense_layer(features: int, num_inputs: int, name: str, *, use_bias: bool = True) -> nn.Dense:
    """The layer of `dense` itself, which can be called more than once."""
    init = fan_in_uniform(num_inputs)
    return nn.Dense(features, use_bias=use_bias, kernel_init=init, bias_init=init, name=name)


def lax_convolution(inputs: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """XLA's own convolution → [b, rows', columns', features].

        inputs: images [b, rows, columns, c].
        kernel: [size, size, c, features].
        stride: pixels between windows, both ways.
        padding: zeros added on every side.

    Slow in a loop on CPU where weights are differentiated, see `patches_convolution`.
    """
    return jax.lax.conv_general_dilated(
        inputs, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def patches_convolution(inputs: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """A convolution as one matrix product over patches ("im2col") wherever it is differentiated.

        inputs, kernel, stride, padding: as for `lax_convolution`, whose results it gives.

    XLA's CPU backend computes a convolution's weight gradient tens of times slower inside a loop than outside;
    a matrix product does not suffer from it. Wide layers without a derivative are left to XLA's own (which `vmap` over
    kernels makes a grouped one; the plan for CPUs never does).
    """
    size, _, channels, _ = kernel.shape
    if size > 1 and size * size * channels >= _WIDE:
        return lax_convolution(inputs, kernel, stride, padding)
    return _over_patches(inputs, kernel, stride, padding)


def _differentiated(stride: int, padding: int, primals: Any, tangents: Any) -> Any:
    # Inputs that are data have no tangent: zeros instead of none would be multiplied like any other.
    varied = [index for index, tangent in enumerate(tangents) if not isinstance(tangent, SymbolicZero)]

    def of_varied(*values: jax.Array) -> jax.Array:
        inputs, kernel = (dict(enumerate(primals)) | dict(zip(varied, values))).values()
        return _over_patches(inputs, kernel, stride, padding)

    return jax.jvp(of_varied, [primals[index] for index in varied], [tangents[index] for index in varied])


patches_convolution.defjvp(_differentiated, symbolic_zeros=True)


_WIDE = 72
"""Entries of a patch from which on XLA's forward convolution is used: patches leave the caches there."""


def _over_patches(inputs: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    size, _, channels, features = kernel.shape
    patches = jnp.pad(inputs, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    # Along columns, then along rows: 2·size shifted copies, in place of size² that each repeat what came before them.
    for axis in (2, 1):
        patches = jnp.concatenate(_shifted(patches, axis, size, stride), axis=-1)
    return patches @ kernel.reshape(size * size * channels, features)


def batched_convolution(inputs: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """A convolution that is batched over kernels by `jax.vmap`, as GPUs want it.

        inputs, kernel, stride, padding: as for `lax_convolution`, whose results it gives.

    Batched over kernels a convolution becomes a grouped one, which cuDNN computes group after group; a product of
    patches and a matrix becomes one batched product, which made a Hessian of 32 ResNets of width 2 on an H100 3.4 times
    as fast (`bench/batches_vs_torch.py`). Layers of more channels than that network has are left to XLA's own, since
    patches take size² times the memory of the inputs.
    """
    narrow = max(kernel.shape[2:]) <= _NARROW
    return (_over_patches if narrow else lax_convolution)(inputs, kernel, stride, padding)


_NARROW = 16
"""Most channels of a layer that `batched_convolution` computes by patches: those that were measured."""


_CONVOLUTIONS = {
    "lax": lax_convolution,
    "looped": lax_convolution,
    "patches": patches_convolution,
    "examples_last": examples_last.convolution,
    "batched": batched_convolution,
}


class Conv(nn.Module):
    """A square convolution, padded by `padding` on both sides at every stride, as in PyTorch.

    (JAX's "SAME" pads only one side at stride 2 and would not fit converted weights.) Images lie as the form of the
    convolution has them; the stored kernel is [size, size, c, features] for every form.
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: int = 1
    use_bias: bool = False
    convolution: Convolution = "lax"

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        shape = (self.size, self.size, num_channels(inputs, self.convolution), self.features)
        init = fan_in_uniform(math.prod(shape[:3]))
        kernel = self.param("kernel", init, shape)
        outputs = _CONVOLUTIONS[self.convolution](inputs, kernel, self.stride, self.padding)
        if self.use_bias:
            bias = self.param("bias", init, (self.features,))
            outputs = outputs + (_over_images(bias) if self.convolution == "examples_last" else bias)
        return outputs


def _over_images(values: jax.Array) -> jax.Array:
    """Numbers [c] of channels beside images [c, rows, columns, b]."""
    return values[:, None, None, None]


def batch_moments(
    inputs: jax.Array, weights: jax.Array, *, examples_last: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean, biased and unbiased variance of each channel over examples of weight 1, not 0: three [c].

    inputs: [b, ..., c], or images [c, rows, columns, b].
    weights: [b].
    examples_last: whether they are such images.
    """
    inputs = inputs.astype(jnp.promote_types(inputs.dtype, jnp.float32))
    count = jnp.sum(weights) * math.prod(inputs.shape[1:-1])
    if examples_last:
        # Pixels before examples: a sum without a weight in it is read straight from the images.
        mean = jnp.sum(inputs, (1, 2)) @ weights / count
        variance = jnp.sum(jnp.square(inputs - _over_images(mean)), (1, 2)) @ weights / count
    else:
        mask = weights.reshape((-1,) + (1,) * (inputs.ndim - 1))
        axes = tuple(range(inputs.ndim - 1))
        mean = jnp.sum(mask * inputs, axes) / count
        variance = jnp.sum(mask * jnp.square(inputs - mean), axes) / count
    return mean, variance, variance * count / jnp.maximum(count - 1, 1)


_EPSILON = 1e-5


class Statistics(NamedTuple):
    """Mean and variance of each channel."""

    mean: jax.Array
    var: jax.Array


def normalised(
    inputs: jax.Array,
    weights: jax.Array | None,
    scale: jax.Array,
    bias: jax.Array,
    stored: Statistics,
    *,
    examples_last: bool = False,
) -> tuple[jax.Array, Statistics]:
    """Batch normalisation of each channel, and the statistics that it leaves.

    inputs: [b, ..., c], or images [c, rows, columns, b].
    weights: of the examples, as for `BatchNorm`.
    scale, bias: [c].
    stored: the statistics [c] that are used, and left alone, where there are no weights.
    examples_last: whether the inputs are such images.
    """
    mean, variance = found = stored
    if weights is not None:
        mean, variance, unbiased = batch_moments(inputs, weights, examples_last=examples_last)
        found = Statistics(mean, unbiased)
    factor = jax.lax.rsqrt(variance + _EPSILON) * scale
    if examples_last:
        mean, factor, bias = map(_over_images, (mean, factor, bias))
    # Statistics in float32 do not make other activations of those in bfloat16.
    return ((inputs - mean) * factor + bias).astype(inputs.dtype), found


class BatchNorm(nn.Module):
    """Batch normalisation of each channel: of the last axis, or of images as the form of a convolution has them.

    With `weights=None` the stored statistics are used and left alone. With one weight per example (1, or 0 for
    padding) the batch is normalised by its own mean and biased variance, and the *batch's* mean and unbiased
    variance are left in the `batch_stats` collection: whoever called averages them as it needs (a running
    average in training, a sample-weighted mean in re-estimation).
    """

    convolution: Convolution = "lax"

    @nn.compact
    def __call__(self, inputs: jax.Array, weights: jax.Array | None) -> jax.Array:
        features = (num_channels(inputs, self.convolution),)
        scale = self.param("scale", nn.initializers.ones, features)
        bias = self.param("bias", nn.initializers.zeros, features)
        mean_variable = self.variable("batch_stats", "mean", jnp.zeros, features)
        variance_variable = self.variable("batch_stats", "var", jnp.ones, features)
        stored = Statistics(mean_variable.value, variance_variable.value)
        is_last = self.convolution == "examples_last"
        outputs, found = normalised(inputs, weights, scale, bias, stored, examples_last=is_last)
        if weights is not None and not self.is_initializing():
            mean_variable.value, variance_variable.value = found
        return outputs


def max_pool(inputs: jax.Array, size: int, stride: int, padding: int = 0) -> jax.Array:
    """The largest entry of each window [b, rows', columns', c]; of equal entries the first one takes the gradient.

        inputs: images [b, rows, columns, c]; [c, rows, columns, b] as well.
        size: pixels of a window's side.
        stride: pixels between windows, both ways.
        padding: pixels added on every side, which never win.

    Written as comparisons of shifted images: XLA's own pooling is differentiated by scatters, which are slow in a
    loop on CPU and add in any order elsewhere. Cost: size² comparisons an output.
    """
    padding_config = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    largest, *others = _windows(jnp.pad(inputs, padding_config, constant_values=-jnp.inf), size, stride)
    for other in others:
        # A model that broke has to look broken.
        largest = jnp.where((other > largest) | jnp.isnan(other), other, largest)
    return largest


def mean_pool(inputs: jax.Array, size: int, stride: int, padding: int = 0) -> jax.Array:
    """The mean of each window [b, rows', columns', c].

        inputs, size, stride, padding: as for `max_pool`; but padding counts as zeros, as in PyTorch.

    Cost: size² additions an output.
    """
    padded = jnp.pad(inputs, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    return sum(_windows(padded, size, stride)) / size**2  # pyright: ignore[reportReturnType]


def _windows(padded: jax.Array, size: int, stride: int) -> list[jax.Array]:
    """For each position in a window the image of what lies there: size² arrays [b, rows, columns, c]."""
    rows = (padded.shape[1] - size) // stride + 1
    columns = (padded.shape[2] - size) // stride + 1
    return [
        padded[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]
        for i in range(size)
        for j in range(size)
    ]


def _shifted(padded: jax.Array, axis: int, size: int, stride: int) -> list[jax.Array]:
    """What lies at each of `size` positions in the windows along one axis."""
    count = (padded.shape[axis] - size) // stride + 1
    return [jax.lax.slice_in_dim(padded, i, i + stride * (count - 1) + 1, stride, axis) for i in range(size)]
