"""Architectures: sizes as published, shapes as text, and what is refused."""

import jax
import jax.numpy as jnp
import pytest

from mdjax.errors import InputError
from mdjax.models import Architecture, FunctionModel
from mdjax.models.architecture import parse_shape, shape_text


@pytest.mark.parametrize("width", [1, 2, 3, 8, 128])
def test_resnet_has_the_published_number_of_parameters(width):
    assert Architecture("resnet18", width).num_params == 2724 * width**2 + 257 * width + 10


@pytest.mark.parametrize("family", ["mlp", "cnn", "resnet18"])
@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 5, 3), (32, 32, 3)])
def test_any_input_size_and_number_of_classes(family, shape):
    architecture = Architecture(family, 2, shape, 7)
    params, state = architecture.init(jax.random.key(0))
    inputs = jnp.ones((3, *shape))
    logits = jax.jit(architecture.model().apply)(params, state, inputs)
    assert logits.shape == (3, 7)
    assert bool(jax.tree.leaves(state)) == (family == "resnet18")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lstm", 2), "Unknown architecture 'lstm'"),
        (("mlp", 0), "width is 0"),
        (("resnet18", 2, (32, 32, 3), 10, 34), "depth is 34"),
        (("cnn", 2, (64,)), "input_shape is \\(64,\\)"),
    ],
)
def test_wrong_architectures_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Architecture(*arguments)


def test_a_function_with_state_is_not_connected_by_curves():
    model = FunctionModel(lambda params, state, inputs: inputs @ params)
    logits, state = model.batch_apply(jnp.eye(2), {}, jnp.ones((1, 2)), jnp.ones(1))
    assert logits.shape == (1, 2)
    assert state == {}
    with pytest.raises(InputError, match="Cannot re-estimate the statistics"):
        model.batch_apply(jnp.eye(2), {"mean": jnp.ones(2)}, jnp.ones((1, 2)), jnp.ones(1))


@pytest.mark.parametrize(("shape", "text"), [((28, 28, 1), "28x28x1"), ((64,), "64")])
def test_an_input_shape_as_text(shape, text):
    assert shape_text(shape) == text
    assert parse_shape(text) == shape


@pytest.mark.parametrize("text", ["", "28x", "28x-1x1", "28 x 28", "(28, 28, 1)"])
def test_a_text_that_is_no_input_shape_is_refused(text):
    with pytest.raises(InputError, match="Give height, width and channels, like 28x28x1"):
        parse_shape(text)
