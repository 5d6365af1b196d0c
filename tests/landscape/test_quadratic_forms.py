"""Quadratic forms by the second-order chain rule: exact, and at half a product's cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_problems import vectors

from mdjax.landscape.curvature import curvature_operator
from mdjax.landscape.quadratic_forms import quadratic_forms, second_derivative

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
        return curvature_operator(outputs, loss, layers, inputs).matvec

    def form(layers):
        forms = quadratic_forms(outputs, loss, layers, inputs)
        return lambda row: forms(row[None])

    # The inputs have no tangent: of the first layer's products a third is left.
    matmul = 2 * samples * width**2
    assert flops(product, 3) - flops(product, 2) == pytest.approx((6 * depth - 4) * matmul, rel=0.1)
    assert flops(form, 3) - flops(form, 2) == pytest.approx((3 * depth - 2) * matmul, rel=0.1)
