"""Parameters and vectors of their size → split over the devices of a mesh's "shards" axis.

Each array of the parameters is split along its largest axis that divides evenly (`shard_axis`). A flat vector holds
what the first device has of every array, then what the second has, and so on: a device makes its part of each array
of its part of a vector, and nothing travels. An array that does not divide lies whole on every device; in a vector it
is split nonetheless, filled up with zeros. Without such an axis everything is as `jax.flatten_util.ravel_pytree` has
it.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry2x32_p
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec

from mdjax.linalg.orthonormalization import Orthonormal, gram_schmidt
from mdjax.linalg.vectors import Vectors

PyTree = Any

SHARDS = "shards"
"""The axis of a mesh over which parameters are split."""


class Raveled(NamedTuple):
    """Parameters as one flat vector [p], or longer where it is split.

    flat: the vector.
    unravel: a vector → a pytree like the parameters.
    ravel: such a pytree → its vector.
    vectors: how others like it are drawn and kept.
    """

    flat: jax.Array
    unravel: Callable[[jax.Array], PyTree]
    ravel: Callable[[PyTree], jax.Array]
    vectors: Vectors


def raveled(params: PyTree) -> Raveled:
    """Parameters as a vector, split where there is a mesh with an axis "shards" of more than one device."""
    number = num_shards()
    if number == 1:
        flat, unravelled = ravel_pytree(params)
        return Raveled(flat, unravelled, lambda tree: ravel_pytree(tree)[0], Vectors(flat.size))
    leaves, structure = jax.tree.flatten(params)
    vectors = SplitVectors(sum(leaf.size for leaf in leaves), number, tuple(leaf.shape for leaf in leaves))
    dtypes = [leaf.dtype for leaf in leaves]

    def ravel(tree: PyTree) -> jax.Array:
        return vectors.joined(jax.tree.leaves(tree))

    def unravel(flat: jax.Array) -> PyTree:
        parts = [part.astype(dtype) for part, dtype in zip(vectors.parted(flat), dtypes, strict=True)]
        return jax.tree.unflatten(structure, parts)

    return Raveled(ravel(params), unravel, ravel, vectors)


def num_shards() -> int:
    """Over how many devices parameters are split: 1 without a mesh, and where it has no such axis."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty or SHARDS not in mesh.axis_names else mesh.shape[SHARDS]


def shard_axis(shape: Sequence[int], number: int) -> int | None:
    """The largest axis that so many devices share evenly, the first of equal ones; None where there is none."""
    fitting = [axis for axis, size in enumerate(shape) if size and size % number == 0]
    return max(fitting, key=lambda axis: shape[axis], default=None)


def split_spec(shape: Sequence[int], number: int) -> PartitionSpec:
    """How an array of the parameters lies on so many devices."""
    axis = shard_axis(shape, number)
    return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, SHARDS)


def over_shards(params: PyTree) -> PyTree:
    """Keep each array of the parameters split as `shard_axis` says; nothing happens where nothing is to be split."""
    number = num_shards()
    if number == 1:
        return params
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, split_spec(leaf.shape, number)), params)


