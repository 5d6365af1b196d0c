"""Losses of trained models as curvature operators take them, and their matrices in float64, made by other code."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from helpers import dense_hessian, digits, one, trained
from jax.flatten_util import ravel_pytree

from mdjax.tasks import CLASSIFICATION, Classification, Task

NUM_SAMPLES = 64


@dataclasses.dataclass(frozen=True)
class SquaredError(Classification):
    """Classes by the squared distance of the logits from a one of k; the rest as for any task."""

    curvature_factors = Task.curvature_factors

    def loss(self, outputs, targets):
        return jnp.sum((outputs - jax.nn.one_hot(targets, outputs.shape[-1])) ** 2, axis=1)


TASKS = {"cross_entropy": CLASSIFICATION, "squared_error": SquaredError()}


def problem(family: str, num_batches: int = 2, loss: str = "cross_entropy"):
    """(outputs, loss, params, batches) of a trained model on NUM_SAMPLES examples."""
    architecture, params, state = trained(family)
    model, state = architecture.model("patches"), one(state)
    inputs, labels = digits().x_train[:NUM_SAMPLES], digits().y_train[:NUM_SAMPLES]
    batches = inputs.reshape(num_batches, -1, *inputs.shape[1:]), labels.reshape(num_batches, -1)

    def outputs(params, batch):
        return model.apply(params, state, batch[0])

    def contribution(logits, batch):
        return jnp.sum(TASKS[loss].loss(logits, batch[1])) / NUM_SAMPLES

    return outputs, contribution, one(params), jax.tree.map(jnp.asarray, batches)


@functools.cache
def dense_gauss_newton(family: str, loss: str) -> np.ndarray:
    """Σ Jᵀ (∇²ℓ) J in float64 from the full Jacobian and the loss's Hessian written out by hand."""
    architecture, params, state = trained(family)
    with jax.enable_x64(True):
        params, state, inputs = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float64), (one(params), one(state), digits().x_train[:NUM_SAMPLES])
        )
        flat, unravel = ravel_pytree(params)
        model = architecture.model("lax")

        def logits(flat):
            return model.apply(unravel(flat), state, inputs)

        p = np.asarray(jax.nn.softmax(logits(flat)))
        jacobian = np.asarray(jax.jit(jax.jacrev(logits))(flat))
    matrix = np.zeros((flat.size, flat.size))
    for row, probabilities in zip(jacobian, p):
        curvature = np.diag(probabilities) - np.outer(probabilities, probabilities)
        matrix += row.T @ (curvature if loss == "cross_entropy" else 2 * np.eye(10)) @ row
    return matrix / NUM_SAMPLES


def dense(family: str, matrix: str) -> np.ndarray:
    if matrix == "hessian":
        return dense_hessian(family, 0, NUM_SAMPLES)
    return dense_gauss_newton(family, "cross_entropy")


def vectors(num: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(num, size)).astype(np.float32)
