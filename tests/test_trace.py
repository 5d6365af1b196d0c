"""The deflated trace: right on average, with an honest standard error, and few products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdjax.krylov import lanczos
from mdjax.trace import deflated_trace

SIZE = 300
SPECTRUM = np.r_[np.linspace(-0.05, 0.2, SIZE - 10), np.geomspace(1, 50, 10)]


@pytest.fixture(scope="module")
def matrix():
    basis, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(SIZE, SIZE)))
    return jnp.asarray((basis * SPECTRUM) @ basis.T, jnp.float32)


def estimate(matrix, key, *, num_deflated=12, **options):
    options = {"min_probes": 10, "max_probes": 400, "tolerance": 0.02} | options
    start_key, probe_key = jax.random.split(key)
    krylov = lanczos(
        lambda v: matrix @ v,
        jax.random.normal(start_key, (SIZE,)),
        min_steps=num_deflated,
        max_steps=num_deflated,
        tolerance=1e-3,
    )
    return deflated_trace(lambda v: matrix @ v, krylov.basis, jnp.sum(krylov.alpha), probe_key, **options)


def test_200_keys_are_unbiased_and_their_errors_honest(matrix):
    keys = jax.random.split(jax.random.key(1), 200)
    # A fixed number of probes: stopping by the error itself favours small errors.
    results = jax.jit(jax.vmap(lambda key: estimate(matrix, key, min_probes=30, max_probes=30)))(keys)
    value = np.asarray(results.estimate.value, np.float64)
    error = np.asarray(results.estimate.standard_error, np.float64)
    deviation = (value - SPECTRUM.sum()) / error
    assert (np.abs(deviation) < 5).mean() >= 0.99
    assert 0.90 <= (np.abs(deviation) < 2).mean() <= 0.99
    assert abs(deviation.mean()) < 0.25


def test_reaches_the_wanted_error_with_fewer_products_than_hutchinson(matrix):
    deflated = estimate(matrix, jax.random.key(2))
    plain = estimate(matrix, jax.random.key(2), num_deflated=1, max_probes=2000)
    for result in (deflated, plain):
        assert float(result.estimate.standard_error) <= 0.02 * float(result.estimate.value)
        assert float(result.estimate.value) == pytest.approx(
            SPECTRUM.sum(), abs=5 * float(result.estimate.standard_error)
        )
    assert int(deflated.num_products) + 12 < int(plain.num_products) / 5


def test_fully_deflated_matrix_is_exact():
    matrix = jnp.zeros((SIZE, SIZE)).at[0, 0].set(3.0)
    result = estimate(matrix, jax.random.key(0), num_deflated=4)
    assert float(result.estimate.value) == pytest.approx(3, rel=1e-5)
    assert float(result.estimate.standard_error) == pytest.approx(0, abs=1e-5)
    assert int(result.num_products) == 10


def test_nan_ends_at_once(matrix):
    result = estimate(matrix * jnp.nan, jax.random.key(0))
    assert np.isnan(float(result.estimate.value))
    assert int(result.num_products) == 10
