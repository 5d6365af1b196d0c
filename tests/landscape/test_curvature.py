"""Curvature operators against dense matrices in float64, made by other code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_problems import NUM_SAMPLES, dense, dense_gauss_newton, problem, vectors
from helpers import digits, one, trained
from jax.flatten_util import ravel_pytree

from mdjax.errors import InputError
from mdjax.landscape.curvature import curvature_operator, parameter_groups, restricted
from mdjax.landscape.limits import ProductLimits
from mdjax.landscape.quadratic_forms import quadratic_forms


@pytest.mark.parametrize("family", ["mlp", "cnn"])
@pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("residual_bytes", [2**40, 0], ids=["kept", "recomputed"])
def test_products_and_forms_agree_with_the_dense_matrix(family, matrix, residual_bytes):
    entries = dense(family, matrix)
    block = vectors(3, len(entries))

    @jax.jit
    def run(block):
        settings = {"matrix": matrix, "limits": ProductLimits(residual_bytes, vectors_at_once=2)}
        operator = curvature_operator(*problem(family), **settings)
        assert operator.size == len(entries)
        return operator.matvec(block[0]), operator.matmat(block), quadratic_forms(*problem(family), **settings)(block)

    with jax.default_matmul_precision("highest"):
        single, together, forms = run(block)
    expected = block.astype(np.float64) @ entries
    scale = np.abs(expected).max()
    np.testing.assert_allclose(together, expected, atol=1e-5 * scale)
    np.testing.assert_allclose(single, together[0], atol=1e-6 * scale)
    expected_forms = np.sum(block * expected, axis=1)
    np.testing.assert_allclose(forms, expected_forms, atol=1e-5 * np.abs(expected_forms).max())


@pytest.mark.slow
@pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])
def test_a_resnets_products_and_forms_agree_with_float64(matrix):
    """Against products in float64 through XLA's own convolutions: the whole matrix would take minutes."""
    architecture, params, state = trained("resnet10")
    with jax.enable_x64(True):
        params64, state64, inputs = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float64), (one(params), one(state), digits().x_train[:NUM_SAMPLES])
        )
        flat, unravel = ravel_pytree(params64)
        labels = jax.nn.one_hot(digits().y_train[:NUM_SAMPLES], 10)

        def logits(flat):
            return architecture.model("lax").apply(unravel(flat), state64, inputs)

        def loss(values):
            return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(values), -1))

        def product(vector):
            if matrix == "hessian":
                return jax.jvp(jax.grad(lambda flat: loss(logits(flat))), (flat,), (vector,))[1]
            values, tangent = jax.jvp(logits, (flat,), (vector,))
            p = jax.nn.softmax(values)
            curved = (p * tangent - p * jnp.sum(p * tangent, -1, keepdims=True)) / NUM_SAMPLES
            return jax.vjp(logits, flat)[1](curved)[0]

        block = vectors(3, flat.size)
        expected = np.stack([np.asarray(jax.jit(product)(jnp.asarray(v, jnp.float64))) for v in block])

    @jax.jit
    def run(block):
        given = problem("resnet10", num_batches=1)
        return curvature_operator(*given, matrix=matrix).matmat(block), quadratic_forms(*given, matrix=matrix)(block)

    with jax.default_matmul_precision("highest"):
        together, forms = run(jnp.asarray(block))
    np.testing.assert_allclose(together, expected, atol=1e-5 * np.abs(expected).max())
    wanted = np.sum(block * expected, axis=1)
    np.testing.assert_allclose(forms, wanted, atol=1e-5 * np.abs(wanted).max())


def test_the_two_matrices_differ_where_the_network_is_curved():
    """Else the table above could compare one matrix with itself."""
    hessian, gauss_newton = dense("mlp", "hessian"), dense("mlp", "gauss_newton")
    assert np.linalg.norm(hessian - gauss_newton) > 0.01 * np.linalg.norm(hessian)
    assert np.linalg.eigvalsh(hessian)[0] < -1e-3 < -1e-10 < np.linalg.eigvalsh(gauss_newton)[0]


@pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("limits", [None, ProductLimits(residual_bytes=0)], ids=["kept", "recomputed"])
def test_any_loss_can_be_used(matrix, limits):
    outputs, loss, params, batches = problem("mlp", loss="squared_error")
    operator = curvature_operator(outputs, loss, params, batches, matrix=matrix, limits=limits)
    block = vectors(2, operator.size)
    if matrix == "gauss_newton":
        entries = dense_gauss_newton("mlp", "squared_error")
    else:
        with jax.enable_x64(True):
            flat, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params))
            whole = jax.tree.map(jnp.concatenate, batches)
            entries = np.asarray(jax.hessian(lambda flat: loss(outputs(unravel(flat), whole), whole))(flat))
    expected = block @ entries
    np.testing.assert_allclose(operator.matmat(block), expected, atol=1e-5 * np.abs(expected).max())
    forms = np.sum(block * expected, axis=1)
    computed = quadratic_forms(outputs, loss, params, batches, matrix=matrix, limits=limits)(block)
    np.testing.assert_allclose(computed, forms, atol=1e-5 * np.abs(forms).max())


@pytest.mark.parametrize("family", ["mlp", "cnn"])
def test_groups_are_the_diagonal_blocks(family):
    outputs, loss, params, batches = problem(family)
    groups = parameter_groups(params)
    assert groups.names == tuple(params)
    operator = curvature_operator(outputs, loss, params, batches)
    entries = dense(family, "hessian")
    block = vectors(2, operator.size)

    def within(number):
        group = restricted(operator, groups.indices == number)
        return group.matvec(block[0]), group.matmat(block)

    singles, blocks = jax.jit(lambda numbers: jax.lax.map(within, numbers))(jnp.arange(len(groups.names)))
    start = 0
    for i, name in enumerate(groups.names):
        stop = start + sum(np.size(leaf) for leaf in jax.tree.leaves(params[name]))
        expected = np.zeros(block.shape)
        expected[:, start:stop] = block[:, start:stop] @ entries[start:stop, start:stop]
        scale = np.abs(expected).max()
        np.testing.assert_allclose(blocks[i], expected, atol=1e-5 * scale)
        np.testing.assert_allclose(singles[i], expected[0], atol=1e-5 * scale)
        start = stop
    assert start == operator.size


def test_models_batched_by_vmap_equal_single_ones():
    architecture, params, _ = trained("cnn")
    model = architecture.model("patches")
    _, loss, single, batches = problem("cnn")
    block = vectors(2, ravel_pytree(single)[0].size)

    def run(params):
        given = lambda p, batch: model.apply(p, {}, batch[0]), loss, params, batches
        return curvature_operator(*given).matmat(block), quadratic_forms(*given)(block)

    batched = jax.jit(jax.vmap(run))(params)
    expected = jax.jit(lambda params: jax.lax.map(run, params))(params)
    for values, others in zip(batched, expected):
        np.testing.assert_allclose(values, others, atol=1e-6 * np.abs(others).max())


@pytest.mark.parametrize("function", [curvature_operator, quadratic_forms])
def test_an_unknown_matrix_is_refused(function):
    with pytest.raises(InputError, match="Unknown curvature matrix 'fisher'. Choose one of hessian, gauss_newton"):
        function(*problem("mlp"), matrix="fisher")
