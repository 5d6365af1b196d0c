"""Traces and Frobenius norms: right on average, with honest standard errors, and few products."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense_hessian

from mdjax.linalg.krylov import ritz_pairs
from mdjax.linalg.operators import LinearOperator
from mdjax.linalg.trace import Sampling, deflated_trace, hutch_pp, hutchinson, xtrace

METHODS = {
    "deflated": lambda operator, key, sampling: deflated_trace(operator, key, sampling)[1],
    "hutchinson": hutchinson,
    "hutch++": hutch_pp,
    "xtrace": lambda operator, key, sampling: xtrace(operator, key, num_probes=16),
}
SETTINGS = {
    "deflated": Sampling(),
    "deflated, fixed": Sampling(min_probes=8, max_probes=8),
    "hutchinson": Sampling(tolerance=0.05, max_probes=400),
    "hutch++": Sampling(min_probes=8),
    "xtrace": Sampling(),
}


def operator(matrix, matmat=None):
    return LinearOperator(lambda vector: vector @ matrix, matmat or (lambda rows: rows @ matrix), len(matrix))


@functools.cache
def hessian(family="mlp"):
    dense = dense_hessian(family, 0, 64)
    return (dense + dense.T) / 2


@functools.partial(jax.jit, static_argnames=("method", "sampling"))
def estimates(matrix, keys, method, sampling):
    return jax.lax.map(lambda key: METHODS[method](operator(matrix), key, sampling), keys)


@functools.cache
def samples(name):
    """200 results on a real Hessian."""
    matrix = jnp.asarray(hessian(), jnp.float32)
    return estimates(matrix, jax.random.split(jax.random.key(1), 200), name.split(",")[0], SETTINGS[name])


def deviations(estimate, expected):
    value, error = (np.asarray(part, np.float64) for part in estimate)
    return (value - expected) / error


@pytest.mark.parametrize("name", SETTINGS)
def test_200_keys_are_unbiased_and_their_errors_honest(name):
    results, dense = samples(name), hessian()
    deviation = deviations(results.trace, np.trace(dense))
    assert (np.abs(deviation) < 5).mean() >= 0.99
    assert 0.90 <= (np.abs(deviation) < 2).mean() <= 0.99
    assert abs(deviation.mean()) < 0.25
    deviation = deviations(results.frobenius, np.linalg.norm(dense))
    assert (np.abs(deviation) < 5).mean() >= 0.98
    assert (np.abs(deviation) < 2).mean() >= 0.88


def test_the_default_takes_the_fewest_products():
    products = {name: np.mean(samples(name).num_products) for name in ("deflated", "hutchinson", "hutch++")}
    for name in ("deflated", "hutch++"):
        trace = samples(name).trace
        assert (np.asarray(trace.standard_error) <= 0.0201 * np.abs(trace.value)).all()
    # Eigenvalues included, and against Hutchinson's at two and a half times the error.
    assert products["deflated"] < products["hutch++"]
    assert products["deflated"] < products["hutchinson"] / 2


@pytest.mark.parametrize("method", METHODS)
def test_exact_where_the_matrix_has_low_rank(method):
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(200, 3)))
    matrix = (basis * [5.0, 2.0, -1.0]) @ basis.T
    sampling = Sampling(tolerance=0.05, max_probes=2000)
    result = estimates(jnp.asarray(matrix, jnp.float32), jax.random.split(jax.random.key(0), 2), method, sampling)
    error = np.asarray(result.trace.standard_error)
    np.testing.assert_allclose(result.trace.value, 6, atol=5 * error.max() + 1e-4)
    if method != "hutchinson":
        assert error.max() < 1e-3
        np.testing.assert_allclose(result.frobenius.value, 30**0.5, rtol=1e-4)


def test_a_small_matrix_is_taken_whole():
    matrix = jnp.asarray(np.diag(np.arange(1.0, 21)), jnp.float32)
    krylov, result = deflated_trace(operator(matrix), jax.random.key(0))
    assert float(result.trace.value) == pytest.approx(210, rel=1e-5)
    assert float(result.trace.standard_error) == 0
    assert int(result.num_products) == 20
    ritz = ritz_pairs(krylov.projected, krylov.off_diagonal, krylov.dropped, krylov.num_steps)
    np.testing.assert_allclose(ritz.values, np.arange(1.0, 21), rtol=1e-5)


def test_rounding_moves_the_default_by_little():
    """Products that differ by what execution forms differ by: a relative 2e-7."""
    matrix = jnp.asarray(hessian(), jnp.float32)

    def noisy(noise_key):
        def matmat(rows):
            # Chaotic in the input, so that every product has a rounding error of its own.
            seed = jax.lax.bitcast_convert_type(jnp.sum(rows * jnp.arange(rows.shape[1])), jnp.int32)
            products = rows @ matrix
            noise = jax.random.normal(jax.random.fold_in(noise_key, seed), products.shape) / len(matrix) ** 0.5
            return products + 2e-7 * jnp.linalg.norm(products, axis=1, keepdims=True) * noise

        return deflated_trace(operator(matrix, matmat), jax.random.key(3))[1]

    results = jax.jit(lambda keys: jax.lax.map(noisy, keys))(jax.random.split(jax.random.key(4), 20))
    assert len(np.unique(results.trace.value)) > 1
    for estimate in (results.trace.value, results.frobenius.value, results.trace.standard_error):
        assert np.ptp(estimate) <= 1e-5 * np.mean(estimate)


@pytest.mark.parametrize("method", METHODS)
def test_nan_ends_at_once(method):
    matrix = jnp.full((200, 200), jnp.nan)
    result = estimates(matrix, jax.random.split(jax.random.key(0), 2), method, Sampling())
    assert np.isnan(result.trace.value).all()
    assert (np.asarray(result.num_products) <= 32).all()
