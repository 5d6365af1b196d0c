"""Images with the examples last: the same convolutions, all of their derivatives, and the same networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdjax.landscape.batches import LabelledExamples
from mdjax.landscape.loss_curvature import gauss_newton_traces, loss_curvature
from mdjax.models import Architecture, FlaxModel, sequence
from mdjax.models.examples_last import convolution
from mdjax.models.layers import lax_convolution
from mdjax.models.parameters import counted


def xlas(images, kernel, stride, padding):
    return lax_convolution(images.swapaxes(0, 3), kernel, stride, padding).swapaxes(0, 3)


def derivatives(convolve, images, kernel, stride, padding):
    """Of a curved function of the outputs, so that the second ones are those of a convolution in use."""

    def loss(images, kernel):
        return jnp.sum(jnp.tanh(convolve(images, kernel, stride, padding)))

    gradient, directions = jax.grad(loss, (0, 1)), (jnp.cos(images), jnp.sin(kernel))

    def slope(images, kernel):
        return sum(map(jnp.vdot, gradient(images, kernel), directions))

    return {
        "outputs and tangents": jax.jvp(
            lambda *arrays: convolve(*arrays, stride, padding), (images, kernel), directions
        ),
        "gradient": gradient(images, kernel),
        "forward over reverse": jax.jvp(gradient, (images, kernel), directions)[1],
        "reverse over reverse": jax.grad(slope, (0, 1))(images, kernel),
    }


def assert_alike(found, expected, tolerance=1e-5):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance * (np.abs(other).max() + 1e-2))


@pytest.mark.parametrize(
    ("size", "stride", "padding", "shape", "features"),
    [
        (3, 1, 1, (5, 8, 7, 3), 4),
        (3, 1, 1, (2, 6, 6, 3), 2),  # few channels
        (3, 1, 1, (1, 5, 6, 2), 1),
        (3, 1, 0, (3, 5, 6, 2), 3),
        (3, 2, 1, (3, 8, 7, 2), 4),
        (1, 1, 0, (3, 4, 5, 2), 4),
        (1, 2, 0, (3, 5, 8, 2), 6),
        (7, 2, 3, (3, 9, 12, 2), 4),
        (7, 1, 2, (2, 8, 9, 2), 3),
        (2, 3, 2, (3, 6, 8, 2), 3),
    ],
)
def test_equals_xlas_convolution_with_all_derivatives(size, stride, padding, shape, features):
    keys = jax.random.split(jax.random.key(0))
    images = jax.random.normal(keys[0], shape)
    kernel = 0.3 * jax.random.normal(keys[1], (size, size, shape[0], features))
    compute = jax.jit(derivatives, static_argnums=(0, 3, 4))
    found, expected = (compute(convolve, images, kernel, stride, padding) for convolve in (convolution, xlas))
    assert_alike(found, expected)


def test_batched_over_images_and_kernels():
    images = jax.random.normal(jax.random.key(0), (2, 3, 6, 5, 4))
    kernels = jax.random.normal(jax.random.key(1), (2, 3, 3, 3, 4))

    def gradients(convolve):
        def one(images, kernel):
            return jax.grad(lambda *arrays: jnp.sum(jnp.tanh(convolve(*arrays, 1, 1))), (0, 1))(images, kernel)

        return jax.vmap(one)(images, kernels), jax.vmap(one, (None, 0))(images[0], kernels)

    compute = jax.jit(gradients, static_argnums=0)
    assert_alike(compute(convolution), compute(xlas))


NETWORKS = [
    Architecture("resnet", 2, (8, 8, 3), 4, depth=10),
    Architecture("preresnet", 2, (8, 8, 1), 4, depth=8),
    Architecture("cnn", 3, (9, 7, 1), 4),
    Architecture("vgg", 1, (32, 32, 1), 4),
    sequence("conv4k5 batchnorm max2 relu conv3k3s2p2 mean2 tanh flatten dense6 batchnorm relu dense4", (14, 12, 1)),
    sequence("conv4k3 relu globalmean dense4", (6, 5, 2)),
    sequence("flatten dense5 relu dense4", (3, 2, 2)),
]


@pytest.mark.parametrize(
    "architecture", NETWORKS, ids=lambda architecture: f"{architecture.family}{architecture.width}"
)
def test_networks_are_the_same(architecture):
    params, state = architecture.init(jax.random.key(0))
    inputs = jax.random.normal(jax.random.key(1), (5, *architecture.input_shape))
    weights = jnp.array([1.0, 1, 1, 0, 1])

    def found(form):
        # Stored statistics take the same way: what comes out of a batch is enough.
        return architecture.model(form).batch_apply(params, state, inputs, weights)

    compute = jax.jit(found, static_argnums=0)
    assert_alike(compute("examples_last"), compute("lax"), 1e-4)


def test_curvature_and_exact_traces_are_the_same():
    architecture = NETWORKS[2]
    params, state = architecture.init(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (6, *architecture.input_shape))
    examples = LabelledExamples(images, jnp.arange(6) % 4, 6)

    def found(form):
        model, counting = counted(FlaxModel(architecture.model(form).module, ("['conv0']",)), params, "trainable")
        operator = loss_curvature(model, counting, state, examples, batch_size=6)
        product = operator.matvec(jnp.cos(jnp.arange(operator.size, dtype=jnp.float32)))
        return product, gauss_newton_traces(model, counting, state, examples)

    compute = jax.jit(found, static_argnums=0)
    assert_alike(compute("examples_last"), compute("lax"))


def test_outputs_of_layers_have_the_examples_first():
    architecture = NETWORKS[0]
    params, state = architecture.init(jax.random.key(0))
    inputs = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    found, expected = (
        architecture.model(form).layer_outputs(params, state, inputs, "layer2_0") for form in ("examples_last", "lax")
    )
    assert_alike(found, expected)
