"""Encoders and decoders by their variants: what words mean, and that examples and models are apart.

What they compute is held against PyTorch's in `tests/converters/test_transformer_families.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdjax.errors import InputError
from mdjax.models import Architecture
from mdjax.models.transformer_variants import scaled

TEXT = Architecture("encoder", 16, (11,), 3, variant="tokens23 post pooler")
IMAGES = Architecture("encoder", 16, (8, 8, 3), 10, variant="classtoken")
LEARNED = Architecture("decoder", 16, (11,), 23)
ROTARY = Architecture("decoder", 16, (11,), 23, variant="kv2 rotary rms swiglu nobias untied")


def inputs_of(architecture, count=3):
    shape = (count, *architecture.input_shape)
    if architecture.reads_tokens:
        return jax.random.randint(jax.random.key(1), shape, 0, architecture.num_tokens)
    return jax.random.normal(jax.random.key(1), shape)


@pytest.mark.parametrize(
    ("architecture", "variant", "num_params"),
    [
        # Embeddings, per block (q, k, v, out; MLP; norms), last norm, head.
        (LEARNED, "h4", (23 + 11) * 16 + 2 * (4 * 17 * 16 + 17 * 64 + 65 * 16 + 4 * 16) + 32),
        (ROTARY, "h4 kv2 rms rotary swiglu nobias untied", 46 * 16 + 2 * (2 * 256 + 2 * 128 + 3 * 1024 + 32) + 16),
        (TEXT, "h4 tokens23 post pooler", 34 * 16 + 2 * (1088 + 1088 + 1040 + 64) + 32 + 17 * 16 + 17 * 3),
        (IMAGES, "h4 patch2 classtoken", 13 * 16 + 18 * 16 + 2 * (1088 + 1088 + 1040 + 64) + 32 + 170),
        (Architecture("decoder", 6, (11,), 23, variant="h2  mlp24 positions12"), "h2 positions12", None),
        (Architecture("decoder", 6, (11,), 23, 1, "eps1e-06 rotary500000"), "h1 rotary500000 eps1e-06", None),
    ],
)
def test_a_variant_is_spelled_in_one_way(architecture, variant, num_params):
    assert architecture.variant == variant
    assert Architecture("decoder", 16, (11,), 23, variant=LEARNED.variant) == LEARNED
    assert num_params in (None, architecture.num_params)


@pytest.mark.parametrize("architecture", [TEXT, IMAGES, LEARNED, ROTARY], ids=lambda one: f"{one.family} {one.variant}")
def test_examples_and_models_are_apart(architecture):
    model, inputs = architecture.model(), inputs_of(architecture)
    params, state = jax.vmap(architecture.init)(jax.random.split(jax.random.key(0), 2))
    together = jax.vmap(model.apply, (0, 0, None))(params, state, inputs)
    for index in range(2):
        own = jax.tree.map(lambda leaf: leaf[index], params)
        alone = jnp.concatenate([model.apply(own, state, one[None]) for one in inputs])
        np.testing.assert_allclose(together[index], alone, rtol=1e-5, atol=1e-6)
    outputs = {"decoder": (11, 23), "encoder": (architecture.num_classes,)}[architecture.family]
    assert together.shape == (2, 3, *outputs)
    if architecture.family == "decoder":
        # A token changes what its own position and later ones say, and no earlier one.
        other = model.apply(own, state, inputs.at[:, 6].add(1) % 23)
        np.testing.assert_array_equal(other[:, :6], model.apply(own, state, inputs)[:, :6])
        assert (jnp.abs(other - together[1])[:, 6:].max((0, 2)) > 1e-6).all()
    found = model.layer_outputs(own, state, inputs, "blocks/1")
    assert found.shape[2] == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("decoder", 16, (8, 8, 1)), "a decoder reads tokens of the shape"),
        (("encoder", 16, (8, 8)), "or images"),
        (("encoder", 16, (11,)), "How many tokens an encoder reads is not known"),
        (("decoder", 16, (11,), 23, 2, "h3"), "does not part into 3 heads"),
        (("decoder", 16, (11,), 23, 2, "h4 kv3"), "4 heads and 3 of keys"),
        (("decoder", 4, (11,), 23, 2, "h4 rotary"), "of an even size"),
        (("decoder", 16, (11,), 23, 2, "heads4"), "'heads4' is no part of a transformer"),
        (("decoder", 16, (11,), 23, 2, "h4 h2"), "says its heads twice"),
        (("decoder", 16, (11,), 23, 2, "gelu relu"), "says its activation twice"),
        (("decoder", 16, (11,), 23, 2, "h1e1"), "'h1e1' is no part"),
        (("decoder", 16, (11,), 23, 2, "h0"), "'h0' is no part"),
        (("decoder", 16, (11,), 23, 2, "eps2"), "'eps2' is no part"),
        (("decoder", 16, (11,), 23, 2, "positions10"), "inputs have 11 positions, but the network 10"),
        (
            ("decoder", 16, (11,), 23, 2, "rotary positions12"),
            "positions, which one with rotary positions",
        ),
        (("decoder", 16, (11,), 23, 2, "first"), "says first, which a decoder has none of"),
        (("encoder", 16, (11,), 3, 2, "tokens23 patch2"), "says patch, which an encoder of tokens"),
        (("encoder", 16, (8, 8, 1), 3, 2, "tokens23"), "says tokens, which an encoder of images"),
        (("encoder", 16, (8, 8, 1), 3, 2, "patch3"), "8×8 do not part into patches of 3"),
        (("encoder", 16, (8, 8, 1), 3, 2, "classtoken positions16"), "inputs have 17 positions"),
    ],
)
def test_what_makes_no_transformer_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Architecture(*arguments)


def test_hidden_units_are_scaled_where_they_are_said():
    assert scaled("h4 mlp48 rms", 1 / 4) == "h4 mlp12 rms"
    assert scaled("h4 rms", 1 / 4) == "h4 rms"
