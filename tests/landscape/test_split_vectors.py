"""Vectors split over devices: the same numbers as on one, in another order, and less memory on each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import examples
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec

from mdjax.engine import Plan, Programs, device_mesh
from mdjax.landscape.loss_curvature import loss_curvature
from mdjax.landscape.split_vectors import raveled, shard_axis
from mdjax.metrics import Density
from mdjax.models import Architecture

SHAPES = {"kernel": (3, 3, 2, 8), "square": (16, 16), "bias": (8,), "odd": (5, 3), "scalar": ()}
"""The last two divide among no devices."""


def on_shards(function, *arguments, devices="1x1x8"):
    mesh = Plan(mesh=device_mesh(devices)).mesh
    with jax.set_mesh(mesh), jax.default_matmul_precision("highest"):
        specs = {"in_specs": PartitionSpec(), "out_specs": PartitionSpec(), "check_vma": False}
        return jax.jit(jax.shard_map(function, mesh=mesh, axis_names={"models"}, **specs))(*arguments)


def tree(seed=0):
    random = np.random.default_rng(seed)
    return {name: jnp.asarray(random.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}


@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 3, 2, 8), 3), ((16, 16), 0), ((8, 64), 1), ((5, 3), None), ((), None)]
)
def test_an_array_is_split_along_its_largest_axis_that_divides(shape, axis):
    assert shard_axis(shape, 8) == axis


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg"])
def test_what_is_drawn_is_the_same_vectors(kind):
    key = jax.random.key(3, impl=kind)

    def drawn(params):
        made = raveled(params)
        one, several, signs = made.vectors.normal(key), made.vectors.normal(key, 3), made.vectors.signs(key, 2)
        found = jnp.concatenate([one[None], several, signs])
        back = jax.vmap(lambda row: ravel_pytree(made.unravel(row))[0])(found)
        # What fills a vector up is zero, and so counts in no product.
        return back, jnp.sum(found**2) - jnp.sum(back**2), made.unravel(made.flat)

    found, excess, back = on_shards(drawn, tree())
    expected, *_ = jax.jit(drawn)(tree())
    np.testing.assert_array_equal(found, expected)
    assert abs(float(excess)) < 1e-3
    jax.tree.map(np.testing.assert_array_equal, back, tree())


@functools.cache
def network(width):
    architecture = Architecture("mlp", width, (8, 8, 1))
    return architecture.model(), architecture.init(jax.random.key(0))[0]


def test_products_are_those_of_one_device():
    model, params = network(12)

    def products(params, data):
        made, flat = raveled(params), ravel_pytree(params)[1]
        vectors = jax.random.normal(jax.random.key(1), (3, made.vectors.size))
        operator = loss_curvature(model, params, {}, data.train, batch_size=100)
        split = jnp.stack([made.ravel(flat(vector)) for vector in vectors])
        return jax.vmap(lambda row: ravel_pytree(made.unravel(row))[0])(operator.matmat(split))

    with jax.default_matmul_precision("highest"):
        expected = np.asarray(jax.jit(products)(params, examples(100)))
    found = np.asarray(on_shards(products, params, examples(100), devices="1x2x4"))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_memory_falls_with_the_devices():
    """Parameters, tangents and the bases of two Lanczos runs."""
    model, params = network(256)
    metric, taken = Density(num_samples=32, num_runs=2, num_steps=8), {}
    for shards in (1, 8):
        programs = Programs(Plan("map", 1, mesh=device_mesh(f"1x1x{shards}")))
        account = programs.planned(metric, model, (params, {}), examples(32), 1)[0].memory_analysis()
        taken[shards] = account.temp_size_in_bytes, account.argument_size_in_bytes
    data = sum(leaf.nbytes for leaf in jax.tree.leaves(examples(32)))
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert taken[8][0] < taken[1][0] / 5
    assert taken[8][1] - data < taken[1][1] - data - 0.8 * weights
