"""Curvature products, blocks and quadratic forms against dense matrices in float64, made by other code."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense_hessian, digits, one, trained
from jax.flatten_util import ravel_pytree

from mdjax.errors import InputError
from mdjax.landscape.curvature import (
    curvature_products,
    hessian_matvec,
    parameter_groups,
    quadratic_forms,
    restricted,
    second_derivative,
)
from mdjax.landscape.losses import cross_entropy

FAMILIES = ["mlp", "cnn", pytest.param("resnet10", marks=pytest.mark.slow)]
NUM_SAMPLES = 64
LOSSES = {
    "cross_entropy": cross_entropy,
    "squared_error": lambda logits, labels: jnp.sum((logits - jax.nn.one_hot(labels, 10)) ** 2, axis=1),
}


def problem(family: str, num_batches: int = 2, loss: str = "cross_entropy"):
    """(outputs, loss, params, batches) of a trained model on NUM_SAMPLES examples."""
    architecture, params, state = trained(family)
    model, state = architecture.model("patches"), one(state)
    inputs, labels = digits().x_train[:NUM_SAMPLES], digits().y_train[:NUM_SAMPLES]
    batches = inputs.reshape(num_batches, -1, *inputs.shape[1:]), labels.reshape(num_batches, -1)

    def outputs(params, batch):
        return model.apply(params, state, batch[0])

    def contribution(logits, batch):
        return jnp.sum(LOSSES[loss](logits, batch[1])) / NUM_SAMPLES

    return outputs, contribution, one(params), jax.tree.map(jnp.asarray, batches)


@functools.cache
def dense_gauss_newton(family: str, loss: str) -> np.ndarray:
    """Σ Jᵀ (∇²ℓ) J in float64 from the full Jacobian and the loss's Hessian written out by hand."""
    architecture, params, state = trained(family)
    with jax.enable_x64(True):
        params, state, inputs = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float64), (one(params), one(state), digits().x_train[:NUM_SAMPLES])
        )
        flat, unravel = ravel_pytree(params)
        model = architecture.model("lax")

        def logits(flat):
            return model.apply(unravel(flat), state, inputs)

        p = np.asarray(jax.nn.softmax(logits(flat)))
        jacobian = np.asarray(jax.jit(jax.jacrev(logits))(flat))
    matrix = np.zeros((flat.size, flat.size))
    for row, probabilities in zip(jacobian, p):
        curvature = np.diag(probabilities) - np.outer(probabilities, probabilities)
        matrix += row.T @ (curvature if loss == "cross_entropy" else 2 * np.eye(10)) @ row
    return matrix / NUM_SAMPLES


def dense(family: str, operator: str) -> np.ndarray:
    if operator == "hessian":
        return dense_hessian(family, 0, NUM_SAMPLES)
    return dense_gauss_newton(family, "cross_entropy")


def vectors(num: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(num, size)).astype(np.float32)


