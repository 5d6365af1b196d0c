"""Traces and Frobenius norms: right on average, with honest standard errors, and few products."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense_hessian, digits
from jax.flatten_util import ravel_pytree

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
OTHERS = [("deflated", "cnn"), ("deflated", "smooth")]
"""Further networks, with the default."""


def operator(matrix, matmat=None):
    return LinearOperator(lambda vector: vector @ matrix, matmat or (lambda rows: rows @ matrix), len(matrix))


@functools.cache
def hessian(family="mlp"):
    dense = smooth_hessian() if family == "smooth" else dense_hessian(family, 0, 64)
    return (dense + dense.T) / 2


def smooth_hessian():
    """Of a network with tanh after some steps of gradient descent: one whose trace is sampled by default."""
    with jax.enable_x64(True):
        inputs, labels = jnp.asarray(digits().x_train[:64], jnp.float64).reshape(64, -1), digits().y_train[:64]
        sizes = {"in": (64, 8), "out": (8, 10)}
        rng = np.random.default_rng(0)
        flat, unravel = ravel_pytree({name: jnp.asarray(rng.normal(size=s) / s[0] ** 0.5) for name, s in sizes.items()})

        def loss(flat):
            weights = unravel(flat)
            scores = jax.nn.log_softmax(jnp.tanh(inputs @ weights["in"]) @ weights["out"])
            return -jnp.mean(scores[jnp.arange(64), labels])

        step = jax.grad(loss)
        flat = jax.jit(lambda flat: jax.lax.fori_loop(0, 200, lambda _, flat: flat - 0.3 * step(flat), flat))(flat)
        return np.asarray(jax.jit(jax.hessian(loss))(flat))


@functools.partial(jax.jit, static_argnames=("method", "sampling"))
def estimates(matrix, keys, method, sampling):
    return jax.lax.map(lambda key: METHODS[method](operator(matrix), key, sampling), keys)


@functools.cache
def samples(name, family="mlp"):
    """200 results on a real Hessian."""
    matrix = jnp.asarray(hessian(family), jnp.float32)
    return estimates(matrix, jax.random.split(jax.random.key(1), 200), name.split(",")[0], SETTINGS[name])


def deviations(estimate, expected):
    value, error = (np.asarray(part, np.float64) for part in estimate)
    return (value - expected) / error


@pytest.mark.parametrize(("name", "family"), [*((name, "mlp") for name in SETTINGS), *OTHERS])
def test_200_keys_are_unbiased_and_their_errors_honest(name, family):
    results, dense = samples(name, family), hessian(family)
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


def test_a_trace_that_nearly_cancels_is_sampled_to_the_norm():
    rng = np.random.default_rng(0)
    values = rng.normal(size=300)
    values += (1 - values.sum()) / 300  # trace 1, norm 17
    basis, _ = np.linalg.qr(rng.normal(size=(300, 300)))
    matrix = (basis * values) @ basis.T
    sampling = Sampling(tolerance=0.1, max_probes=3000)
    result = estimates(jnp.asarray(matrix, jnp.float32), jax.random.split(jax.random.key(0), 8), "hutchinson", sampling)
    error, norm = np.asarray(result.trace.standard_error), np.linalg.norm(values)
    # 2 ‖A‖² / (0.1 ‖A‖)² probes; to a tenth of the trace 60,000 would be.
    assert (error <= 0.1 * 1.1 * norm).all()
    assert (np.asarray(result.num_products) < 300).all()
    assert (np.abs(np.asarray(result.trace.value) - 1) < 5 * error).all()


def test_a_known_trace_leaves_only_the_norm_to_sample():
    matrix = jnp.asarray(hessian(), jnp.float32)
    known = jnp.trace(matrix)

    @jax.jit
    def run(keys):
        return jax.lax.map(lambda key: deflated_trace(operator(matrix), key, known_trace=known)[1], keys)

    result = run(jax.random.split(jax.random.key(1), 200))
    assert (result.trace.value == known).all()
    assert not result.trace.standard_error.any()
    # The least number of steps, and the probes; a sampled trace takes more.
    assert (np.asarray(result.num_products) == 17).all()
    assert np.mean(samples("deflated").num_products) > 20
    deviation = deviations(result.frobenius, np.linalg.norm(hessian()))
    assert (np.abs(deviation) < 5).mean() >= 0.98
    assert (np.abs(deviation) < 2).mean() >= 0.88


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
