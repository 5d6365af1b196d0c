"""Orthonormal rows of blocks that are well or badly conditioned, of less than full rank, and of any scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdjax.linalg.orthonormalization import gram_schmidt, householder, row_lengths

WIDTH, SIZE = 4, 500
ROUNDING = float(np.finfo(np.float32).eps)


def random_block(seed=0):
    return np.random.default_rng(seed).normal(size=(WIDTH, SIZE))


def conditioned(condition):
    """Singular values from 1 down to 1/condition, in directions that no row follows."""
    basis, _ = np.linalg.qr(random_block().T)
    mixing, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(WIDTH, WIDTH)))
    return mixing @ np.diag(np.geomspace(1, 1 / condition, WIDTH)) @ basis.T


def replaced(index, rows):
    block = random_block()
    block[index] = rows
    return block


FULL_RANK = {
    "random": random_block(),
    "condition 1e3": conditioned(1e3),
    "condition 1e6": conditioned(1e6),
    "tiny": 1e-20 * random_block(),
    "huge": 1e15 * random_block(),
    "tiny beside huge": random_block() * np.array([[1e15], [1e-20], [1.0], [1e-20]]),
    "nearly parallel": np.ones((WIDTH, SIZE)) + 1e-5 * random_block(),
}
DEPENDENT = {
    "all zero": (np.zeros((WIDTH, SIZE)), [0, 1, 2, 3]),
    "a zero row": (replaced(1, 0.0), [1]),
    "a row twice": (replaced(2, random_block()[0]), [2]),
    "a row and its opposite, huge": (1e15 * replaced(3, -random_block()[1]), [3]),
    "a sum of rows": (replaced(3, random_block()[:3].sum(axis=0)), [3]),
    "one row four times": (np.ones((WIDTH, SIZE)), [1, 2, 3]),
}


def found(block, form=gram_schmidt):
    rows, triangle = jax.jit(form)(jnp.asarray(block, jnp.float32))
    return np.asarray(rows, np.float64), np.asarray(triangle, np.float64)


def check(block, rows, triangle):
    """What holds of every block: Wᵀ = Qᵀ R row by row, R upper triangular with a diagonal that is not negative."""
    lengths = np.linalg.norm(block, axis=1, keepdims=True)
    assert (np.abs(triangle.T @ rows - block) <= 8 * ROUNDING * lengths).all()
    np.testing.assert_array_equal(np.tril(triangle, -1), 0)
    assert (np.diag(triangle) >= 0).all()


@pytest.mark.parametrize("form", [gram_schmidt, householder])
@pytest.mark.parametrize("name", FULL_RANK)
def test_blocks_of_full_rank(name, form):
    rows, triangle = found(FULL_RANK[name], form)
    np.testing.assert_allclose(rows @ rows.T, np.eye(WIDTH), atol=2e-6)
    if form is gram_schmidt or name != "tiny beside huge":  # LAPACK's errors are those of the whole block
        check(FULL_RANK[name], rows, triangle)


@pytest.mark.parametrize("name", DEPENDENT)
def test_dependent_rows_are_told_by_the_diagonal(name):
    block, dependent = DEPENDENT[name]
    rows, triangle = found(block)
    check(block, rows, triangle)
    lengths = np.linalg.norm(block, axis=1)
    assert (np.diag(triangle)[dependent] <= 8 * ROUNDING * lengths[dependent]).all()
    # Those rows are zero, or at unit length and orthogonal to the others as well.
    gram = rows @ rows.T
    is_zero = np.diag(gram) == 0
    np.testing.assert_allclose(gram, np.diag(1.0 - is_zero), atol=2e-6)
    assert not is_zero[np.setdiff1d(np.arange(WIDTH), dependent)].any()


def test_a_condition_beyond_rounding_leaves_orthonormal_rows():
    for condition in (1e8, 1e12):
        rows, triangle = found(conditioned(condition))
        np.testing.assert_allclose(rows @ rows.T, np.eye(WIDTH), atol=2e-6)
        check(conditioned(condition), rows, triangle)


def test_a_square_block_is_completed():
    rows, triangle = found(np.random.default_rng(0).normal(size=(40, 40)))
    np.testing.assert_allclose(rows @ rows.T, np.eye(40), atol=5e-6)
    assert (np.diag(triangle) > 0).all()


def test_what_is_not_finite_spares_the_rows_before_it():
    for value in (np.nan, np.inf):
        rows, triangle = found(replaced((2, 7), value))
        np.testing.assert_allclose(rows[:2] @ rows[:2].T, np.eye(2), atol=2e-6)
        assert np.isnan(rows[2:]).any(axis=1).all()
        assert np.isnan(triangle[:, 2:]).any(axis=0).all()


def test_lengths_of_any_scale():
    block = np.concatenate([*(block for block in FULL_RANK.values()), np.zeros((1, SIZE))])
    lengths = np.asarray(row_lengths(jnp.asarray(block, jnp.float32)), np.float64)
    np.testing.assert_allclose(lengths, np.linalg.norm(block, axis=1), rtol=1e-6)


def test_blocks_side_by_side_are_those_alone():
    blocks = [*FULL_RANK.values(), *(block for block, _ in DEPENDENT.values())]
    stacked = jnp.asarray(np.stack(blocks), jnp.float32)
    together = jax.jit(jax.vmap(gram_schmidt))(stacked)
    mapped = jax.jit(lambda blocks: jax.lax.map(gram_schmidt, blocks))(stacked)
    for index, block in enumerate(blocks):
        for form in (together, mapped):
            check(block, *(np.asarray(part[index], np.float64) for part in form))
