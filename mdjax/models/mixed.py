"""A model → the same one computed in bfloat16, between parameters, loss and curvature that stay in float32."""

import dataclasses
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from mdjax.errors import InputError, first_line
from mdjax.models.architecture import Model

PyTree = Any

Precision = Literal["float32", "bf16"]
"""Of a network's activations: float32 throughout, or bfloat16 where it computes (mixed precision)."""


def check_precision(precision: Any) -> None:
    """Raise InputError unless it is a `Precision`."""
    if precision not in get_args(Precision):
        raise InputError(f"precision is {precision!r}. Choose one of {', '.join(get_args(Precision))}.")


def in_precision(model: Model, precision: Precision) -> Model:
    """The model as a function of the same parameters, computed in this precision; float32: the very same model.

    bf16: parameters and inputs in floating point are rounded to bfloat16 inside the function, and outputs are float32
    again. So losses, sums over examples and vectors of the size of the parameters are float32, and so are stored
    statistics, which are not rounded. Products and convolutions round their results and add up in float32, as CPUs,
    GPUs and TPUs do with bfloat16. Derivatives are those of the rounded network: activations take half the
    memory, and results have the relative errors that `docs/metrics.md` tells.

    InputError, when it is called, for a network whose code insists on float32.
    """
    return model if precision == "float32" else _Mixed(model)


def _rounded(arrays: PyTree) -> PyTree:
    return _cast(arrays, jnp.bfloat16)


def _cast(arrays: PyTree, kind: Any) -> PyTree:
    return jax.tree.map(
        lambda leaf: leaf.astype(kind) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
        jax.tree.map(jnp.asarray, arrays),
    )


@dataclasses.dataclass(frozen=True)
class _Mixed:
    """A model that computes in bfloat16."""

    model: Model

    @property
    def frozen(self) -> tuple[str, ...]:
        return getattr(self.model, "frozen", ())

    @property
    def unrolled(self) -> "_Mixed":
        return _Mixed(getattr(self.model, "unrolled", self.model))

    @property
    def examples_first(self) -> "_Mixed":
        return _Mixed(getattr(self.model, "examples_first", self.model))

    def apply(self, params: PyTree, state: PyTree, inputs: PyTree) -> PyTree:
        try:
            outputs = self.model.apply(_rounded(params), state, _rounded(inputs))
        except TypeError as error:
            raise _insists(error) from error
        return _cast(outputs, jnp.float32)

    def batch_apply(self, params: PyTree, state: PyTree, inputs: PyTree, weights: jax.Array) -> tuple[PyTree, PyTree]:
        try:
            outputs, found = self.model.batch_apply(_rounded(params), state, _rounded(inputs), weights)
        except TypeError as error:
            raise _insists(error) from error
        return _cast(outputs, jnp.float32), _cast(found, jnp.float32)


def _insists(error: TypeError) -> InputError:
    return InputError(
        f"The network does not compute in bfloat16: {first_line(error)}. Leave precision=bf16 out, or let its code "
        "take the type of its inputs."
    )