@pytest.mark.parametrize("family", ["mlp", "cnn"])
@pytest.mark.parametrize("operator", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("max_bytes", [2**40, 0], ids=["linearized", "recomputed"])
def test_products_blocks_and_forms_agree_with_the_dense_matrix(family, operator, max_bytes):
    matrix = dense(family, operator)
    block = vectors(3, len(matrix))

    @jax.jit
    def run(block):
        settings = {"operator": operator, "max_bytes": max_bytes, "probes_at_once": 2}
        products = curvature_products(*problem(family), **settings)
        assert products.size == len(matrix)
        return products.matvec(block[0]), products.block(block), quadratic_forms(*problem(family), **settings)(block)

    with jax.default_matmul_precision("highest"):
        single, together, forms = run(block)
    expected = block.astype(np.float64) @ matrix
    scale = np.abs(expected).max()
    np.testing.assert_allclose(together, expected, atol=1e-5 * scale)
    np.testing.assert_allclose(single, together[0], atol=1e-6 * scale)
    expected_forms = np.sum(block * expected, axis=1)
    np.testing.assert_allclose(forms, expected_forms, atol=1e-5 * np.abs(expected_forms).max())


def test_a_program_does_not_grow_with_the_number_of_batches():
    def lines(num_batches: int) -> int:
        batches = jnp.ones((num_batches, 2, 3))
        outputs, loss = lambda params, batch: jnp.tanh(batch @ params), lambda values, batch: jnp.sum(values**2)
        return len(
            jax.jit(lambda params, block: curvature_products(outputs, loss, params, batches).block(block))
            .lower(jnp.ones(3), jnp.ones((2, 3)))
            .as_text()
            .splitlines()
        )

    assert lines(100) == lines(10)


@pytest.mark.slow
@pytest.mark.parametrize("operator", ["hessian", "gauss_newton"])
def test_a_resnets_products_and_forms_agree_with_float64(operator):
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
            if operator == "hessian":
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
        products = curvature_products(*given, operator=operator)
        return products.block(block), quadratic_forms(*given, operator=operator)(block)

    with jax.default_matmul_precision("highest"):
        together, forms = run(jnp.asarray(block))
    np.testing.assert_allclose(together, expected, atol=1e-5 * np.abs(expected).max())
    wanted = np.sum(block * expected, axis=1)
    np.testing.assert_allclose(forms, wanted, atol=1e-5 * np.abs(wanted).max())


def test_the_two_operators_differ_where_the_network_is_curved():
    """Else the table above could compare one matrix with itself."""
    hessian, gauss_newton = dense("mlp", "hessian"), dense("mlp", "gauss_newton")
    assert np.linalg.norm(hessian - gauss_newton) > 0.01 * np.linalg.norm(hessian)
    assert np.linalg.eigvalsh(hessian)[0] < -1e-3 < -1e-10 < np.linalg.eigvalsh(gauss_newton)[0]


@pytest.mark.parametrize("operator", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("max_bytes", [None, 0], ids=["linearized", "recomputed"])
def test_any_loss_can_be_used(operator, max_bytes):
    outputs, loss, params, batches = problem("mlp", loss="squared_error")
    products = curvature_products(outputs, loss, params, batches, operator=operator, max_bytes=max_bytes)
    block = vectors(2, products.size)
    if operator == "gauss_newton":
        matrix = dense_gauss_newton("mlp", "squared_error")
    else:
        with jax.enable_x64(True):
            flat, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params))
            whole = jax.tree.map(jnp.concatenate, batches)
            matrix = np.asarray(jax.hessian(lambda flat: loss(outputs(unravel(flat), whole), whole))(flat))
    expected = block @ matrix
    np.testing.assert_allclose(products.block(block), expected, atol=1e-5 * np.abs(expected).max())
    forms = np.sum(block * expected, axis=1)
    computed = quadratic_forms(outputs, loss, params, batches, operator=operator, max_bytes=max_bytes)(block)
    np.testing.assert_allclose(computed, forms, atol=1e-5 * np.abs(forms).max())


@pytest.mark.parametrize("family", ["mlp", "cnn"])
def test_groups_are_the_diagonal_blocks(family):
    outputs, loss, params, batches = problem(family)
    groups = parameter_groups(params)
    assert groups.names == tuple(params)
    products = curvature_products(outputs, loss, params, batches)
    matrix = dense(family, "hessian")
    block = vectors(2, products.size)

    def within(number):
        group = restricted(products, groups.places == number)
        return group.matvec(block[0]), group.block(block)

    singles, blocks = jax.jit(lambda numbers: jax.lax.map(within, numbers))(jnp.arange(len(groups.names)))
    start = 0
    for i, name in enumerate(groups.names):
        stop = start + sum(np.size(leaf) for leaf in jax.tree.leaves(params[name]))
        expected = np.zeros(block.shape)
        expected[:, start:stop] = block[:, start:stop] @ matrix[start:stop, start:stop]
        scale = np.abs(expected).max()
        np.testing.assert_allclose(blocks[i], expected, atol=1e-5 * scale)
        np.testing.assert_allclose(singles[i], expected[0], atol=1e-5 * scale)
        start = stop
    assert start == products.size


def test_models_batched_by_vmap_equal_single_ones():
    architecture, params, _ = trained("cnn")
    model = architecture.model("patches")
    _, loss, single, batches = problem("cnn")
    block = vectors(2, ravel_pytree(single)[0].size)

    def run(params):
        given = lambda p, batch: model.apply(p, {}, batch[0]), loss, params, batches
        return curvature_products(*given).block(block), quadratic_forms(*given)(block)

    batched = jax.jit(jax.vmap(run))(params)
    expected = jax.jit(lambda params: jax.lax.map(run, params))(params)
    for values, others in zip(batched, expected):
        np.testing.assert_allclose(values, others, atol=1e-6 * np.abs(others).max())


