"""Heads of attention and hidden units of transformers, put in another order by hand, are found again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdjax.landscape.alignment import matching, permuted, random_permutations, specification
from mdjax.models import Architecture
from mdjax.models.transformer_variants import parts_of

NETWORKS = [
    Architecture("decoder", 16, (11,), 23, variant="h4 kv2 rms rotary swiglu nobias untied"),
    Architecture("encoder", 16, (11,), 3, variant="tokens23 segments2 post pooler positions12"),
]


def by_hand(params, architecture, random):
    """The same function with the heads and the MLPs' hidden units of its two blocks in another order."""
    parts, size = parts_of(architecture.variant), 16 // parts_of(architecture.variant).heads
    kv_heads = parts.kv_heads or parts.heads
    heads = [random.permutation(kv_heads) for _ in range(2)]
    units = [random.permutation(64) for _ in range(2)]
    params = jax.tree.map(np.array, params)
    for number in range(2):
        block = params["blocks"][str(number)]
        keys = np.arange(kv_heads * size).reshape(kv_heads, size)[heads[number]].ravel()
        queries = np.arange(16).reshape(kv_heads, -1)[heads[number]].ravel()
        for name, order in (("query", queries), ("key", keys), ("value", keys)):
            block["attention"][name] = {k: leaf[..., order] for k, leaf in block["attention"][name].items()}
        block["attention"]["out"]["kernel"] = block["attention"]["out"]["kernel"][queries]
        for name in block["mlp"].keys() - {"down"}:
            block["mlp"][name] = {k: leaf[..., units[number]] for k, leaf in block["mlp"][name].items()}
        block["mlp"]["down"]["kernel"] = block["mlp"]["down"]["kernel"][units[number]]
    return params


@pytest.mark.parametrize("architecture", NETWORKS, ids=lambda one: f"{one.family} {one.variant}")
def test_heads_and_units_are_found_again(architecture):
    params, state = architecture.init(jax.random.key(0))
    random = np.random.default_rng(0)
    # Norms and biases of their own, so that nothing is alike.
    params = jax.tree.map(lambda leaf: leaf + 0.1 * random.normal(size=leaf.shape).astype(np.float32), params)
    shape = (5, *architecture.input_shape)
    x = random.integers(0, 23, shape) if architecture.reads_tokens else random.normal(size=shape).astype(np.float32)
    model, x = architecture.model(), jnp.asarray(x)
    apply = jax.jit(model.apply)
    outputs = apply(params, state, x)

    found = specification(model, params, state, x)
    parts = parts_of(architecture.variant)
    assert found.sizes.count(parts.kv_heads or parts.heads) >= 2 and found.sizes.count(64) == 2
    # Every number of the residual stream has its place by the embedding: LayerNorm does not care for their order.
    assert 16 in found.sizes
    match = jax.jit(lambda moved: matching(found, params, moved))
    for moved in (
        by_hand(params, architecture, random),
        permuted(found, random_permutations(found, jax.random.key(1)), params, state)[0],
    ):
        assert max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), params, moved))) > 0.1
        np.testing.assert_allclose(apply(moved, state, x), outputs, rtol=1e-5, atol=1e-5)
        back, _ = permuted(found, match(moved), moved, state)
        jax.tree.map(np.testing.assert_array_equal, back, params)
