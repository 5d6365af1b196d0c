"""What a model is asked: the loss and the error of its outputs, and what of them is compared between models.

Every metric is written against a `Task`. A task of one's own is a frozen dataclass that subclasses it and says `loss`;
everything else has a default.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mdjax.errors import InputError

PyTree = Any


class Factors(NamedTuple):
    """A symmetric matrix Σₖ weights[k] uₖuₖᵀ with uₖ the k-th row of vectors[c, c]."""

    weights: jax.Array
    vectors: jax.Array


class Guess(NamedTuple):
    """What the best constant output gets: error as a fraction, and loss."""

    error: jax.Array
    loss: jax.Array


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """What outputs[b, ...] are to be, given targets[b, ...]; b examples, each treated by itself.

    Frozen and hashable: it is compiled into the programs. Its settings are part of what identifies a measured row.
    """

    name: ClassVar[str] = ""
    """What tables and errors call it: its class, unless it says otherwise."""
    unit: ClassVar[str] = ""
    """Of its loss."""

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        if "name" not in vars(cls):
            cls.name = cls.__name__
        if "loss" in vars(cls):
            # What follows from a loss is not inherited by a task with another one.
            for rule in ("curvature_factors", "constant_guess"):
                if rule not in vars(cls):
                    setattr(cls, rule, getattr(Task, rule))

    @abc.abstractmethod
    def loss(self, outputs: PyTree, targets: PyTree) -> jax.Array:
        """The loss of each example [b], twice differentiable in the outputs."""

    def error(self, outputs: PyTree, targets: PyTree) -> jax.Array:
        """What fraction of each example is wrong [b]: 0 for a perfect answer, about 1 for a guess.

        By default the loss, so that percentages are 100 times it.
        """
        return self.loss(outputs, targets)

    def weights(self, targets: PyTree) -> jax.Array | None:
        """How much each example counts in the means [b], such as its number of tokens; None: all the same."""
        return None

    def features(self, outputs: PyTree) -> jax.Array:
        """What CKA and similarity compare between models [b, d]: by default all outputs."""
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(outputs)]
        return jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], axis=1)

    def constant_guess(self, targets: PyTree, weights: jax.Array) -> Guess:
        """What the best constant output gets on targets[n, ...] that count weights[n]; NaN where it is not known."""
        return Guess(jnp.asarray(jnp.nan), jnp.asarray(jnp.nan))

    def curvature_factors(self, outputs: jax.Array, target: PyTree) -> Factors:
        """The second derivative of one example's loss by its outputs, raveled to [c], in c rank-one terms.

        By default from the eigenvectors, c³ flops.
        """
        shape = outputs.shape

        def loss(raveled: jax.Array) -> jax.Array:
            return self.loss(raveled.reshape(1, *shape), jax.tree.map(lambda leaf: leaf[None], target))[0]

        weights, columns = jnp.linalg.eigh(jax.hessian(loss)(outputs.ravel()))
        return Factors(weights, columns.T)

    def fitted(self, targets: PyTree) -> "Task":
        """The task with what it takes from all training targets, on the host; itself by default."""
        return self

    def checked_targets(self, where: str, name: str, targets: PyTree, num_examples: int) -> PyTree:
        """The targets as the task takes them, NumPy arrays of 32 bits; InputError for what cannot be.

        where, name: what the data and the array are called.
        targets: as given, arrays of numbers.
        num_examples: how many inputs there are.
        """
        leaves = jax.tree.leaves(targets)
        if not leaves or any(np.ndim(leaf) < 1 or len(leaf) != num_examples for leaf in leaves):
            raise InputError(
                f"{where}: {name} is not of {num_examples} examples, as the inputs are. Give one for each."
            )
        return jax.tree.map(lambda leaf: _in_32_bits(np.asarray(leaf)), targets)

    def check_outputs(self, outputs: PyTree, targets: PyTree, told: str) -> None:
        """InputError for outputs that are not such as the task's; by default for a loss that is not [b].

        outputs, targets: shapes of some examples'.
        told: what the inputs were, as errors name it.
        """
        try:
            loss = jax.eval_shape(self.loss, outputs, targets)
        except Exception as error:  # the task is the user's own: it can raise anything
            raise InputError(
                f"Cannot call the loss of {self.name} on the model's outputs for {told}: {type(error).__name__}: "
                f"{str(error).splitlines()[0] if str(error) else ''}. Give the task that the model was trained for."
            ) from error
        count = len(jax.tree.leaves(outputs)[0])
        if getattr(loss, "shape", None) != (count,) or not jnp.issubdtype(loss.dtype, jnp.floating):
            raise InputError(f"The loss of {self.name} is {form_of(loss)}, but a float for each example is expected.")


def form_of(outputs: PyTree) -> str:
    """Types and shapes of outputs, or inputs, as errors tell them: `float32[2, 10]`."""
    if isinstance(outputs, Mapping):
        return "{" + ", ".join(f"{key}: {form_of(entry)}" for key, entry in outputs.items()) + "}"
    is_array = hasattr(outputs, "shape") and hasattr(outputs, "dtype")
    return f"{outputs.dtype}{list(outputs.shape)}" if is_array else f"a {type(outputs).__name__}"


def _in_32_bits(array: np.ndarray) -> np.ndarray:
    return array.astype({"f": np.float32, "i": np.int32, "u": np.int32}.get(array.dtype.kind, array.dtype))