@dataclasses.dataclass(frozen=True)
class SplitVectors(Vectors):
    """Vectors of the size of parameters with these shapes, split over `number` devices, as this module says.

    What is drawn has, entry by entry, the very values that it has on one device: each device computes those of its own
    entries alone.
    """

    number: int
    shapes: tuple[tuple[int, ...], ...]

    @property
    def length(self) -> int:
        """Entries of an array that holds one, those that fill it up included."""
        return self.number * sum(piece.width for piece in self._pieces)

    def placed(self, array: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(array, PartitionSpec(*[None] * (array.ndim - 1), SHARDS))

    def zeros(self, *leading: int) -> jax.Array:
        return self.placed(jnp.zeros((*leading, self.length)))

    def normal(self, key: jax.Array, count: int | None = None) -> jax.Array:
        low = np.nextafter(np.float32(-1), np.float32(0))

        def inverted(uniform: jax.Array) -> jax.Array:
            return np.float32(np.sqrt(2)) * jax.lax.erf_inv(jnp.maximum(low, uniform * (1 - low) + low))

        return self._drawn(key, count, lambda key, shape: jax.random.normal(key, shape), inverted)

    def signs(self, key: jax.Array, count: int | None = None) -> jax.Array:
        def drawn(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jax.random.rademacher(key, shape, jnp.float32)

        return self._drawn(key, count, drawn, lambda uniform: jnp.where(uniform < 0.5, 1.0, -1.0))

    def orthonormal(self, rows: jax.Array) -> Orthonormal:
        # LAPACK's routine would gather them.
        found = gram_schmidt(rows)
        return Orthonormal(self.placed(found.rows), found.triangle)

    def factored(self, rows: jax.Array) -> Orthonormal:
        return self.orthonormal(rows)

    def joined(self, leaves: Sequence[jax.Array]) -> jax.Array:
        """The vector of parameters."""
        rows = [piece.rows(leaf) for piece, leaf in zip(self._pieces, leaves, strict=True)]
        kind = jnp.result_type(*rows)
        return self._flat(jnp.concatenate([row.astype(kind) for row in rows], axis=1))

    def parted(self, vector: jax.Array) -> list[jax.Array]:
        """The arrays of the parameters that a vector holds."""
        rows = jax.lax.with_sharding_constraint(vector.reshape(self.number, -1), PartitionSpec(SHARDS))
        ends = np.cumsum([piece.width for piece in self._pieces])
        return [
            piece.leaf(jax.lax.slice_in_dim(rows, end - piece.width, end, axis=1))
            for piece, end in zip(self._pieces, ends.tolist(), strict=True)
        ]

    @functools.cached_property
    def _pieces(self) -> list["_Piece"]:
        return [_Piece(shape, shard_axis(shape, self.number), self.number) for shape in self.shapes]

    def _flat(self, rows: jax.Array) -> jax.Array:
        return self.placed(rows.reshape(-1))

    def _places(self) -> tuple[jax.Array, jax.Array]:
        """Where each entry stands in a vector on one device, as uint32, and whether it stands in one at all."""
        starts = np.cumsum([0, *(math.prod(shape) for shape in self.shapes)])
        found = [piece.places(start) for piece, start in zip(self._pieces, starts.tolist())]
        places, real = (self._flat(jnp.concatenate(part, axis=1)) for part in zip(*found, strict=True))
        return places, real

    def _drawn(
        self,
        key: jax.Array,
        count: int | None,
        draw: Callable[[jax.Array, tuple[int, ...]], jax.Array],
        of_uniform: Callable[[jax.Array], jax.Array],
    ) -> jax.Array:
        """What `draw` gives for a shape, in this order; or of numbers uniform on [0, 1), as `draw` itself makes it."""
        places, real = self._places()
        shape = (self.size,) if count is None else (count, self.size)
        if not _draws_by_place(key):
            values = draw(key, shape)[..., jnp.minimum(places, self.size - 1)]
        else:
            starts = [row * self.size for row in range(1 if count is None else count)]
            values = jnp.stack([of_uniform(_uniform_at(key, places, start)) for start in starts])
            values = values[0] if count is None else values
        return self.placed(jnp.where(real, values, 0.0))


class _Piece(NamedTuple):
    """An array of the parameters: its shape, and along which axis so many devices share it."""

    shape: tuple[int, ...]
    axis: int | None
    number: int

    @property
    def width(self) -> int:
        """Entries on each device."""
        return -(-math.prod(self.shape) // self.number)

    @property
    def _split(self) -> tuple[int, ...]:
        """The shape with the axis in two, devices first."""
        assert self.axis is not None
        before, after = self.shape[: self.axis], self.shape[self.axis + 1 :]
        return (*before, self.number, self.shape[self.axis] // self.number, *after)

    def rows(self, leaf: jax.Array) -> jax.Array:
        """[devices, width] of the array."""
        leaf = jax.lax.with_sharding_constraint(leaf, split_spec(self.shape, self.number))
        if self.axis is None:
            filled = jnp.pad(leaf.reshape(-1), (0, self.number * self.width - leaf.size))
            rows = filled.reshape(self.number, -1)
        else:
            rows = jnp.moveaxis(leaf.reshape(self._split), self.axis, 0).reshape(self.number, -1)
        return jax.lax.with_sharding_constraint(rows, PartitionSpec(SHARDS))

    def leaf(self, rows: jax.Array) -> jax.Array:
        """The array of [devices, width]."""
        if self.axis is None:
            found = rows.reshape(-1)[: math.prod(self.shape)].reshape(self.shape)
        else:
            split = self._split
            moved = self.number, *split[: self.axis], *split[self.axis + 1 :]
            found = jnp.moveaxis(rows.reshape(moved), 0, self.axis).reshape(self.shape)
        return jax.lax.with_sharding_constraint(found, split_spec(self.shape, self.number))

    def places(self, start: int) -> tuple[jax.Array, jax.Array]:
        """[devices, width]: places of the entries in a vector on one device that has this array from `start` on."""
        if self.axis is None:
            shape, steps = (self.number, self.width), [self.width, 1]
        else:
            split = self._split
            own = [math.prod(split[axis + 1 :]) for axis in range(len(split))]
            shape = self.number, *split[: self.axis], *split[self.axis + 1 :]
            steps = [own[self.axis], *own[: self.axis], *own[self.axis + 1 :]]
        # Numbers that follow from an entry's own indices: a device makes those of its entries.
        places = sum(
            (jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(step) for axis, step in enumerate(steps)),
            jnp.full(shape, start, jnp.uint32),
        )
        places = places.reshape(self.number, -1)
        return places, places < np.uint32(start + math.prod(self.shape))


def _draws_by_place(key: jax.Array) -> bool:
    """Whether JAX draws each number of an array from the key and the number's place alone, as it usually does."""
    partitionable = jax.config.jax_threefry_partitionable  # pyright: ignore[reportAttributeAccessIssue]
    return str(jax.random.key_impl(key)) == "threefry2x32" and partitionable


def _uniform_at(key: jax.Array, places: jax.Array, start: int) -> jax.Array:
    """The numbers of `jax.random.uniform` at start + places of an array, uniform on [0, 1)."""
    low = places + np.uint32(start % 2**32)
    high = (low < places).astype(jnp.uint32) + np.uint32(start // 2**32)
    first, second = jax.random.key_data(key)
    bits = jnp.bitwise_xor(*threefry2x32_p.bind(first, second, high, low))
    # 23 bits are the fraction of a number in [1, 2).
    return jax.lax.bitcast_convert_type((bits >> np.uint32(9)) | np.uint32(0x3F800000), jnp.float32) - 1.0
