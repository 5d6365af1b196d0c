"""Convolutions that XLA compiles wrongly for CPUs are written in another order, and nothing else is touched."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from mdjax.engine import Stack, measure, programs
from mdjax.engine.convolutions import is_unsafe, with_safe_convolutions
from mdjax.engine.plan import Plan
from mdjax.engine.programs import Programs
from mdjax.metrics import Density, Examples, Hessian
from mdjax.models import FunctionModel

NCHW, NHWC = ("NCHW", "OIHW", "NCHW"), ("NHWC", "HWIO", "NHWC")


def convolved(images, kernel, numbers, pad=1, stride=1):
    return jax.lax.conv_general_dilated(images, kernel, (stride,) * 2, ((pad, pad),) * 2, dimension_numbers=numbers)


def channels_first(params, _, inputs):
    hidden = jnp.tanh(convolved(inputs.transpose(0, 3, 1, 2), params["k"].transpose(3, 2, 0, 1), NCHW))
    return hidden.mean((2, 3)) @ params["out"]


def examples_last(params, _, inputs):
    hidden = jnp.tanh(
        convolved(inputs.transpose(3, 1, 2, 0), params["k"].transpose(2, 0, 1, 3), ("CHWN", "IHWO", "CHWN"))
    )
    return hidden.mean((1, 2)).T @ params["out"]


def strided(params, _, inputs):
    hidden = jnp.tanh(convolved(inputs.transpose(0, 3, 1, 2), params["k"], ("NCHW", "HWIO", "NHWC"), 2, 2))
    return hidden.mean((1, 2)) @ params["out"]


def channels_last(params, _, inputs):
    return jnp.tanh(convolved(inputs, params["k"], NHWC)).mean((1, 2)) @ params["out"]


def channels_last_strided(params, _, inputs):
    return jnp.tanh(convolved(inputs, params["k"], NHWC, 2, 2)).mean((1, 2)) @ params["out"]


TWINS = [(channels_first, channels_last), (examples_last, channels_last), (strided, channels_last_strided)]


def arrays(channels=1):
    generator = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(generator.normal(size=shape), jnp.float32)

    inputs, labels = normal(64, 16, 16, 1), jnp.arange(64) % 3
    data = Examples(inputs, labels, jnp.asarray(64), inputs[:5], labels[:5])
    return {"k": normal(3, 3, 1, channels), "out": normal(channels, 3)}, data


def operations(jaxpr):
    """All operations of a jaxpr and of those inside its operations."""
    for operation in jaxpr.eqns:
        yield operation
        for value in operation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    yield from operations(getattr(inner, "jaxpr", inner))


def program(function, params, data, loop=True):
    """Products with the Hessian of the mean output in a loop, as a metric takes them."""

    def products(params, inputs):
        _, product = jax.linearize(jax.grad(lambda params: jnp.mean(function(params, {}, inputs) ** 2)), params)
        if not loop:
            return product(params)
        branch = jax.lax.cond(inputs[0, 0, 0, 0] > 0, lambda p: p, lambda p: product(p), params)
        return jax.lax.map(product, jax.tree.map(lambda a, b: jnp.stack([a, 2 * a, b]), params, branch))

    return jax.make_jaxpr(products)(params, data.x_train)


@pytest.mark.parametrize(("function", "twin"), TWINS, ids=lambda function: function.__name__)
def test_no_unsafe_convolution_is_left_and_the_numbers_are_those_of_the_usual_order(function, twin):
    params, data = arrays()
    unsafe = program(function, params, data)
    assert any(map(is_unsafe, operations(unsafe.jaxpr)))
    safe = with_safe_convolutions(unsafe)
    assert not any(map(is_unsafe, operations(safe.jaxpr)))
    expected = jax.jit(jax.extend.core.jaxpr_as_fun(program(twin, params, data)))(
        *jax.tree.leaves(params), data.x_train
    )
    found = jax.jit(jax.extend.core.jaxpr_as_fun(safe))(*jax.tree.leaves(params), data.x_train)
    for leaf, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(leaf, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("function", [channels_first, channels_last])
def test_other_programs_stay_the_same_object(function):
    params, data = arrays(channels=4)
    if function is channels_last:
        params, _ = arrays()
    made = program(function, params, data)
    assert with_safe_convolutions(made) is made


@pytest.mark.parametrize(
    "metric", [Density(num_runs=2, num_steps=4), Hessian(max_steps=6)], ids=lambda metric: metric.name
)
@pytest.mark.parametrize("plan", [Plan("vmap", 1), Plan("map", 2)], ids=["single", "map"])
def test_the_engine_compiles_none_of_them(metric, plan, monkeypatch):
    params, data = arrays()
    seen = []
    monkeypatch.setattr(
        programs, "with_safe_convolutions", lambda made: seen.append(with_safe_convolutions(made)) or seen[-1]
    )
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    rows = [measured_rows(metric, function, stacked, data, plan) for function in (channels_first, channels_last)]
    assert seen
    assert not any(is_unsafe(operation) for made in seen for operation in operations(made.jaxpr))
    for row, expected in zip(*rows, strict=True):
        for column in ("hessian_eigenvalue", "hessian_trace") if metric.name == "hessian" else ("density_moments",):
            np.testing.assert_allclose(row[column], expected[column], rtol=1e-4)


def measured_rows(metric, function, stacked, data, plan):
    stack = Stack(FunctionModel(function), stacked, {}, ["a", "b"])
    return measure(metric, stack, data, programs=Programs(plan))
