"""Sums over batches: what their programs hold, and which limits they keep to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdjax.landscape.accumulation import summed_over_batches
from mdjax.landscape.curvature import curvature_operator
from mdjax.landscape.limits import USUAL_LIMITS, ProductLimits, current_limits, limited


def test_a_program_does_not_grow_with_the_number_of_batches():
    def lines(num_batches: int) -> int:
        batches = jnp.ones((num_batches, 2, 3))
        outputs, loss = lambda params, batch: jnp.tanh(batch @ params), lambda values, batch: jnp.sum(values**2)
        return len(
            jax.jit(lambda params, block: curvature_operator(outputs, loss, params, batches).matmat(block))
            .lower(jnp.ones(3), jnp.ones((2, 3)))
            .as_text()
            .splitlines()
        )

    assert lines(100) == lines(10)


@pytest.mark.parametrize("num_batches", [4, 5])
@pytest.mark.parametrize("residual_bytes", [4 * 4 * 3, 4 * 4 * 3 - 1])
def test_residuals_are_kept_for_four_batches_that_fit(num_batches, residual_bytes):
    traced = []

    def linearized(batch):
        traced.append(batch)
        return jax.tree_util.Partial(jnp.multiply, 2 * batch)

    batches = jnp.arange(3.0 * num_batches).reshape(num_batches, 3)
    single, stacked = summed_over_batches(linearized, batches, ProductLimits(residual_bytes))
    kept = num_batches == 4 and residual_bytes == 4 * 4 * 3
    # One batch is looked at for the size of its residuals.
    assert len(traced) == 1 + (num_batches if kept else 0)
    vectors = jnp.arange(6.0).reshape(2, 3)
    expected = 2 * vectors * batches.sum(0)
    np.testing.assert_allclose(jax.jit(stacked)(vectors), expected)
    np.testing.assert_allclose(jax.jit(single)(vectors[0]), expected[0])


@pytest.mark.parametrize(("num_batches", "is_one"), [(1, True), (4, True), (5, False)])
def test_batches_that_are_sums_over_examples_are_one_where_residuals_are_kept(num_batches, is_one):
    traced = []

    def linearized(batch):
        traced.append(batch)
        return jax.tree_util.Partial(lambda residual, vector: jnp.sum(residual) * vector, 2 * batch)

    batches = jnp.arange(3.0 * num_batches).reshape(num_batches, 3)
    single, stacked = summed_over_batches(linearized, batches, mergeable=True)
    # One batch is looked at for the size of its residuals.
    assert [batch.shape for batch in traced] == [(3,), *[(3 * num_batches,)] * is_one]
    vectors = jnp.arange(6.0).reshape(2, 3)
    expected = 2 * vectors * batches.sum()
    np.testing.assert_allclose(jax.jit(stacked)(vectors), expected)
    np.testing.assert_allclose(jax.jit(single)(vectors[0]), expected[0])


@pytest.mark.parametrize(("residual_bytes", "kept"), [(6 * 4 * 3, True), (6 * 4 * 3 - 1, False)])
def test_a_loop_holds_the_product_once_and_keeps_what_fits(residual_bytes, kept):
    traced = []

    def linearized(batch):
        traced.append(batch)
        return jax.tree_util.Partial(lambda residual, vector: jnp.tanh(residual) * vector, 2 * batch)

    batches = jnp.arange(18.0).reshape(6, 3)
    single, stacked = summed_over_batches(
        linearized, batches, ProductLimits(residual_bytes, 2, loops_over_batches=True)
    )
    assert len(traced) == 1 + kept
    vectors = jnp.arange(6.0).reshape(2, 3)
    expected = vectors * np.tanh(2 * np.asarray(batches)).sum(0)
    np.testing.assert_allclose(jax.jit(stacked)(vectors), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(single)(vectors[0]), expected[0], rtol=1e-6)
    assert str(jax.make_jaxpr(stacked)(vectors)).count("tanh") == 1


@pytest.mark.parametrize("vectors_at_once", [1, 2, 8])
def test_vectors_go_side_by_side_as_far_as_the_limits_allow(vectors_at_once):
    def one(matrix, vector):
        return matrix @ vector

    with limited(ProductLimits(vectors_at_once=vectors_at_once)):
        _, stacked = summed_over_batches(functools.partial(jax.tree_util.Partial, one), jnp.ones((1, 3, 3)))
    program = str(jax.make_jaxpr(stacked)(jnp.ones((4, 3))))
    assert (f"f32[{min(vectors_at_once, 4)},3]" in program) == (vectors_at_once > 1)


def test_limits_hold_inside_and_end_with_the_block():
    assert current_limits() == USUAL_LIMITS
    with limited(ProductLimits(1, 2)):
        assert current_limits() == (1, 2, False)
        with limited(ProductLimits(3, 4)):
            assert current_limits() == (3, 4, False)
        assert current_limits() == (1, 2, False)
    assert current_limits() == USUAL_LIMITS
