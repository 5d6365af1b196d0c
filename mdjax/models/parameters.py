"""Which of a model's parameters count, and the model as a function of those alone."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax

from mdjax.errors import InputError
from mdjax.models.architecture import HasFrozen, Model

PyTree = Any

Parameters = Literal["all", "trainable"] | tuple[str, ...]
"""Which parameters count: all; those that the model does not name as `frozen`; or those of the given paths, written as
by `jax.tree_util.keystr` ("['dense']['kernel']"), where the path of a node ("['dense']") stands for all below it."""

_EXAMPLE = """("['dense']['kernel']",)"""


def check_parameters(parameters: Any) -> None:
    """Raise InputError unless `parameters` is a `Parameters`; whether its paths exist is asked with a model."""
    if parameters not in ("all", "trainable") and not _are_paths(parameters):
        raise InputError(
            f"parameters is {parameters!r}. Give all, trainable or, in Python, a tuple of paths like {_EXAMPLE}."
        )


def counted_leaves(model: Model, params: PyTree, which: Parameters) -> tuple[bool, ...]:
    """For each array of `params`, in the order of `jax.tree.leaves`, whether it counts.

    InputError for a path that is none of the parameters', and where none of them counts.
    """
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    if which == "all":
        return (True,) * len(paths)
    if which == "trainable":
        frozen = model.frozen if isinstance(model, HasFrozen) else ()
        if not _are_paths(frozen, may_be_empty=True):
            raise InputError(f"The model's frozen is {frozen!r}. Give a tuple of paths like {_EXAMPLE}.")
        counted = tuple(not held for held in _under(paths, frozen, "frozen parameter"))
        if not any(counted):
            raise InputError("All parameters of the model are frozen. Set parameters=all to measure with all of them.")
        return counted
    return _under(paths, which, "parameter")


def _under(paths: Sequence[str], prefixes: Sequence[str], what: str) -> tuple[bool, ...]:
    """For each path whether it is one of the prefixes or below one."""

    def is_under(path: str, prefix: str) -> bool:
        return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "[", ".")

    for prefix in prefixes:
        if not any(is_under(path, prefix) for path in paths):
            known = ", ".join(paths[:8]) + (", ..." if len(paths) > 8 else "")
            raise InputError(f"There is no {what} {prefix!r}. The model has {known}.")
    return tuple(any(is_under(path, prefix) for prefix in prefixes) for path in paths)


def _are_paths(value: Any, may_be_empty: bool = False) -> bool:
    return isinstance(value, tuple) and bool(value or may_be_empty) and all(isinstance(path, str) for path in value)


class Parts(NamedTuple):
    """Two pytrees of the structure of the parameters, each with None where the other has an array."""

    counted: PyTree
    held: PyTree


def divided(params: PyTree, counted: Sequence[bool]) -> Parts:
    """The arrays that count, and the others."""
    leaves, structure = jax.tree.flatten(params)
    parts = [
        [leaf if own is kept else None for leaf, own in zip(leaves, counted, strict=True)] for kept in (True, False)
    ]
    return Parts(*(jax.tree.unflatten(structure, part) for part in parts))


def united(parts: Parts) -> PyTree:
    """The parameters that were divided."""
    return jax.tree.map(
        lambda counted, held: held if counted is None else counted, *parts, is_leaf=lambda leaf: leaf is None
    )


def counted(model: Model, params: PyTree, which: Parameters) -> tuple[Model, PyTree]:
    """The model as a function of the parameters that count, and those: `params` with None in place of the others.

        model: its `frozen`, where it has one, names the parameters that were not trained.
        params: one model's.
        which: see `Parameters`.

    The very same two where all count. Traceable; costs nothing. InputError as `counted_leaves`.
    """
    leaves = counted_leaves(model, params, which)
    if all(leaves):
        return model, params
    parts = divided(params, leaves)
    return _Partial(model, parts.held), parts.counted


@dataclasses.dataclass(frozen=True, eq=False)
class _Partial:
    """A model some of whose parameters are constants."""

    model: Model
    held: PyTree

    @property
    def unrolled(self) -> "_Partial":
        return dataclasses.replace(self, model=getattr(self.model, "unrolled", self.model))

    @property
    def examples_first(self) -> "_Partial":
        return dataclasses.replace(self, model=getattr(self.model, "examples_first", self.model))

    def apply(self, params: PyTree, state: PyTree, inputs: jax.Array) -> jax.Array:
        return self.model.apply(united(Parts(params, self.held)), state, inputs)

    def batch_apply(
        self, params: PyTree, state: PyTree, inputs: jax.Array, weights: jax.Array
    ) -> tuple[jax.Array, PyTree]:
        return self.model.batch_apply(united(Parts(params, self.held)), state, inputs, weights)
