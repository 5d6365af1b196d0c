"""Layers: all forms of a convolution equal, pools like XLA's, statistics of the batch alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdjax.models import Architecture
from mdjax.models.layers import batched_convolution, max_pool, mean_pool, patches_convolution


@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 2, 0)])
@pytest.mark.parametrize("shape", [(8, 8, 3), (7, 5, 3), (5, 4, 8), (5, 4, 17)])
@pytest.mark.parametrize("form", [patches_convolution, batched_convolution])
def test_patches_equal_xlas_convolution(size, stride, padding, shape, form):
    keys = jax.random.split(jax.random.key(0))
    inputs = jax.random.normal(keys[0], (2, *shape))
    kernel = jax.random.normal(keys[1], (size, size, shape[-1], 4))

    def xlas(inputs, kernel):
        return jax.lax.conv_general_dilated(
            inputs, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def patches(inputs, kernel):
        return form(inputs, kernel, stride, padding)

    expected = xlas(inputs, kernel)
    atol = 3e-6 * jnp.abs(expected).max()
    np.testing.assert_allclose(patches(inputs, kernel), expected, atol=atol)
    np.testing.assert_allclose(jax.vmap(patches)(inputs[None], kernel[None])[0], expected, atol=atol)
    # Differentiated, and only then, a wide layer is a product of patches.
    np.testing.assert_allclose(jax.linearize(patches, inputs, kernel)[0], expected, atol=atol)

    # Of a curved function of the outputs, so that the second derivatives are those of a convolution in use.
    def derivatives(convolution):
        gradient = jax.grad(lambda arrays: jnp.sum(jnp.tanh(convolution(*arrays))))
        return jax.jvp(gradient, ((inputs, kernel),), ((kernel.mean() * inputs, kernel),))

    for found, expected in zip(jax.tree.leaves(derivatives(patches)), jax.tree.leaves(derivatives(xlas)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5 * jnp.abs(expected).max())

    # Inputs without a tangent stand for the data.
    def tangent(convolution):
        return jax.jvp(lambda kernel: convolution(inputs, kernel), (kernel,), (kernel + 1,))[1]

    np.testing.assert_allclose(tangent(patches), tangent(xlas), atol=1e-5 * jnp.abs(tangent(xlas)).max())


@pytest.mark.parametrize(("channels", "num_convolutions"), [(16, 0), (17, 1)])
def test_narrow_convolutions_of_many_models_are_products(channels, num_convolutions):
    inputs, kernels = jnp.ones((2, 1, 4, 4, channels)), jnp.ones((2, 3, 3, channels, 4))
    program = jax.make_jaxpr(jax.vmap(lambda x, kernel: batched_convolution(x, kernel, 1, 1)))(inputs, kernels)
    assert str(program).count("conv_general_dilated[") == num_convolutions


@pytest.mark.parametrize(("size", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 0)])
def test_pools_equal_xlas(size, stride, padding):
    inputs = jax.random.normal(jax.random.key(0), (2, 7, 6, 3))
    window = (size, size), (stride, stride), [(padding, padding)] * 2
    np.testing.assert_array_equal(max_pool(inputs, size, stride, padding), nn.max_pool(inputs, *window))
    np.testing.assert_allclose(mean_pool(inputs, size, stride, padding), nn.avg_pool(inputs, *window), atol=1e-6)


def test_of_equal_entries_the_first_takes_the_gradient_and_nan_wins():
    inputs = jnp.array([[3.0, 3.0], [1.0, 3.0]]).reshape(1, 2, 2, 1)
    gradient = jax.grad(lambda inputs: max_pool(inputs, 2, 2).sum())(inputs)
    assert gradient.ravel().tolist() == [1, 0, 0, 0]
    for index in range(4):
        assert jnp.isnan(max_pool(inputs.at[0, index // 2, index % 2, 0].set(jnp.nan), 2, 2)).all()


def test_padding_examples_do_not_touch_batch_statistics():
    architecture = Architecture("resnet18", 1, (8, 8, 1))
    params, state = architecture.init(jax.random.key(0))
    model = architecture.model()
    inputs = jax.random.normal(jax.random.key(1), (6, 8, 8, 1))
    weights = jnp.array([1.0, 1, 1, 1, 0, 0])
    padded_logits, padded = model.batch_apply(params, state, inputs.at[4:].set(99.0), weights)
    logits, alone = model.batch_apply(params, state, inputs[:4], jnp.ones(4))
    np.testing.assert_allclose(padded_logits[:4], logits, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), padded, alone)


def test_batch_statistics_are_means_and_unbiased_variances():
    architecture = Architecture("resnet18", 2, (8, 8, 1))
    params, state = architecture.init(jax.random.key(0))
    inputs = jax.random.normal(jax.random.key(1), (5, 8, 8, 1))
    _, statistics = architecture.model().batch_apply(params, state, inputs, jnp.ones(5))
    stem = jax.lax.conv_general_dilated(
        inputs, params["conv1"]["kernel"], (1, 1), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    ).reshape(-1, 2)
    np.testing.assert_allclose(statistics["bn1"]["mean"], np.mean(stem, 0), atol=1e-5)
    np.testing.assert_allclose(statistics["bn1"]["var"], np.var(stem, 0, ddof=1), rtol=1e-4)


def test_initial_weights_lie_within_one_over_the_root_of_fan_in():
    params, _ = Architecture("cnn", 8, (8, 8, 3)).init(jax.random.key(0))
    bound = 1 / np.sqrt(9 * 8)
    kernel = np.asarray(params["conv1"]["kernel"])
    assert np.abs(kernel).max() <= bound
    assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=0.1)
