"""Permutation alignment: one model's hidden units, reordered to match another's.

Reordering hidden units changes a network's weights and not its function. `specification` derives from the traced
`apply` which axes of which arrays go by the same order of units; `matching` finds the orders in which two models'
weights are most alike (weight matching: Ainsworth, Hayase & Srinivasa, "Git Re-Basin", ICLR 2023, section 3.2 and
Algorithm 1); `aligned` does both, so that two models can be connected modulo permutations.

Everything here is traceable and gives the same permutations, to the last unit, alone, under `vmap` and in a loop.
Sums over weights, whose rounding depends on how a program is batched, are therefore taken over whole numbers, and the
assignment problems are solved inside the program, by optax: a callback to the host would keep programs out of the
compilation cache and make devices wait for each other's.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mdjax.errors import InputError
from mdjax.landscape.symmetries import Specification, specification
from mdjax.models import Model

__all__ = [
    "TOLERANCE",
    "Aligned",
    "Specification",
    "aligned",
    "aligned_and_verified",
    "matching",
    "permuted",
    "random_permutations",
    "specification",
    "verify",
]

PyTree = Any
Permutations = tuple[jax.Array, ...]
"""For each group of units, int32[units]: the unit at index permutation[i] moves to index i."""

TOLERANCE = 1e-5
"""A relative change of the logits above this is more than float32's rounding of reordered sums: the network changed."""

_LARGEST = 2.0**30
"""Weights of this size or more count as 0 in the match, and a unit whose weights are all below 1/_LARGEST is rounded as
coarsely as one whose largest weight is that, perhaps to 0: float32 then holds the product of any two rounding steps."""


def aligned(
    model: Model, first_params: PyTree, second_params: PyTree, second_state: PyTree, inputs: Any
) -> tuple[PyTree, PyTree]:
    """(params, state) of the second model, its units in the order that matches the first model's.

        model: its `apply` tells which units there are.
        first_params: of the model that stays as it is.
        second_params, second_state: of the model whose units are reordered.
        inputs: an array or shape of examples [b, ...]; its values are not used.

    A model with no units to reorder is returned as it is, and weights that are not finite count as 0 in the match.
    For the cost see `matching`. InputError where the two models differ in shape.
    """
    _check_shapes(first_params, second_params)
    found = specification(model, second_params, second_state, inputs)
    return permuted(found, matching(found, first_params, second_params), second_params, second_state)


class Aligned(NamedTuple):
    """(params, state) of an aligned model, and the largest change of a logit by the alignment, as `verify` has it."""

    params: PyTree
    state: PyTree
    change: jax.Array


def aligned_and_verified(
    model: Model,
    first_params: PyTree,
    second_params: PyTree,
    second_state: PyTree,
    inputs: jax.Array,
    key: jax.Array,
) -> Aligned:
    """As `aligned`, and how far the network is from being the same one: `change`, which `TOLERANCE` judges.

        model, first_params, second_params, second_state: as for `aligned`.
        inputs: examples [b, ...] to compare logits on.
        key: for random permutations, which are put to the test beside those found.

    Costs three forward passes more. `change` is NaN where logits are not finite.
    """
    _check_shapes(first_params, second_params)
    found = specification(model, second_params, second_state, inputs)
    end = permuted(found, matching(found, first_params, second_params), second_params, second_state)
    change = jnp.zeros(())
    if found.sizes:
        logits = model.apply(second_params, second_state, inputs)
        change = jnp.maximum(
            _relative_change(logits, model.apply(*end, inputs)),
            verify(model, found, second_params, second_state, inputs, key),
        )
    return Aligned(*end, change)


def permuted(
    specification: Specification, permutations: Permutations, params: PyTree, state: PyTree
) -> tuple[PyTree, PyTree]:
    """(params, state) with the units of every group reordered: the same function of the inputs.

        specification: of the model's groups of units.
        permutations: their new orders, one for each group.
        params, state: one model's.

    Cost: a copy of every array.
    """
    leaves, structure = jax.tree.flatten((params, state))
    reordered = [
        _reordered(leaf.reshape(axes.shape), axes.groups, permutations).reshape(leaf.shape)
        for leaf, axes in zip(leaves, specification.axes, strict=True)
    ]
    return jax.tree.unflatten(structure, reordered)


def random_permutations(specification: Specification, key: jax.Array) -> Permutations:
    """A uniformly random order of every group's units."""
    return tuple(
        jax.random.permutation(jax.random.fold_in(key, group), size) for group, size in enumerate(specification.sizes)
    )


