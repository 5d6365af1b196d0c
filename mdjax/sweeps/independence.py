"""Whether a model given in Python treats examples one by one, as every metric takes for granted."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mdjax.engine import stacks
from mdjax.engine.compilation import in_32_bits
from mdjax.engine.programs import compiled
from mdjax.errors import InputError
from mdjax.models import FlaxModel, Model
from mdjax.statuses import StatusCode
from mdjax.sweeps.sources import GivenModels
from mdjax.zoo.data import Dataset

PyTree = Any

_TOGETHER = 4
"""Examples that are called together and one by one."""

_TOLERANCE = 1e-3
"""By how much of the largest output the two may differ: far more than rounding."""


@in_32_bits
def check_independent(collection: GivenModels, model: Model, dataset: Dataset) -> None:
    """InputError where the outputs for an example depend on the examples beside it.

        collection: the models given, one of which is called.
        model: how it is called; of this package's own networks it is known that they do not mix examples.
        dataset: of which a few training inputs are used.

    Losses would change with the size of a batch then, and a trace from the gradients of single examples would be that
    of another network. What cannot be called, or is not finite, is left to the metrics. Cost: compiling two forward
    passes.
    """
    usable = np.flatnonzero(collection.manifest["status_code"] == StatusCode.OK)
    if isinstance(model, FlaxModel) or not len(usable):
        return
    params, state = stacks.one(collection.read_group(""), int(usable[0]))
    examples = jax.tree.map(lambda leaf: jnp.asarray(leaf[:_TOGETHER]), dataset.x_train)
    try:
        program = compiled(functools.partial(_both_ways, model), ("independence", model), params, state, examples)
        together, apart = map(_flat, program(params, state, examples))
    except Exception:  # the model is the user's own: it can raise anything
        return
    if not (np.isfinite(together).all() and np.isfinite(apart).all()):
        return
    largest, difference = np.abs(together).max(), np.abs(together - apart).max()
    if difference > _TOLERANCE * largest:
        raise InputError(
            f"The model's outputs for an example change by {difference:.2g}, of at most {largest:.2g}, with the "
            "examples beside it, as those of dropout or of BatchNorm in training do. Give an apply that treats each "
            "example by itself, with stored statistics."
        )


def _both_ways(model: Model, params: PyTree, state: PyTree, examples: PyTree) -> tuple[PyTree, PyTree]:
    """The outputs [n, ...] for the examples called together, and called one by one."""

    def alone(example: PyTree) -> PyTree:
        outputs = model.apply(params, state, jax.tree.map(lambda leaf: leaf[None], example))
        return jax.tree.map(lambda leaf: leaf[0], outputs)

    apart = jax.lax.map(alone, examples)
    return model.apply(params, state, examples), apart


def _flat(outputs: PyTree) -> np.ndarray:
    """All numbers of outputs, one after the other."""
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(outputs)])
