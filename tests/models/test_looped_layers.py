"""ResNets whose layers that are alike stand in a loop: the same network in a smaller program."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec

from mdjax.engine import device_mesh
from mdjax.landscape.batches import LabelledExamples
from mdjax.landscape.loss_curvature import gauss_newton_traces, has_exact_trace
from mdjax.models import Architecture
from mdjax.models.parameters import counted
from mdjax.tasks import cross_entropy

SIDE = 8


def network(depth, variant=""):
    family = "resnet_torchvision" if variant else "resnet"
    architecture = Architecture(family, 2, (SIDE, SIDE, 3), 4, depth, variant)
    params, state = architecture.init(jax.random.key(0))
    flat, unravel = ravel_pytree((params, state))
    # BatchNorm that does something, with variances above 0.
    params, state = unravel(flat + 0.2 * jax.random.uniform(jax.random.key(1), flat.shape))
    inputs = jax.random.normal(jax.random.key(2), (6, SIDE, SIDE, 3))
    return architecture, params, state, inputs, jnp.arange(6) % 4


def outputs(model, params, state, inputs, labels):
    """Logits, and the batch's logits and statistics."""
    weights = jnp.asarray([1.0, 1, 1, 1, 1, 0])
    return model.apply(params, state, inputs), model.batch_apply(params, state, inputs, weights)


def product(model, params, state, inputs, labels):
    """One with the Hessian."""
    flat, unravel = ravel_pytree(params)

    def gradient(flat):
        return jax.grad(lambda flat: jnp.mean(cross_entropy(model.apply(unravel(flat), state, inputs), labels)))(flat)

    return jax.jvp(gradient, (flat,), (jnp.cos(jnp.arange(flat.size)),))[1]


@pytest.mark.parametrize(("depth", "variant", "found"), [(10, "", product), (18, "3x3-pool", outputs)])
def test_the_network_is_the_same(depth, variant, found):
    architecture, *arrays = network(depth, variant)
    compute = jax.jit(found, static_argnums=0)
    usual, looped = (compute(architecture.model(form), *arrays) for form in ("lax", "looped"))
    assert jax.tree.structure(looped) == jax.tree.structure(usual)
    for found, expected in zip(jax.tree.leaves(looped), jax.tree.leaves(usual), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_the_program_is_smaller():
    architecture, params, state, inputs, _ = network(18)
    programs = {}
    for form in ("lax", "looped"):
        traced = jax.make_jaxpr(architecture.model(form).apply)(params, state, inputs)
        programs[form] = str(traced).count("conv_general_dilated[")
    assert programs == {"lax": 20, "looped": 11}


def test_layers_are_looked_into_and_made_as_ever():
    architecture, params, state, inputs, _ = network(18)
    looped, usual = architecture.model("looped"), architecture.model("lax")
    for layer in ("layer2_0", "layer2_1/conv2"):
        found, expected = (model.layer_outputs(params, state, inputs, layer) for model in (looped, usual))
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    fresh = looped.module.init(jax.random.key(0), inputs)
    assert jax.tree.structure(fresh["params"]) == jax.tree.structure(params)


@pytest.mark.parametrize("frozen", [(), ("['conv1']",)])
def test_the_trace_is_exact_in_a_loop_too(frozen):
    architecture, params, state, inputs, labels = network(10)
    examples = LabelledExamples(inputs, labels, len(inputs))
    traces = []
    for form in ("lax", "looped"):
        model = dataclasses.replace(architecture.model(form), frozen=frozen)
        model, own = counted(model, params, "trainable")
        assert has_exact_trace(model, own, state, inputs), form
        traces.append(sum(jax.tree.leaves(gauss_newton_traces(model, own, state, examples))))
    np.testing.assert_allclose(traces[1], traces[0], rtol=1e-5)


@pytest.mark.parametrize("form", ["lax", "looped"])
def test_traces_of_several_models_are_made_on_a_mesh(form):
    """Where JAX refuses to batch strided convolutions over models, examples and outputs at once."""
    architecture, params, state, inputs, labels = network(10)
    four = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((4, *leaf.shape), leaf.dtype), (params, state))

    def traces(params, state):
        return gauss_newton_traces(architecture.model(form), params, state, LabelledExamples(inputs, labels, 6))

    mesh = device_mesh("2")
    over_models = jax.shard_map(
        jax.vmap(traces),
        mesh=mesh,
        axis_names={"models"},
        in_specs=PartitionSpec("models"),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    with jax.set_mesh(mesh):
        found = jax.eval_shape(over_models, *four)
    assert {leaf.shape for leaf in jax.tree.leaves(found)} == {(2,)}
