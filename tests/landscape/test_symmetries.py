"""Permutation symmetries derived from traces."""

import jax
import numpy as np
import pytest
from permutable_networks import (
    FUNCTIONS,
    IMAGES,
    abstract,
    crossed,
    distance,
    network,
    randomised,
    shapes,
    softmax,
)

from mdjax.landscape.alignment import permuted, random_permutations, verify
from mdjax.landscape.symmetries import AxisGroups, Specification, specification
from mdjax.models import FunctionModel

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
        for model in (network(family, width, depth, form) for form in ("lax", "patches", "examples_last"))
    ]
    assert found[0] == found[1] == found[2]
    assert found[0].sizes == SIZES[family, width, depth]


def test_groups_come_in_the_order_of_use_and_not_of_names():
    model = network("mlp", 3, 11)
    params, state = abstract(model)
    axes = specification(model, params, state, IMAGES).axes
    groups = jax.tree.unflatten(jax.tree.structure(params), [leaf.groups for leaf in axes])
    assert [groups[f"hidden{layer}"]["kernel"] for layer in (2, 10)] == [(1, 2), (9, 10)]


def test_every_array_next_to_a_group_is_found():
    model = network("small resnet", 3)
    params, state = abstract(model)
    found = specification(model, params, state, IMAGES)
    _, structure = jax.tree.flatten((params, state))
    params, state = jax.tree.unflatten(structure, [leaf.groups for leaf in found.axes])
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
    wrong = Specification((6,), (AxisGroups((64, 6), (None, 0)), AxisGroups((6, 10), (None, None))))
    assert verify(model, wrong, params, {}, inputs, jax.random.key(0)) > 1e-3
    right = specification(model, params, {}, inputs)
    assert verify(model, right, params, {}, inputs, jax.random.key(0)) < 1e-5