def verify(
    model: Model, specification: Specification, params: PyTree, state: PyTree, inputs: jax.Array, key: jax.Array
) -> jax.Array:
    """The largest change of a logit under random permutations, relative to the largest logit: 0 up to rounding.

        model: its `apply` is used.
        specification: what is put to the test.
        params, state: one model's.
        inputs: examples [b, ...].
        key: for the permutations.

    Costs two forward passes. Anything above `TOLERANCE` in float32 means that the specification is wrong for the model.
    """
    logits = model.apply(params, state, inputs)
    changed = model.apply(*permuted(specification, random_permutations(specification, key), params, state), inputs)
    return _relative_change(logits, changed)


def _relative_change(logits: jax.Array, changed: jax.Array) -> jax.Array:
    """The largest change, relative to the largest logit; 0 where nothing changed, also of logits that are all 0."""
    change = jnp.max(jnp.abs(changed - logits))
    return jnp.where(change == 0, 0.0, change / jnp.max(jnp.abs(logits)))


def matching(
    specification: Specification, first_params: PyTree, second_params: PyTree, *, max_sweeps: int = 100
) -> Permutations:
    """Orders of the second model's units that make ⟨first, permuted second⟩, summed over all weights, large.

        specification: of the groups of units, the same for both models.
        first_params: of the model that stays as it is.
        second_params: of the model whose units are reordered.
        max_sweeps: turns of all groups at most.

    Coordinate ascent, group by group from the inputs on: with the other groups held, a group's best order is a linear
    assignment problem. Ends with a sweep that finds nothing better, at a local optimum, or after `max_sweeps`; starts
    from the order as it is, and stays with it at a tie. Groups take fixed turns, which reach optima no worse than the
    paper's random ones: no key is needed, and under `vmap` a turn solves one group's problem and not every group's.

    A sweep costs n multiplications for each weight next to a group of n units, and for each group an assignment
    problem, O(n³) at worst: half a second for 1,024 units on a CPU. Sweeps: 3 to 13 for MLPs
    of two to five layers. Memory: two copies of the weights next to one group, and a few times n² numbers of 4 bytes.
    """
    if not specification.sizes:
        return ()
    # State comes after the parameters: statistics go with their units and have no say in the match.
    arrays = [
        _Array(first.reshape(axes.shape), second.reshape(axes.shape), axes.groups)
        for first, second, axes in zip(
            jax.tree.leaves(first_params), jax.tree.leaves(second_params), specification.axes
        )
    ]
    sizes, width = jnp.asarray(specification.sizes), max(specification.sizes)
    bits = min(20, 30 - (width - 1).bit_length())
    similarities, products = (
        [functools.partial(_similarity, arrays, specification.sizes, group, once) for group in range(len(sizes))]
        for once in (False, True)
    )
    quadratic = any(
        len(set(axes.groups) - {None}) < sum(group is not None for group in axes.groups) for axes in specification.axes
    )

    # One assignment problem for all groups, padded to the largest: most of the program is the solver, which then is
    # compiled once. The number of the group is no property of a model, so `switch` branches even under `vmap`.
    def turn(group: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        improved, table = carry
        similarity = jax.lax.switch(group, similarities, table)
        proposed = table.at[group].set(_partners(_whole(similarity, similarity, bits), sizes[group]))
        # An array with the group on two axes (x + Wx) is quadratic in its order. Each axis is matched with the other
        # held, as in the paper; whether that was a gain is asked of the product itself, which counts the array once.
        before = after = similarity
        if quadratic:
            before, after = (jax.lax.switch(group, products, orders) for orders in (table, proposed))
        largest = jnp.maximum(jnp.abs(before), jnp.abs(after))
        totals = [
            jnp.sum(_whole(matrix[jnp.arange(width), orders[group]], largest, bits).astype(jnp.int32))
            for matrix, orders in ((before, table), (after, proposed))
        ]
        better = totals[1] > totals[0]
        return improved | better, jnp.where(better, proposed, table)

    def sweep(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        count, _, table = carry
        improved, table = jax.lax.fori_loop(0, len(sizes), turn, (jnp.zeros((), bool), table))
        return count + 1, improved, table

    start = jnp.tile(jnp.arange(width, dtype=jnp.int32), (len(sizes), 1))
    carry = jnp.zeros((), jnp.int32), jnp.ones((), bool), start
    table = jax.lax.while_loop(lambda carry: carry[1] & (carry[0] < max_sweeps), sweep, carry)[2]
    return _orders(specification.sizes, table)


class _Array(NamedTuple):
    """One array of both models, each of whose axes goes by the order of a group or is fixed (None)."""

    first: jax.Array
    second: jax.Array
    groups: tuple[int | None, ...]


def _orders(sizes: Sequence[int], table: jax.Array) -> Permutations:
    """The rows of int32[groups, n] without their padding."""
    return tuple(row[:size] for row, size in zip(table, sizes, strict=True))


def _similarity(arrays: list[_Array], sizes: tuple[int, ...], group: int, once: bool, table: jax.Array) -> jax.Array:
    """float32[n, n] of the inner products of the first model's units of a group with the second's, all other groups
    in their present order; 0 beyond the group's size. `once` counts an array for the first of its axes only."""
    permutations = _orders(sizes, table)
    total = jnp.zeros((sizes[group], sizes[group]), jnp.float32)
    for array in arrays:
        for axis in [axis for axis, other in enumerate(array.groups) if other == group][: 1 if once else None]:
            others = tuple(None if i == axis else other for i, other in enumerate(array.groups))
            units = [array.first, _reordered(array.second, others, permutations)]
            total += _inner_products(*(jnp.moveaxis(unit, axis, 0).reshape(sizes[group], -1) for unit in units))
    return jnp.pad(total, (0, max(sizes) - sizes[group]))


def _partners(similarity: jax.Array, size: jax.Array) -> jax.Array:
    """int32[n]: for each of the first model's units (rows) the second's that it goes with; those from `size` on are
    padding and stay where they are."""
    index = jnp.arange(len(similarity))
    real = index < size
    padding = jnp.where(index[:, None] == index, 0.0, jnp.inf)
    cost = jnp.where(real[:, None] & real, -similarity, padding)
    # The solver names a row for each column.
    return optax.assignment.hungarian_algorithm(cost.T)[0].astype(jnp.int32)


def _inner_products(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """float32[n, n] of the inner products of rows[n, k] with columns[n, k], the same to the bit however batched.

    Each vector is rounded to whole numbers of its own power of two, as fine as a sum of k products in 32 bits allows:
    8 bits beside the sign at k = 10⁴, 15 at k = 1, and with random errors that average out over k.
    """
    bits = (30 - (rows.shape[1] - 1).bit_length()) // 2
    wholes, units = [], []
    for vectors in (rows, columns):
        values = vectors.astype(jnp.float32)
        # Not finite, or so large that products would overflow: no match can be made of it.
        values = jnp.where(jnp.abs(values) < _LARGEST, values, 0.0)
        units.append(_unit(jnp.max(jnp.abs(values), axis=1, keepdims=True), bits))
        wholes.append(jnp.round(values / units[-1]).astype(jnp.int32))
    products = jnp.einsum("ik,jk->ij", *wholes, preferred_element_type=jnp.int32)
    # Multiplying by powers of two rounds nothing.
    return products.astype(jnp.float32) * units[0] * units[1].T


def _whole(values: jax.Array, others: jax.Array, bits: int) -> jax.Array:
    """Values as whole numbers of at most 2^bits in a unit that suits the largest of the others; float32, in which such
    numbers and their sums and differences are exact."""
    return jnp.round(values / _unit(jnp.max(jnp.abs(others)), bits))


def _unit(largest: jax.Array, bits: int) -> jax.Array:
    """The power of two in whose multiples numbers up to `largest` come to at most 2^bits."""
    floor = jnp.maximum(largest, 1 / _LARGEST)
    # Sign and mantissa of a float32 masked away.
    power = jax.lax.bitcast_convert_type(jax.lax.bitcast_convert_type(floor, jnp.int32) & 0x7F800000, jnp.float32)
    return power * 2.0 ** (1 - bits)


def _reordered(array: jax.Array, groups: Sequence[int | None], permutations: Permutations) -> jax.Array:
    for axis, group in enumerate(groups):
        if group is not None:
            array = jnp.take(array, permutations[group], axis=axis, mode="clip")
    return array


def _check_shapes(first_params: PyTree, second_params: PyTree) -> None:
    first, second = (
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
        for params in (first_params, second_params)
    )
    for name in [*first, *second]:
        if first.get(name) != second.get(name):
            raise InputError(
                f"Cannot align models of different shapes: the parameter {name} is {first.get(name, 'missing')} in the "
                f"first and {second.get(name, 'missing')} in the second. Give two models of one architecture."
            )
