"""Networks given by a text: layers that come more than once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdjax.errors import InputError
from mdjax.models import sequence
from mdjax.models.sequences import layers_of, scaled


def test_a_layer_that_comes_again_is_one_parameter():
    again = sequence("a=dense5 tanh b=dense5 tanh c=@b tanh @b head=dense3", (4,))
    apart = sequence("a=dense5 tanh b=dense5 tanh c=dense5 tanh d=dense5 head=dense3", (4,))
    params, state = again.init(jax.random.key(0))
    assert set(params) == {"dense0", "dense2", "dense7"}
    assert again.num_params == 25 + 30 + 18 == apart.num_params - 60
    inputs = jnp.asarray(np.random.RandomState(0).normal(size=(6, 4)), jnp.float32)
    copied = params | {"dense4": params["dense2"], "dense6": params["dense2"]}

    def loss(architecture, params):
        return jnp.sum(architecture.model().apply(params, state, inputs) ** 2)

    assert loss(again, params) == pytest.approx(float(loss(apart, copied | {"dense7": params["dense7"]})), rel=1e-6)
    # The derivative of what is tied is the sum over its uses.
    gradient, parts = (jax.grad(lambda p, a=a: loss(a, p))(q) for a, q in ((again, params), (apart, copied)))
    summed = sum(parts[name]["kernel"] for name in ("dense2", "dense4", "dense6"))
    np.testing.assert_allclose(gradient["dense2"]["kernel"], summed, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dense4 relu @1 dense2", "repeats no layer. Give the name of an earlier conv or dense: 0"),
        ("a=@b b=dense4", "repeats no layer"),
        ("conv4k3 batchnorm @1 globalmean dense2", "repeats no layer"),
        ("a=dense4 b=dense4 c=@a c=@b dense2", "two layers the same name"),
        ("a=dense4 a=dense4 dense2", "two layers the same name"),
    ],
)
def test_what_repeats_no_layer_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        layers_of(text)


def test_a_layer_comes_again_only_where_as_much_comes_in():
    with pytest.raises(InputError, match="gets 4 features, but 3 before"):
        sequence("a=dense4 relu @a dense2", (3,))


def test_all_layers_but_the_last_are_scaled():
    text = "body: conv8k5s2p1nobias batchnorm relu conv6k3 max2 head: flatten fc=dense20 tanh @fc dense10"
    expected = "body: conv2k5s2p1nobias batchnorm relu conv2k3 max2 head: flatten fc=dense5 tanh @fc dense10"
    assert scaled(text, 1 / 4) == expected
    assert scaled("dense4 relu dense3", 1e-3) == "dense1 relu dense3"
