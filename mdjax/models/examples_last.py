"""Convolutions of images that lie with channels first and examples last, [c, rows, columns, b].

There are three products of a convolution, each linear in both of its factors, and each is the transpose of the others:
outputs from images and kernel, images from outputs and kernel, a kernel from images and outputs. Written as operations
of their own they have all derivatives of any order, and each is computed in the form that is fast by itself; what JAX
would derive from one form adds up padded copies for the other two.

With the examples last a window's shift moves whole rows of numbers, whatever the number of channels, and few channels
leave no lane of a processor's vectors empty. A shift down is gathered before the matrix product and a shift to the
right after it, so that images are copied `size` times and not `size²` times as for patches.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_FEW = 4
"""Input times output channels up to which a window is summed up number by number: matrices that small cost more."""


def convolution(images: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """A convolution → [features, rows', columns', b].

        images: [c, rows, columns, b].
        kernel: [size, size, c, features].
        stride: pixels between windows, both ways.
        padding: zeros added on every side.

    Cost: the operations of the convolution, (columns + 2·padding) / columns times those for the columns of the
    padding; memory: `size` copies of the images and of the outputs, `size²` of the images where the stride is not 1.
    """
    sides = images.shape[1], images.shape[2]
    return _outputs.bind(images, kernel, sides=sides, size=kernel.shape[0], stride=stride, padding=padding)


def _window(sides: tuple[int, int], size: int, stride: int, padding: int) -> tuple[int, int]:
    """Rows and columns of the outputs."""
    rows, columns = ((side + 2 * padding - size) // stride + 1 for side in sides)
    return rows, columns


def _mixed(matrix: jax.Array, images: jax.Array) -> jax.Array:
    """[m, rows, columns, b]: of matrix[m, k] and images [k, rows, columns, b]."""
    return (matrix @ images.reshape(len(images), -1)).reshape(-1, *images.shape[1:])


def _correlation(left: jax.Array, right: jax.Array) -> jax.Array:
    """[k, m]: the sums over all pixels and examples of left[k] times right[m]."""
    return jax.lax.dot_general(left.reshape(len(left), -1), right.reshape(len(right), -1), (((1,), (1,)), ((), ())))


def _padded(images: jax.Array, rows: int, columns: int) -> jax.Array:
    return jnp.pad(images, ((0, 0), (rows, rows), (columns, columns), (0, 0)))


def _patches(images: jax.Array, size: int, stride: int, padding: int) -> jax.Array:
    """[size² · c, rows', columns', b]: for each position in a window the image of what lies there."""
    rows, columns = _window((images.shape[1], images.shape[2]), size, stride, padding)
    padded = _padded(images, padding, padding)
    down, right = stride * (rows - 1) + 1, stride * (columns - 1) + 1
    shifts = [padded[:, i : i + down : stride, j : j + right : stride] for i in range(size) for j in range(size)]
    return jnp.concatenate(shifts) if size > 1 else shifts[0]


def _shifted_down(padded: jax.Array, size: int) -> jax.Array:
    """[size · c, rows', columns, b]: for each row of a window the image of what lies there."""
    rows = padded.shape[1] - size + 1
    return jnp.concatenate([padded[:, i : i + rows] for i in range(size)])


def _dense_outputs(padded: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution of stride 1 of images that are padded already."""
    size, _, channels, features = kernel.shape
    columns = padded.shape[2] - size + 1
    if channels * features <= _FEW:
        rows = padded.shape[1] - size + 1
        shifts = [
            (kernel[i, j, c], padded[c, i : i + rows, j : j + columns])
            for i in range(size)
            for j in range(size)
            for c in range(channels)
        ]
        return jnp.stack([sum(weights[f] * values for weights, values in shifts) for f in range(features)])  # pyright: ignore[reportArgumentType]
    # (column of a window, feature) × (row of a window, channel)
    matrix = kernel.transpose(1, 3, 0, 2).reshape(size * features, size * channels)
    products = _mixed(matrix, _shifted_down(padded, size))
    products = products.reshape(size, features, *products.shape[1:])
    return sum(products[j, :, :, j : j + columns] for j in range(size))  # pyright: ignore[reportReturnType]


def _computed_outputs(
    images: jax.Array, kernel: jax.Array, *, sides: tuple[int, int], size: int, stride: int, padding: int
) -> jax.Array:
    if size > 1 and stride == 1:
        return _dense_outputs(_padded(images, padding, padding), kernel)
    return _mixed(kernel.reshape(-1, kernel.shape[-1]).T, _patches(images, size, stride, padding))


def _computed_images(
    outputs: jax.Array, kernel: jax.Array, *, sides: tuple[int, int], size: int, stride: int, padding: int
) -> jax.Array:
    """The convolution of the outputs, spread out by the stride, with the kernel turned round."""
    if size == 1:
        outputs = _mixed(kernel[0, 0], outputs)
    before = size - 1 - padding
    config = [
        (before, side + padding - stride * (number - 1) - 1, stride - 1)
        for side, number in zip(sides, outputs.shape[1:3], strict=True)
    ]
    spread = jax.lax.pad(outputs, jnp.zeros((), outputs.dtype), ((0, 0, 0), *config, (0, 0, 0)))
    return spread if size == 1 else _dense_outputs(spread, kernel[::-1, ::-1].swapaxes(2, 3))


def _computed_kernel(
    images: jax.Array, outputs: jax.Array, *, sides: tuple[int, int], size: int, stride: int, padding: int
) -> jax.Array:
    channels, features, columns = images.shape[0], outputs.shape[0], outputs.shape[2]
    if size == 1 or stride > 1:
        matrix = _correlation(_patches(images, size, stride, padding), outputs)
        return matrix.reshape(size, size, channels, features)
    down = _shifted_down(_padded(images, padding, padding), size)
    wide, width = _padded(outputs, 0, size - 1), columns + size - 1
    right = jnp.concatenate([wide[:, :, size - 1 - j : size - 1 - j + width] for j in range(size)])
    matrix = _correlation(down, right)
    return matrix.reshape(size, channels, size, features).transpose(0, 2, 1, 3)


def _operation(name: str, compute: Callable[..., jax.Array]) -> Primitive:
    """An operation of two arrays that is computed so, and batched as what computes it."""
    operation = Primitive(name)

    def shape(*operands: Any, **params: Any) -> Any:
        found = jax.eval_shape(functools.partial(compute, **params), *operands)
        return operands[0].update(shape=found.shape, dtype=found.dtype, weak_type=False)

    def batched(operands: Any, axes: Any, **params: Any) -> tuple[jax.Array, int]:
        return jax.vmap(functools.partial(compute, **params), axes)(*operands), 0

    operation.def_impl(lambda *operands, **params: compute(*operands, **params))
    operation.def_abstract_eval(shape)
    batching.primitive_batchers[operation] = batched
    mlir.register_lowering(operation, mlir.lower_fun(compute, multiple_results=False))
    return operation


_outputs = _operation("convolution_examples_last", _computed_outputs)
_images = _operation("convolution_examples_last_images", _computed_images)
_kernel = _operation("convolution_examples_last_kernel", _computed_kernel)

OPERATIONS = frozenset({_outputs.name, _images.name, _kernel.name})
"""The names of the three, in a program."""

ad.defbilinear(
    _outputs,
    lambda cotangents, images, kernel, **params: _images.bind(cotangents, kernel, **params),
    lambda cotangents, images, kernel, **params: _kernel.bind(images, cotangents, **params),
)
ad.defbilinear(
    _images,
    lambda cotangents, outputs, kernel, **params: _outputs.bind(cotangents, kernel, **params),
    lambda cotangents, outputs, kernel, **params: _kernel.bind(cotangents, outputs, **params),
)
ad.defbilinear(
    _kernel,
    lambda cotangents, images, outputs, **params: _images.bind(outputs, cotangents, **params),
    lambda cotangents, images, outputs, **params: _outputs.bind(images, cotangents, **params),
)
