"""Models given in Python whose outputs mix the examples of a batch are refused; all others are measured."""

import jax
import jax.numpy as jnp
import pytest

import mdjax
from mdjax.errors import InputError


def linear(params, state, inputs):
    return inputs.reshape(len(inputs), -1) @ params["w"]


def normalised_by_the_batch(params, state, inputs):
    return linear(params, state, inputs - inputs.mean(0))


def normalised_over_the_batch(params, state, inputs):
    return jax.nn.softmax(linear(params, state, inputs), axis=0)


def dropping_by_place(params, state, inputs):
    return linear(params, state, inputs * jax.random.bernoulli(jax.random.key(0), 0.5, inputs.shape))


def normalised_by_itself(params, state, inputs):
    return linear(params, state, inputs - inputs.mean((1, 2, 3), keepdims=True))


def measured(apply, scale=1.0):
    weights = {"w": scale * jax.random.normal(jax.random.key(0), (64, 10))}, {}
    return mdjax.measure([weights], model=apply, data="digits", metrics="losses", show_progress=False)


@pytest.mark.parametrize("apply", [normalised_by_the_batch, normalised_over_the_batch, dropping_by_place])
def test_mixed_examples_are_refused(apply):
    with pytest.raises(InputError, match="outputs for an example change by .* with the examples beside it"):
        measured(apply)


@pytest.mark.parametrize(("apply", "scale"), [(linear, 1), (normalised_by_itself, 1), (linear, 0), (linear, jnp.nan)])
def test_others_are_measured(apply, scale):
    assert len(measured(apply, scale).models) == 1