SCALAR_FUNCTIONS = {
    "product of functions": lambda x: jnp.sum(jnp.sin(x) * x**3),
    "a value used twice": lambda x: jnp.sum(jnp.exp(x) * jnp.exp(x) / (1 + jnp.vdot(x, x))),
    "gather and reshape": lambda x: jnp.prod(x[jnp.array([0, 2, 2])]) + jnp.linalg.norm(x.reshape(2, 3) @ x[:3]),
    "a loop": lambda x: jax.lax.scan(lambda c, y: (jnp.tanh(c * y) + c, None), jnp.ones(()), x)[0],
    "a branch": lambda x: jax.lax.cond(x[0] > 0, lambda x: jnp.sum(x**2), lambda x: jnp.sum(x**4), x),
    "nested calls": lambda x: jax.jit(lambda y: jax.nn.logsumexp(jax.nn.gelu(y)) * jnp.sum(jax.nn.relu(y)))(2 * x),
    "a loop with a counter": lambda x: jax.lax.fori_loop(0, 3, lambda i, c: jnp.sin(c) * x[i], x[5]),
    "results of several types": lambda x: jnp.vdot(jax.lax.top_k(jnp.sin(x) * x, 3)[0], x[:3]) * jnp.sort(x)[0],
    "linear": lambda x: jnp.sum(3 * x),
}


@pytest.mark.parametrize("name", SCALAR_FUNCTIONS)
def test_second_derivative_is_the_quadratic_form_of_the_hessian(name):
    function = SCALAR_FUNCTIONS[name]
    point, vector = vectors(2, 6)
    with jax.enable_x64(True):
        point, vector = jnp.asarray(point, jnp.float64), jnp.asarray(vector, jnp.float64)
        expected = vector @ jax.hessian(function)(point) @ vector
        value = jax.jit(lambda point: second_derivative(function, point)(vector))(point)
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12)


def test_a_quadratic_form_takes_half_the_work_of_a_product():
    """3 matrix products a layer against 6, counted by the compiler, at a size where those are all that matters."""
    width, samples, depth = 64, 512, 6
    inputs = jnp.ones((1, samples, width))
    layers = [jnp.eye(width)] * depth

    def outputs(layers, batch):
        return functools.reduce(lambda x, layer: jnp.tanh(x @ layer), layers, batch)

    def loss(values, batch):
        return jnp.sum(values**2)

    def flops(function, num_probes):
        # One after the other in the program, because the compiler counts a loop's body once.
        program = jax.jit(lambda layers, block: [function(layers)(row) for row in block])
        block = jnp.ones((num_probes, depth * width**2))
        return program.lower(layers, block).compile().cost_analysis()["flops"]

    def product(layers):
        return curvature_products(outputs, loss, layers, inputs).matvec

    def form(layers):
        forms = quadratic_forms(outputs, loss, layers, inputs)
        return lambda row: forms(row[None])

    # The inputs have no tangent: of the first layer's products a third is left.
    matmul = 2 * samples * width**2
    assert flops(product, 3) - flops(product, 2) == pytest.approx((6 * depth - 4) * matmul, rel=0.1)
    assert flops(form, 3) - flops(form, 2) == pytest.approx((3 * depth - 2) * matmul, rel=0.1)


def test_hessian_matvec_is_the_same_product():
    outputs, loss, params, batches = problem("mlp")
    matvec, size = hessian_matvec(lambda params, batch: loss(outputs(params, batch), batch), params, batches)
    (vector,) = vectors(1, size)
    expected = vector @ dense("mlp", "hessian")
    np.testing.assert_allclose(matvec(vector), expected, atol=1e-5 * np.abs(expected).max())


def test_an_unknown_operator_is_refused():
    with pytest.raises(InputError, match="Unknown operator 'fisher'. Choose one of hessian, gauss_newton"):
        curvature_products(*problem("mlp"), operator="fisher")  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_the_benchmark_of_convolution_forms_runs():
    script = Path(__file__).parents[2] / "bench" / "convolutions.py"
    done = subprocess.run([sys.executable, str(script), "--smoke"], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert len(result["rows"]) == 2 * 4
    assert all(row["products_per_second"] > 0 for row in result["rows"])
    assert set(result["best"]) == {"1"}
