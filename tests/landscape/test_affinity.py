"""Which networks are affine in each array of their parameters, and what their traces are then."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_problems import NUM_SAMPLES, TASKS, dense_gauss_newton
from helpers import dense_hessian, examples, one, trained

from mdjax.landscape.affinity import is_affine_in_each
from mdjax.landscape.loss_curvature import gauss_newton_traces, has_exact_trace
from mdjax.models import Architecture, FunctionModel, sequence
from mdjax.tasks import Classification, Task

W = {"a": jnp.ones((4, 4)), "b": jnp.ones((4, 4)), "c": jnp.ones(4)}
X = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4)), jnp.float32)


@jax.custom_vjp
def own_backward_pass(x):
    return 2 * x


own_backward_pass.defvjp(lambda x: (2 * x, None), lambda _, cotangent: (2 * cotangent,))

AFFINE = {
    "layers with ReLUs": lambda w, x: jax.nn.relu(x @ w["a"] + w["c"]) @ w["b"],
    "a residual connection": lambda w, x: x @ w["a"] + jax.nn.relu(x @ w["a"] * w["c"]) @ w["b"],
    "maxima, slices and sums": lambda w, x: jnp.max((x @ w["a"])[:, None, 1:] + w["c"][0], axis=1).sum(1),
    "nested calls": lambda w, x: jax.jit(lambda v: jnp.abs(v @ w["b"]))(x @ w["a"]),
    "a scale by stored statistics": lambda w, x: (x @ w["a"] - 0.1) * jax.lax.rsqrt(0.3 + 0 * X[0]) * w["c"],
    "a nonlinearity of the inputs alone": lambda w, x: jnp.tanh(x) @ w["a"],
}
CURVED = {
    "a smooth nonlinearity": lambda w, x: jax.nn.gelu(x @ w["a"]) @ w["b"],
    "tied layers": lambda w, x: jax.nn.relu(x @ w["a"]) @ w["a"],
    "a square": lambda w, x: x * w["c"] ** 2,
    "a normalised weight": lambda w, x: x @ (w["a"] / jnp.linalg.norm(w["a"])),
    "normalisation by the layer's own statistics": lambda w, x: (x @ w["a"]) / jnp.std(x @ w["a"], 1, keepdims=True),
    "attention": lambda w, x: jax.nn.softmax((x @ w["a"]) @ (x @ w["b"]).T) @ x,
    "a gate": lambda w, x: (x @ w["a"]) * jax.nn.relu(x @ w["a"]),
    "a loop over the same weights": lambda w, x: jax.lax.fori_loop(0, 3, lambda _, y: y @ w["a"], x),
    "a bend in a nested call": lambda w, x: jax.jit(jnp.sin)(x @ w["a"]),
}


@pytest.mark.parametrize("name", AFFINE)
def test_affine_in_each(name):
    assert is_affine_in_each(AFFINE[name], W, X)
    assert bends(AFFINE[name]) == []


@pytest.mark.parametrize("name", CURVED)
def test_curved_in_one(name):
    assert not is_affine_in_each(CURVED[name], W, X)
    assert bends(CURVED[name])


def test_what_cannot_be_asked_counts_as_curved():
    assert not is_affine_in_each(lambda w, x: own_backward_pass(x @ w["a"]), W, X)


def bends(function):
    """The arrays along which some output has a second derivative."""
    found = []
    for key, leaf in W.items():
        tangent = jnp.asarray(np.random.default_rng(0).normal(size=leaf.shape), jnp.float32)

        def slope(leaf, key=key, tangent=tangent):
            return jax.jvp(lambda leaf: function(W | {key: leaf}, X), (leaf,), (tangent,))[1]

        if np.any(jax.jvp(slope, (leaf,), (tangent,))[1]):
            found.append(key)
    return found


FAMILIES = [
    Architecture("mlp", 4, (8, 8, 1)),
    Architecture("cnn", 2, (8, 8, 1)),
    Architecture("resnet18", 1, (8, 8, 1)),
    Architecture("vgg", 4, (32, 32, 3), depth=16, variant="bn"),
    Architecture("preresnet", 1, (8, 8, 1), depth=8),
]


@pytest.mark.parametrize("architecture", FAMILIES, ids=lambda architecture: architecture.family)
@pytest.mark.parametrize("convolution", ["patches", "lax"])
def test_families_with_relus_have_exact_traces(architecture, convolution):
    params, state = architecture.abstract
    inputs = jnp.zeros((1, *architecture.input_shape))
    assert has_exact_trace(architecture.model(convolution), params, state, inputs)


def test_others_have_not():
    smooth = sequence("flatten dense8 tanh dense10", (8, 8, 1))
    params, state = smooth.abstract
    inputs = jnp.zeros((1, 8, 8, 1))
    assert not has_exact_trace(smooth.model(), params, state, inputs)
    assert has_exact_trace(smooth.model(), params, state, inputs, matrix="gauss_newton")
    wide = FunctionModel(lambda params, _, inputs: inputs @ params)
    shape = jax.ShapeDtypeStruct((4, 129), jnp.float32)
    assert not has_exact_trace(wide, shape, {}, X, matrix="gauss_newton")


def test_exact_traces_are_those_of_the_dense_hessian():
    architecture, params, state = trained("mlp")
    params, state, model = one(params), one(state), architecture.model()
    data = examples().train
    # What comes after the examples that count has no part in it.
    sample = dataclasses.replace(data, num_examples=NUM_SAMPLES).first(75)
    traces = jax.jit(lambda params, state: gauss_newton_traces(model, params, state, sample))(params, state)
    diagonal, start = np.diag(dense_hessian("mlp", 0, NUM_SAMPLES)), 0
    for found, leaf in zip(jax.tree.leaves(traces), jax.tree.leaves(params), strict=True):
        assert float(found) == pytest.approx(diagonal[start : start + leaf.size].sum(), rel=1e-5)
        start += leaf.size


def test_traces_of_any_loss():
    architecture, params, state = trained("mlp")
    given, sample = (architecture.model(), one(params), one(state)), examples().train.first(64)
    for name, task in TASKS.items():
        traces = gauss_newton_traces(*given, dataclasses.replace(sample, task=task))
        expected = np.trace(dense_gauss_newton("mlp", name))
        assert sum(map(float, jax.tree.leaves(traces))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", [Classification, Task], ids=["own", "any"])
def test_factors_make_the_losses_second_derivative(kind):
    logits, label = jnp.asarray([0.3, -2.0, 12.0, 1.0]), jnp.asarray(2)
    weights, vectors = kind.curvature_factors(Classification(), logits, label)
    p = np.exp(np.asarray(logits, np.float64))
    p /= p.sum()
    # Where the network is sure, 1 − p is all rounding in float32, unless it is taken as the sum of the others.
    rtol, atol = (1e-5, 1e-12) if kind is Classification else (0, 1e-7)
    expected = np.diag(p) - np.outer(p, p)
    expected[2, 2] = p[2] * (p[0] + p[1] + p[3])
    np.testing.assert_allclose(vectors.T @ (weights[:, None] * vectors), expected, rtol=rtol, atol=atol)
