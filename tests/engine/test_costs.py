"""Operations by the program, against XLA's own count and against what loops are known to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdjax.engine.costs import OperationCount
from mdjax.models.examples_last import convolution
from mdjax.models.layers import lax_convolution

FLOAT = jnp.float32
SQUARE = jax.ShapeDtypeStruct((4, 4), FLOAT)
PRODUCT = 2 * 4**3


def convolved(images, kernel, strides=(2, 2), groups=1):
    return jax.lax.conv_general_dilated(
        images, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def with_weight_gradient(images, kernel, **options):
    outputs, pull = jax.vjp(lambda *both: convolved(*both, **options), images, kernel)
    return pull(jnp.ones(outputs.shape, FLOAT))


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda a, b: a @ b, [(3, 5), (5, 7)]),
        (lambda a, b: jnp.einsum("bij,bjk->bik", a, b), [(2, 3, 5), (2, 5, 7)]),
        (convolved, [(8, 9, 9, 4), (3, 3, 4, 6)]),
        (with_weight_gradient, [(8, 9, 9, 4), (3, 3, 4, 6)]),
        (lambda *both: with_weight_gradient(*both, strides=(1, 1), groups=2), [(8, 5, 5, 4), (3, 3, 2, 6)]),
        (jax.vmap(convolved), [(2, 4, 6, 6, 3), (2, 3, 3, 3, 5)]),
    ],
    ids=["product", "batched", "convolution", "gradient", "groups", "vmap"],
)
def test_products_and_convolutions_count_as_xla_counts_them(function, shapes):
    arguments = [jax.ShapeDtypeStruct(shape, FLOAT) for shape in shapes]
    counted = jax.jit(function).lower(*arguments).cost_analysis()["flops"]
    assert OperationCount(function, *arguments)(*arguments) == counted


@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 2, 0)])
def test_a_convolution_counts_alike_with_examples_last(size, stride, padding):
    """And so do its two transposes."""
    images, kernel = jnp.ones((4, 7, 6, 3)), jnp.ones((size, size, 3, 5))

    def all_three(convolve):
        def run(images, kernel):
            outputs, pull = jax.vjp(lambda *both: convolve(*both, stride, padding), images, kernel)
            return outputs, pull(outputs)

        return run

    def last(images, kernel, stride, padding):
        return convolution(images.transpose(3, 1, 2, 0), kernel, stride, padding)

    counts = [OperationCount(all_three(form), images, kernel)(images, kernel) for form in (lax_convolution, last)]
    assert counts[0] == counts[1] > 0


def batches(matrix, num_examples):
    """A loop over batches of four examples, bounded by a traced number, as metrics have them."""
    return jax.lax.fori_loop(0, -(-num_examples // 4), lambda _, power: power @ matrix, matrix)


def nested(matrix, num_examples):
    """Epochs of such batches, the bound made outside of the outer loop, under a jit of its own."""
    return jax.lax.fori_loop(0, 3, lambda _, power: jax.jit(batches)(power, jnp.minimum(num_examples, 9)), matrix)


def converging(matrix, _):
    """How often it runs depends on numbers that nobody knows before."""
    return jax.lax.while_loop(lambda power: power.sum() < 9, lambda power: power @ matrix, matrix)


def branching(matrix, num_examples):
    return jax.lax.cond(matrix.sum() > 0, lambda: matrix @ matrix, lambda: matrix @ matrix @ matrix) * num_examples


def wasting(matrix, num_examples):
    _unused = matrix @ matrix
    return jax.lax.scan(lambda carry, row: (carry, row @ matrix), num_examples, matrix)[1]


@pytest.mark.parametrize(
    ("function", "num_examples", "products"),
    [
        *[(batches, 14, 4), (batches, 16, 4), (batches, 0, 0)],
        *[(nested, 14, 9), (nested, 4, 3)],
        *[(converging, 5, 1), (branching, 5, 1), (wasting, 5, 1)],
    ],
)
def test_loops_count_as_often_as_they_are_known_to_run(function, num_examples, products):
    count = OperationCount(function, SQUARE, np.int32(num_examples))
    assert count(SQUARE, np.int32(num_examples)) == products * PRODUCT


def test_a_number_that_is_not_given_counts_once():
    shape = jax.ShapeDtypeStruct((), np.int32)
    assert OperationCount(batches, SQUARE, shape)(SQUARE, shape) == PRODUCT
