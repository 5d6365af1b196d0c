"""Models aligned by permutations of their hidden units."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import digits, one, trained
from jax.sharding import Mesh, PartitionSpec
from permutable_networks import (
    FUNCTIONS,
    IMAGES,
    abstract,
    distance,
    flat,
    masked,
    network,
    randomised,
    residual,
    shapes,
    softmax,
    unequal,
)
from scipy.optimize import linear_sum_assignment

from mdjax.errors import InputError
from mdjax.landscape.alignment import aligned, matching, permuted, random_permutations, specification
from mdjax.models import FunctionModel


def inner_product(first, second) -> float:
    return float(flat(first) @ flat(second))


def assert_equal(first, second) -> None:
    jax.tree.map(np.testing.assert_array_equal, first, second)


@functools.cache
def align(family: str, batching: str = "single"):
    """The compiled alignment of two models (or of stacks of models) of a family as `trained` makes them."""
    model = trained(family)[0].model("patches")
    inputs = jax.ShapeDtypeStruct((1, *digits().x_train.shape[1:]), jnp.float32)

    def pair(first, second, state):
        return aligned(model, first, second, state, inputs)

    def pairs(*stacks):
        return jax.lax.map(lambda members: pair(*members), stacks)

    if batching == "sharded":
        # As the engine does: the models' loops run apart, a "data" axis is the compiler's.
        mesh, split = Mesh(np.array(jax.devices()).reshape(4, 2), ("models", "data")), PartitionSpec("models")
        pairs = jax.shard_map(pairs, mesh=mesh, axis_names={"models"}, in_specs=split, out_specs=split, check_vma=False)
    return jax.jit({"single": pair, "vmap": jax.vmap(pair)}.get(batching, pairs))


@pytest.mark.parametrize("family", ["mlp", "cnn", pytest.param("resnet10", marks=pytest.mark.slow)])
def test_a_permuted_copy_is_recovered_exactly(family):
    architecture, params, state = trained(family)
    params, state = one((params, state))
    inputs = jnp.asarray(digits().x_train[:20])
    found = specification(architecture.model(), params, state, inputs)
    for seed in range(3):
        copy = permuted(found, random_permutations(found, jax.random.key(seed)), params, state)
        assert distance(params, copy[0]) > 0.1
        assert_equal(align(family)(params, *copy), (params, state))


def test_statistics_move_with_their_channels():
    model = network("small resnet", 3)
    params, state = randomised(abstract(model), 6)
    found = specification(model, params, state, IMAGES)
    copy = permuted(found, random_permutations(found, jax.random.key(1)), params, state)
    assert distance(state, copy[1]) > 0.1
    recovered = jax.jit(lambda *pair: aligned(model, *pair, IMAGES))(params, *copy)
    assert_equal(recovered, (params, state))


@pytest.mark.parametrize("family", ["mlp", "cnn"])
def test_trained_models_come_closer_and_stay_what_they_are(family):
    architecture, stacked, state = trained(family)
    first, second = one(stacked, 0), one(stacked, 1)
    matched, _ = align(family)(first, second, one(state, 1))
    assert inner_product(first, matched) > inner_product(first, second)
    assert distance(first, matched) < 0.95 * distance(first, second)
    apply, inputs = architecture.model("lax").apply, jnp.asarray(digits().x_test[:50])
    np.testing.assert_allclose(
        apply(matched, one(state, 1), inputs), apply(second, one(state, 1), inputs), rtol=1e-4, atol=1e-5
    )
    assert_equal(align(family)(first, first, one(state))[0], first)
    assert_equal(align(family)(first, matched, one(state, 1))[0], matched)


def test_weight_matching_agrees_with_a_reference_in_float64():
    """Coordinate ascent on the MLP by scipy, its symmetries typed in by hand."""
    _, stacked, state = trained("mlp")
    for pair in ((0, 1), (2, 0), (1, 2)):
        first, second = (one(stacked, index) for index in pair)
        layers = ["hidden0", "hidden1", "linear"]
        kernels = [[np.asarray(params[name]["kernel"], np.float64) for name in layers] for params in (first, second)]
        biases = [[np.asarray(params[name]["bias"], np.float64) for name in layers] for params in (first, second)]
        orders = [np.arange(len(kernel)) for kernel in kernels[0]] + [np.arange(10)]
        for _ in range(50):
            for layer in (1, 2):
                incoming = kernels[1][layer - 1][orders[layer - 1]]
                outgoing = kernels[1][layer][:, orders[layer + 1]]
                similarity = (
                    kernels[0][layer - 1].T @ incoming
                    + np.outer(biases[0][layer - 1], biases[1][layer - 1])
                    + kernels[0][layer] @ outgoing.T
                )
                orders[layer] = linear_sum_assignment(similarity, maximize=True)[1]
        expected = {
            name: {
                "kernel": kernels[1][layer][orders[layer]][:, orders[layer + 1]],
                "bias": biases[1][layer][orders[layer + 1]],
            }
            for layer, name in enumerate(layers)
        }
        assert_equal(align("mlp")(first, second, one(state))[0], expected)


def test_no_order_of_a_group_is_better_than_the_one_found():
    """At the optimum each group's assignment is the best there is, by scipy in float64; 40 units, unlike any power."""
    model = FunctionModel(softmax)
    sizes = shapes({"in": (64, 40), "out": (40, 10)})
    first, second = randomised(sizes, 7), randomised(sizes, 8)
    found = specification(model, first, {}, IMAGES)
    (order,) = jax.jit(lambda *pair: matching(found, *pair))(first, second)
    similarity = sum(
        np.asarray(a, np.float64) @ np.asarray(b, np.float64).T
        for a, b in ((first["in"].T, second["in"].T), (first["out"], second["out"]))
    )
    best = similarity[linear_sum_assignment(similarity, maximize=True)].sum()
    # Weights are rounded to 11 and 13 bits for the match.
    assert similarity[np.arange(40), order].sum() == pytest.approx(best, rel=1e-5)


