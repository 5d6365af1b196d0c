"""Two models → a curve of low loss between them, its training, and loss and error along it."""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from mdjax import losses, trees
from mdjax.models import Model

PyTree = Any


@dataclasses.dataclass(frozen=True)
class CurveSettings:
    """How a curve is shaped and trained; the defaults are the published recipe but for the bend's start.

    The bends start on the straight line between the ends (published: at random), because a curve that starts low
    needs fewer steps. Momentum SGD on one t ~ U(0, 1) per mini-batch; `weight_decay` penalises the curve's point,
    ½·wd·‖w(t)‖². The learning rate is constant for half of `num_steps`, falls linearly to 1 % at 90 %, and stays.
    """

    kind: Literal["bezier", "chain"] = "bezier"
    num_bends: int = 1
    num_steps: int = 500
    batch_size: int = 128
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4


def point_weights(kind: str, t: jax.Array, num_points: int) -> list[jax.Array]:
    """The weight of each of `num_points` control points at t in [0, 1]; they sum to 1.

    "bezier": Bernstein polynomials, for one bend (1−t)², 2t(1−t), t². "chain": straight segments.
    Source: Garipov et al., "Loss surfaces, mode connectivity, and fast ensembling of DNNs", NeurIPS 2018.
    """
    degree = num_points - 1
    if kind == "bezier":
        return [math.comb(degree, i) * t**i * (1 - t) ** (degree - i) for i in range(num_points)]
    return [jnp.maximum(0.0, 1 - jnp.abs(t * degree - i)) for i in range(num_points)]


def curve_point(kind: str, t: jax.Array, start: PyTree, bends: PyTree, end: PyTree) -> PyTree:
    """The parameters w(t); `bends` has the bends stacked on axis 0."""
    num_bends = trees.count(bends)
    middle = [jax.tree.map(lambda leaf, i=i: leaf[i], bends) for i in range(num_bends)]
    return trees.interpolate(point_weights(kind, t, num_bends + 2), [start, *middle, end])


def straight_bends(start: PyTree, end: PyTree, num_bends: int) -> PyTree:
    """Bends evenly spaced on the line from start to end, stacked on axis 0."""
    shares = jnp.arange(1, num_bends + 1) / (num_bends + 1)
    return jax.tree.map(lambda a, b: jax.vmap(lambda share: (1 - share) * a + share * b)(shares), start, end)


def train_bends(
    model: Model,
    settings: CurveSettings,
    start: PyTree,
    end: PyTree,
    state: PyTree,
    inputs: jax.Array,
    labels: jax.Array,
    num_examples: jax.Array,
    key: jax.Array,
) -> PyTree:
    """Train the bends between two models' parameters, the ends fixed; returns them stacked on axis 0.

    Mini-batches are drawn with replacement from the first `num_examples` of inputs[n, ...] and labels[n], so that
    any amount of data works; BatchNorm normalises by the mini-batch. Cost: `num_steps` gradients of
    `batch_size` examples; memory: five times the parameters and one mini-batch's activations.
    """
    schedule = _published_schedule(settings)
    optimizer = optax.sgd(schedule, momentum=settings.momentum)
    weights = jnp.ones(settings.batch_size)

    def loss(bends: PyTree, t: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
        params = curve_point(settings.kind, t, start, bends, end)
        logits, _ = model.batch_apply(params, state, x, weights)
        penalty = settings.weight_decay / 2 * trees.squared_norm(params)
        return losses.mean_cross_entropy(logits, y, weights) + penalty

    def step(number: jax.Array, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        bends, optimizer_state = carry
        t_key, batch_key = jax.random.split(jax.random.fold_in(key, number))
        index = jax.random.randint(batch_key, (settings.batch_size,), 0, num_examples)
        gradient = jax.grad(loss)(bends, jax.random.uniform(t_key), inputs[index], labels[index])
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, bends)
        return optax.apply_updates(bends, updates), optimizer_state

    bends = straight_bends(start, end, settings.num_bends)
    return jax.lax.fori_loop(0, settings.num_steps, step, (bends, optimizer.init(bends)))[0]


def _published_schedule(settings: CurveSettings) -> optax.Schedule:
    def schedule(step: jax.Array) -> jax.Array:
        share = (step + 1) / settings.num_steps
        return settings.learning_rate * jnp.clip(1 - (share - 0.5) / 0.4 * 0.99, 0.01, 1.0)

    return schedule  # pyright: ignore[reportReturnType]


def evaluate_curve(
    model: Model,
    kind: str,
    start: PyTree,
    bends: PyTree,
    end: PyTree,
    state: PyTree,
    inputs: jax.Array,
    labels: jax.Array,
    num_examples: jax.Array,
    *,
    points: jax.Array,
    batch_size: int = 512,
) -> tuple[jax.Array, jax.Array]:
    """Loss (nats) and error (percent) over the first `num_examples` at each t of points[k]: two arrays [k].

    At every point, the ends included, BatchNorm statistics are re-estimated on the same examples first.
    Cost per point: two forward passes, or one where the model has no statistics.
    """

    def evaluate_point(t: jax.Array) -> tuple[jax.Array, jax.Array]:
        params = curve_point(kind, t, start, bends, end)
        statistics = reestimate_statistics(model, params, state, inputs, num_examples, batch_size=batch_size)
        return losses.evaluate(model, params, statistics, inputs, labels, num_examples, batch_size=batch_size)

    return jax.lax.map(evaluate_point, points)


def reestimate_statistics(
    model: Model,
    params: PyTree,
    state: PyTree,
    inputs: jax.Array,
    num_examples: jax.Array,
    *,
    batch_size: int = 128,
) -> PyTree:
    """BatchNorm statistics of `params` on the first `num_examples` of inputs[n, ...].

    Sample-weighted means of the batches' means and unbiased variances, as published. Cost: one forward pass.
    """
    if not jax.tree.leaves(state):
        return state
    size = min(batch_size, inputs.shape[0])

    def add_batch(batch: jax.Array, total: PyTree) -> PyTree:
        x, weights = losses.slice_batch(inputs, batch * size, num_examples, size)
        _, statistics = model.batch_apply(params, state, x, weights)
        share = jnp.sum(weights) / num_examples
        return jax.tree.map(lambda old, new: old + share * new, total, statistics)

    zeros = jax.tree.map(jnp.zeros_like, state)
    return jax.lax.fori_loop(0, -(-num_examples // size), add_batch, zeros)
