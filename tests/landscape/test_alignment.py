"""Permutation symmetries derived from traces, and models aligned by them."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import digits, one, trained
from jax.sharding import Mesh, PartitionSpec
from scipy.optimize import linear_sum_assignment

from mdjax.errors import InputError
from mdjax.landscape.alignment import (
    Specification,
    aligned,
    matching,
    permuted,
    random_permutations,
    specification,
    verify,
)
from mdjax.landscape.symmetries import Layout
from mdjax.models import Architecture, FlaxModel, FunctionModel
from mdjax.models.layers import BatchNorm, Conv, dense
from mdjax.models.resnets import BasicBlock

IMAGES = jax.ShapeDtypeStruct((5, 8, 8, 1), jnp.float32)


class SmallResNet(nn.Module):
    """A stem and two blocks, one of them with a projected shortcut: ties, strides and statistics, quick to compile."""

    width: int
    convolution: str = "lax"

    @nn.compact
    def __call__(self, inputs, weights=None):
        hidden = Conv(self.width, convolution=self.convolution, name="stem")(inputs)
        hidden = nn.relu(BatchNorm(name="bn")(hidden, weights))
        hidden = BasicBlock(self.width, 1, self.convolution, name="first")(hidden, weights)
        hidden = BasicBlock(2 * self.width, 2, self.convolution, name="second")(hidden, weights)
        return dense(10, hidden.mean((1, 2)), "linear")


def network(family: str, width: int, depth: int = 0, convolution: str = "lax"):
    if family == "small resnet":
        return FlaxModel(SmallResNet(width, convolution))
    return Architecture(family, width, IMAGES.shape[1:], 10, depth).model(convolution)


def abstract(model):
    variables = jax.eval_shape(model.module.init, jax.random.key(0), IMAGES)
    return variables["params"], variables.get("batch_stats", {})


def randomised(tree, seed: int, dtype=np.float32):
    """Positive random numbers in place of every weight and statistic, so that none is alike."""
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(generator.uniform(0.2, 1.0, leaf.shape) - 0.1, dtype), tree)


def flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])


def inner_product(first, second) -> float:
    return float(flat(first) @ flat(second))


def distance(first, second) -> float:
    return float(np.linalg.norm(flat(first) - flat(second)))


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


SIZES = {
    ("mlp", 4, 0): (4, 4),
    ("mlp", 7, 3): (7, 7, 7),
    ("mlp", 3, 11): (3,) * 11,
    ("cnn", 2, 0): (2, 4, 8),
    ("cnn", 3, 2): (3, 6),
    # The stem, both sums of a stage's blocks and what they read are one group; each block's inside is another.
    ("small resnet", 3, 0): (3, 3, 6, 6),
    ("resnet18", 2, 0): (2, 2, 2, 4, 4, 4, 8, 8, 8, 16, 16, 16),
}


@pytest.mark.parametrize(("family", "width", "depth"), SIZES)
def test_groups_of_every_family_do_not_depend_on_the_form_of_the_convolution(family, width, depth):
    found = [
        specification(model, *abstract(model), IMAGES)
        for model in (network(family, width, depth, form) for form in ("lax", "patches"))
    ]
    assert found[0] == found[1]
    assert found[0].sizes == SIZES[family, width, depth]


def test_groups_come_in_the_order_of_use_and_not_of_names():
    model = network("mlp", 3, 11)
    params, state = abstract(model)
    layouts = specification(model, params, state, IMAGES).layouts
    groups = jax.tree.unflatten(jax.tree.structure(params), [layout.groups for layout in layouts])
    assert [groups[f"hidden{layer}"]["kernel"] for layer in (2, 10)] == [(1, 2), (9, 10)]


def test_every_array_next_to_a_group_is_found():
    model = network("small resnet", 3)
    params, state = abstract(model)
    found = specification(model, params, state, IMAGES)
    _, structure = jax.tree.flatten((params, state))
    params, state = jax.tree.unflatten(structure, [layout.groups for layout in found.layouts])
    spatial = (None, None)
    assert params["stem"]["kernel"] == (*spatial, 0)
    assert params["bn"] == {"bias": (0,), "scale": (0,)}
    assert state["bn"] == {"mean": (0,), "var": (0,)}
    assert params["first"]["conv1"]["kernel"] == (*spatial, 0, 1)
    assert params["first"]["conv2"]["kernel"] == (*spatial, 1, 0)
    assert params["second"]["conv1"]["kernel"] == (*spatial, 0, 2)
    assert params["second"]["shortcut_conv"]["kernel"] == (0, 3)
    assert state["second"]["shortcut_bn"] == {"mean": (3,), "var": (3,)}
    assert params["linear"] == {"bias": (None,), "kernel": (3, None)}


@pytest.mark.parametrize(
    ("family", "width", "depth"),
    [key if key[0] != "resnet18" else pytest.param(*key, marks=pytest.mark.slow) for key in SIZES],
)
def test_permuted_models_are_the_same_function(family, width, depth):
    model = network(family, width, depth)
    shapes = abstract(model)
    with jax.enable_x64(True):
        params, state = randomised(shapes, 1, np.float64)
        inputs = randomised(IMAGES, 2, np.float64)
        found = specification(model, params, state, inputs)
        reordered = permuted(found, random_permutations(found, jax.random.key(3)), params, state)
        apply = jax.jit(model.apply)
        logits, changed = apply(params, state, inputs), apply(*reordered, inputs)
    assert distance(params, reordered[0]) > 0.1
    np.testing.assert_allclose(changed, logits, rtol=1e-12)


def hidden(params, inputs):
    return jnp.tanh(inputs.reshape(len(inputs), -1) @ params["in"] / 10)


def image(params, inputs):
    return jax.lax.conv_general_dilated(
        inputs, params["in"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def pooled(params, _, inputs):
    return nn.max_pool(jax.nn.gelu(image(params, inputs)), (2, 2), (2, 2)).reshape(len(inputs), -1) @ params["out"]


def averaged(params, _, inputs):
    return nn.avg_pool(image(params, inputs), (4, 4), (4, 4)).reshape(len(inputs), -1) @ params["out"]


def layer_norm(params, _, inputs):
    units = hidden(params, inputs)
    units = (units - units.mean(-1, keepdims=True)) / jnp.sqrt(units.var(-1, keepdims=True) + 1e-5)
    return (units * params["scale"]) @ params["out"]


def group_norm(params, _, inputs):
    units = hidden(params, inputs).reshape(len(inputs), 3, 2)
    return (units / jnp.abs(units).sum(-1, keepdims=True)).reshape(len(inputs), 6) @ params["out"]


def softmax(params, _, inputs):
    return jax.nn.softmax(hidden(params, inputs)) @ params["out"]


def masked(params, _, inputs):
    return (hidden(params, inputs) * np.arange(6)) @ params["out"]


def prefix_sums(params, _, inputs):
    return jnp.cumsum(hidden(params, inputs), axis=1) @ params["out"]


def sorted_units(params, _, inputs):
    return jnp.sort(hidden(params, inputs), axis=1) @ params["out"]


def halves(params, _, inputs):
    left, right = jnp.split(hidden(params, inputs), 2, axis=1)
    return (left * right) @ params["out"][:3]


def twice(params, _, inputs):
    units = hidden(params, inputs)
    return jnp.concatenate([units, units**2], axis=1) @ params["out"]


def unequal(params, _, inputs):
    units = hidden(params, inputs)
    return jnp.concatenate([units, inputs.reshape(len(inputs), -1)], axis=1) @ params["out"]


def crossed(params, _, inputs):
    units = hidden(params, inputs)
    return (units.reshape(-1, 2, 3) + units.reshape(-1, 3, 2).transpose(0, 2, 1)).reshape(-1, 6) @ params["out"]


def residual(params, _, inputs):
    units = hidden(params, inputs)
    return jax.checkpoint(lambda units: units + jnp.maximum(units @ params["mid"], 0))(units) @ params["out"]


def unused(params, _, inputs):
    return inputs.reshape(len(inputs), -1) @ params["out"]


def looped(params, _, inputs):
    units = jax.lax.fori_loop(0, 2, lambda _, units: jnp.tanh(units @ params["mid"]), hidden(params, inputs))
    return units @ params["out"]


FUNCTIONS = [
    # function, shapes of its weights, sizes of its groups
    (pooled, {"in": (3, 3, 1, 6), "out": (96, 10)}, (6,)),
    (averaged, {"in": (3, 3, 1, 6), "out": (24, 10)}, (6,)),
    (layer_norm, {"in": (64, 6), "scale": (6,), "out": (6, 10)}, (6,)),
    (group_norm, {"in": (64, 6), "out": (6, 10)}, (3, 2)),
    (softmax, {"in": (64, 6), "out": (6, 10)}, (6,)),
    (masked, {"in": (64, 6), "out": (6, 10)}, ()),
    (prefix_sums, {"in": (64, 6), "out": (6, 10)}, ()),
    (sorted_units, {"in": (64, 6), "out": (6, 10)}, ()),
    (halves, {"in": (64, 6), "out": (6, 10)}, ()),
    (twice, {"in": (64, 6), "out": (12, 10)}, (6,)),
    (unequal, {"in": (64, 6), "out": (70, 10)}, ()),
    (residual, {"in": (64, 6), "mid": (6, 6), "out": (6, 10)}, (6,)),
    (looped, {"in": (64, 6), "mid": (6, 6), "out": (6, 10)}, ()),
    (unused, {"out": (64, 10), "spare": (5, 1)}, (5,)),
]


def shapes(sizes):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in sizes.items()}


@pytest.mark.parametrize(("function", "weights", "sizes"), FUNCTIONS, ids=lambda entry: getattr(entry, "__name__", ""))
def test_functions_by_hand_get_the_groups_they_have(function, weights, sizes):
    model = FunctionModel(function)
    with jax.enable_x64(True):
        params, inputs = randomised((shapes(weights), IMAGES), 4, np.float64)
        found = specification(model, params, {}, inputs)
        assert found.sizes == sizes
        change = max(float(verify(model, found, params, {}, inputs, jax.random.key(seed))) for seed in range(3))
    assert change < 1e-12


def test_sizes_without_a_common_index_are_left_in_order():
    params = shapes({"in": (64, 6), "out": (6, 10)})
    assert specification(FunctionModel(crossed), params, {}, IMAGES).sizes == ()


def test_a_wrong_specification_is_noticed():
    model = FunctionModel(softmax)
    params, inputs = randomised((shapes({"in": (64, 6), "out": (6, 10)}), IMAGES), 5)
    wrong = Specification((6,), (Layout((64, 6), (None, 0)), Layout((6, 10), (None, None))))
    assert verify(model, wrong, params, {}, inputs, jax.random.key(0)) > 1e-3
    right = specification(model, params, {}, inputs)
    assert verify(model, right, params, {}, inputs, jax.random.key(0)) < 1e-5


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
        first, second = (one(stacked, place) for place in pair)
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
    for place in range(len(pairs)):
        alone = align(family)(*(one(stack, place) for stack in stacks), one(state, place))
        assert_equal(one(together, place), alone)


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