def test_models_in_float64_are_aligned_as_well():
    model = FunctionModel(softmax)
    sizes = shapes({"in": (64, 6), "out": (6, 10)})
    with jax.enable_x64(True):
        params = randomised(sizes, 12, np.float64)
        found = specification(model, params, {}, IMAGES)
        copy = permuted(found, random_permutations(found, jax.random.key(2)), params, {})
        recovered, _ = jax.jit(lambda *pair: aligned(model, *pair, IMAGES))(params, *copy)
        assert distance(params, copy[0]) > 0.1
        assert_equal(recovered, params)


@pytest.mark.parametrize("seed", range(4))
def test_a_group_on_both_axes_of_an_array_never_loses(seed):
    model = FunctionModel(residual)
    sizes = shapes({"in": (64, 6), "mid": (6, 6), "out": (6, 10)})
    first, second = randomised(sizes, seed), randomised(sizes, seed + 50)
    # Mostly the quadratic term, where matching each axis by itself can go wrong.
    first, second = ({**params, "mid": 30 * params["mid"]} for params in (first, second))
    matched, _ = _align_residual(first, second)
    assert inner_product(first, matched) >= inner_product(first, second)
    assert distance(_align_residual(first, first)[0], first) == 0
    np.testing.assert_allclose(
        model.apply(matched, {}, jnp.ones(IMAGES.shape)), model.apply(second, {}, jnp.ones(IMAGES.shape)), rtol=1e-4
    )


@jax.jit
def _align_residual(first, second):
    return aligned(FunctionModel(residual), first, second, {}, IMAGES)


@pytest.mark.parametrize(
    ("family", "batching"), [("mlp", "vmap"), ("mlp", "map"), ("mlp", "sharded"), ("cnn", "vmap"), ("cnn", "sharded")]
)
def test_every_form_of_execution_gives_the_same_permutations(family, batching):
    _, params, state = trained(family, 4)
    pairs = [(0, 1), (1, 2), (2, 3), (3, 3)]
    stacks = [jax.tree.map(lambda leaf: leaf[np.array([pair[side] for pair in pairs])], params) for side in (0, 1)]
    together = align(family, batching)(*stacks, state)
    for index in range(len(pairs)):
        alone = align(family)(*(one(stack, index) for stack in stacks), one(state, index))
        assert_equal(one(together, index), alone)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_broken_weights_neither_hang_nor_harm_the_neighbour(value):
    _, params, state = trained("mlp", 4)
    broken = jax.tree.map(lambda leaf: leaf.at[1].set(value), jax.tree.map(jnp.asarray, params))
    turned = jax.tree.map(lambda leaf: jnp.roll(leaf, 1, 0), params)
    matched, _ = align("mlp", "vmap")(turned, broken, state)
    assert all(
        np.array_equal(leaf[1], np.full(leaf.shape[1:], np.float32(value)), True) for leaf in jax.tree.leaves(matched)
    )
    expected, _ = align("mlp")(one(turned, 2), one(params, 2), one(state, 2))
    assert_equal(one(matched, 2), expected)


def test_one_broken_unit_goes_last_and_the_others_are_matched():
    model = FunctionModel(softmax)
    params = randomised(shapes({"in": (64, 6), "out": (6, 10)}), 9)
    found = specification(model, params, {}, IMAGES)
    copy, _ = permuted(found, (jnp.array([3, 1, 0, 5, 4, 2]),), params, {})
    copy["in"] = copy["in"].at[:, 1].set(jnp.nan)
    (order,) = matching(found, params, copy)
    np.testing.assert_array_equal(order, [2, 1, 5, 0, 4, 3])


@pytest.mark.parametrize("function", [masked, unequal])
def test_a_model_without_hidden_units_is_returned_as_it_is(function):
    weights = next(weights for known, weights, _ in FUNCTIONS if known is function)
    first, second = randomised(shapes(weights), 10), randomised(shapes(weights), 11)
    assert_equal(aligned(FunctionModel(function), first, second, {}, IMAGES), (second, {}))


def test_models_of_different_shapes_are_refused():
    model = FunctionModel(softmax)
    first = randomised(shapes({"in": (64, 6), "out": (6, 10)}), 0)
    second = randomised(shapes({"in": (64, 7), "out": (7, 10)}), 0)
    with pytest.raises(InputError, match=r"\['in'\] is \(64, 6\) in the first and \(64, 7\) in the second"):
        aligned(model, first, second, {}, IMAGES)
    with pytest.raises(InputError, match=r"\['out'\] is \(6, 10\) in the first and missing in the second"):
        aligned(model, first, {"in": first["in"]}, {}, IMAGES)
