"""Permutation symmetries where operands of unequal shape meet: whatever is found leaves the network what it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from broadcasting_networks import BROADCASTING
from permutable_networks import IMAGES, distance, flat, randomised, shapes

from mdjax.landscape import symmetries
from mdjax.landscape.alignment import TOLERANCE, permuted, random_permutations, verify
from mdjax.landscape.symmetries import specification
from mdjax.models import FunctionModel

NETWORKS = pytest.mark.parametrize(
    ("function", "weights", "sizes"), BROADCASTING, ids=lambda entry: getattr(entry, "__name__", "")
)


@NETWORKS
def test_the_groups_there_are_are_found_and_change_nothing(function, weights, sizes):
    model = FunctionModel(function)
    params, inputs = randomised((shapes(weights), IMAGES), 4)
    found = specification(model, params, {}, inputs)
    assert found.sizes == sizes
    assert verify(model, found, params, {}, inputs, jax.random.key(0)) < TOLERANCE
    with jax.enable_x64(True):
        params, inputs = randomised((shapes(weights), IMAGES), 4, np.float64)
        reordered = permuted(found, random_permutations(found, jax.random.key(1)), params, {})
        change = model.apply(*reordered, inputs) - model.apply(params, {}, inputs)
    assert distance(params, reordered[0]) > 0.1 or not sizes
    assert np.abs(change).max() < 1e-12


BINARY = ["add", "sub", "mul", "div", "max", "min", "pow", "atan2", "rem", "nextafter", "eq", "ge", "lt", "ne"]
PATTERNS = [((6,), (6,)), ((1, 6), (5, 6)), ((5, 6), (1, 6)), ((5, 1), (1, 6)), ((1, 1), (5, 6)), ((1, 1), (1, 6))]


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_every_axis_of_an_elementwise_result_is_tied_to_the_operands_that_have_it(name, pattern):
    def apply(params, _, inputs):
        result = getattr(jax.lax, name)(params["left"], params["right"]).astype(jnp.float32)
        return inputs[:, 0, 0] @ jnp.sum(result * params["all"])[None, None]

    def squeezed(shape):
        return tuple(size for size in shape if size > 1)

    shape = tuple(map(max, *pattern))
    weights = shapes({"all": shape, "left": pattern[0], "right": pattern[1]})
    axes = specification(FunctionModel(apply), weights, {}, IMAGES).axes
    groups = dict(zip(sorted(weights), (leaf.groups for leaf in axes), strict=True))
    assert len(set(groups["all"])) == len(squeezed(shape))
    for operand, own in (("left", pattern[0]), ("right", pattern[1])):
        kept = [index for index, size in enumerate(own) if size > 1]
        wanted = [group for group, size in zip(groups["all"], squeezed(shape)) if size > 1]
        positions = [index for index, size in enumerate(shape) if size > 1]
        assert groups[operand] == tuple(wanted[positions.index(index)] for index in kept)


def test_a_rule_that_loses_an_axis_costs_the_permutations_and_not_the_network(monkeypatch):
    """What the elementwise rule once did where its first operand had an axis of size 1."""
    monkeypatch.setitem(symmetries._RULES, "sub", lambda digits, equation, read: [read[0]])
    function, weights, _ = BROADCASTING[0]
    params, inputs = randomised((shapes(weights), IMAGES), 4)
    found = specification(FunctionModel(function), params, {}, inputs)
    assert verify(FunctionModel(function), found, params, {}, inputs, jax.random.key(0)) < TOLERANCE


def test_axes_of_unequal_size_are_fixed_and_not_forgotten():
    digits = symmetries.Digits()
    first, second = digits.value((6,)), digits.value((2, 6))
    digits.unify(first[0], (*second[1], *second[0]))
    assert all(digits.fixed[digit] for digit in digits.resolved(second[0]))
    assert flat(digits.fixed).any()
