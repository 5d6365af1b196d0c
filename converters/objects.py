"""A network's own module as it stands in memory, with its weights → a model that the engine measures."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from converters.errors import RefusedError
from converters.module_entries import at_path, nested
from converters.modules import Converted
from mdjax.errors import InputError
from mdjax.models import FunctionModel

PyTree = Any

_PLACES = {"flax.linen": "linen", "flax.nnx": "nnx", "equinox": "equinox", "torch.nn": "torch"}
"""Package → what errors call its modules."""


def is_module(value: Any) -> bool:
    """Whether it is a module of Flax (linen or nnx), Equinox or torch; none of them is imported."""
    return _kind(value) is not None


def from_object(module: Any, params: PyTree, inputs: PyTree) -> Converted:
    """The model and arrays of a module, as it is evaluated: without dropout, with stored statistics.

        module: linen, nnx, Equinox or torch.nn.
        params: of a linen module its variables, or the collection params alone; None for the others, which hold
            their own.
        inputs: some examples [b, ...] as a data set has them, images with their channels last.

    Raises InputError for what is none of them and for params that are not the module's, RefusedError for a module that
    cannot be run (see `from_module`, `from_flax`).
    """
    kind = _kind(module)
    if kind is None:
        raise InputError(f"module is {type(module).__name__!r}. Give a module of Flax, Equinox or torch.")
    if (params is None) == (kind == "linen"):
        needed = "Give its variables: measure(module, variables, ...)" if params is None else "Leave params out"
        raise InputError(f"A {kind} module {'lacks' if params is None else 'holds'} its own weights. {needed}.")
    return {"linen": _linen, "nnx": _nnx, "equinox": _equinox, "torch": _torch}[kind](module, params, inputs)


def _kind(value: Any) -> str | None:
    """Of which library's class Module it is one, by the class's place alone."""
    for base in type(value).__mro__:
        if base.__name__ == "Module":
            for place, kind in _PLACES.items():
                if f"{base.__module__}.".startswith(f"{place}."):
                    return kind
    return None


def _linen(module: Any, params: PyTree, inputs: PyTree) -> Converted:
    from converters.flax_checkpoints import linen_model

    model = linen_model(module, jax.eval_shape(lambda: jax.tree.map(jnp.asarray, inputs)))
    variables = params if isinstance(params, Mapping) and "params" in params else {"params": params}
    given = {name: variables.get(name, {}) for name in model.variables}
    wanted, found = (
        {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (model.variables, given)
    )
    if wanted != found:
        name = next(iter(sorted(set(wanted.items()) ^ set(found.items()))))[0]
        raise InputError(
            f"The variables are not those of the module for these inputs: {name} is {found.get(name, 'missing')}, but "
            f"{wanted.get(name, 'nothing')} is expected. Give what module.init or training made, and its data."
        )
    return Converted(model, given["params"], {name: part for name, part in given.items() if name != "params"})


def _nnx(module: Any, params: None, inputs: PyTree) -> Converted:
    from converters.flax_checkpoints import nnx_model

    model = nnx_model(module, jax.eval_shape(lambda: jax.tree.map(jnp.asarray, inputs)))
    return Converted(model, *model.own_arrays())


def _equinox(module: Any, params: None, inputs: PyTree) -> Converted:
    import equinox as eqx

    evaluated = eqx.nn.inference_mode(module)

    def is_index(leaf: Any) -> bool:
        return isinstance(leaf, eqx.nn.StateIndex)

    if any(map(is_index, jax.tree.leaves(evaluated, is_leaf=is_index))):
        raise RefusedError(
            "it keeps state outside of itself (eqx.nn.StateIndex). Give a function of its arrays instead"
        )
    arrays, static = eqx.partition(evaluated, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten_with_path(arrays)
    names = [tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path) for path, _ in leaves]
    # Outputs are the first axis there, the last one here.
    moved = [names[k][-1] == "weight" and _is_kernel(evaluated, path) for k, (path, _) in enumerate(leaves)]

    def apply(params: PyTree, state: PyTree, inputs: PyTree) -> PyTree:
        given = [at_path(params, name) for name in names]
        given = [jnp.moveaxis(leaf, -1, 0) if is_moved else leaf for leaf, is_moved in zip(given, moved, strict=True)]
        return jax.vmap(eqx.combine(jax.tree.unflatten(structure, given), static))(inputs)

    arrays = [leaf for _, leaf in leaves]
    stored = [np.moveaxis(np.asarray(leaf), 0, -1) if move else leaf for leaf, move in zip(arrays, moved, strict=True)]
    return Converted(FunctionModel(apply), nested(dict(zip(names, stored, strict=True))), {})


def _is_kernel(module: Any, path: tuple[Any, ...]) -> bool:
    """Whether the array at a path is the weight of a layer that multiplies its inputs, not one that looks them up."""
    import equinox as eqx

    owner = module
    for entry in path[:-1]:
        key = getattr(entry, "idx", getattr(entry, "key", None))
        owner = getattr(owner, entry.name) if hasattr(entry, "name") else owner[key]
    return isinstance(owner, eqx.nn.Linear | eqx.nn.Conv | eqx.nn.ConvTranspose)


def _torch(module: Any, params: None, inputs: PyTree) -> Converted:
    import torch

    from converters.modules import from_module

    if isinstance(inputs, Mapping):
        raise InputError(
            "The inputs are a dictionary, but a torch module is given one tensor. Give one array of inputs."
        )
    array = np.asarray(inputs)
    images = array.ndim == 4
    tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1) if images else array))
    return from_module(module, tensor if tensor.is_floating_point() else tensor.long())
