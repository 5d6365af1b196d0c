"""Two models → a curve of low loss between them, its training, and loss and error along it."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from mdjax.errors import InputError
from mdjax.landscape import losses
from mdjax.landscape.batches import LabelledExamples, over_data, random_order, slice_batch
from mdjax.models import Model
from mdjax.models.parameters import Parts, divided, united

PyTree = Any

Kind = Literal["bezier", "chain", "line"]
Start = Literal["midpoint", "random"]
Recipe = Literal["steps", "published"]

EVALUATED_TOGETHER = 128
"""Examples in one forward pass when a curve is evaluated."""

_SCALES, _SHIFTS = ("scale", "gamma"), ("bias", "beta", "shift")


@dataclasses.dataclass(frozen=True)
class CurveSettings:
    """How a curve is shaped and trained.

    `kind`: a Bézier curve or a polygonal chain with `num_bends` trained control points, or the straight line, which
    has none. `start`: the bends begin evenly spaced on the line between the ends ("midpoint", for one bend), or at
    random as published; a curve that starts low needs fewer steps.

    Trained by momentum SGD with one t per mini-batch; `weight_decay` penalises the curve's point, ½·wd·‖w(t)‖².
    `recipe` "steps": `num_steps` mini-batches drawn with replacement, whatever the amount of data, and a t that is
    uniform on [0, 1] and evenly spread over consecutive steps (golden-ratio sequence), which halves the spread of
    the result over keys. "published": `epoch_factor` · int(10/s) epochs in random order, s the fraction of the
    examples that is trained on, the partial last mini-batch kept, t ~ U(0, 1) independently. The learning rate is
    constant for half of the training (of its epochs, as published), falls linearly to 1 % at 90 %, and stays.

    The defaults are fewer steps than published, of fewer examples, at a higher learning rate: on small networks of the
    digits the highest training error along the curve is below that of 500 steps of 128 examples at a rate of 0.01, for
    a seventh of the examples. `published()` gives the published values.

    InputError for values that mean nothing. Source of the published ones: Zhou et al., "MD tree", ICML 2024.
    """

    kind: Kind = "bezier"
    num_bends: int = 1
    start: Start = "midpoint"
    recipe: Recipe = "steps"
    num_steps: int = 150
    epoch_factor: int = 5
    batch_size: int = 64
    learning_rate: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        for name, choices in (("kind", Kind), ("start", Start), ("recipe", Recipe)):
            if getattr(self, name) not in get_args(choices):
                raise InputError(
                    f"{name} is {getattr(self, name)!r}. Choose one of {', '.join(get_args(choices))} for a curve."
                )
        for name in ("num_bends", "epoch_factor", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}. Give a curve at least 1.")
        if self.num_steps < 0:
            raise InputError(f"num_steps is {self.num_steps}. Give a curve 0 or more.")

    @classmethod
    def published(cls, **changes: Any) -> "CurveSettings":
        """The published recipe: 50 epochs (on all data) of SGD from a random bend."""
        fields = {"start": "random", "recipe": "published", "batch_size": 128, "learning_rate": 0.01}
        return cls(**fields | changes)


@functools.partial(jax.tree_util.register_dataclass, data_fields=("start", "bends", "end"), meta_fields=("kind",))
@dataclasses.dataclass(frozen=True)
class Curve:
    """A curve between the parameters of two models; a pytree of its arrays, whose `kind` is static.

    `start` and `end` are the models' parameters; `bends` has the same structure, with the control points between them
    stacked on axis 0 of every array: none of them for a "line".
    """

    kind: Kind
    start: PyTree
    bends: PyTree
    end: PyTree

    @property
    def num_bends(self) -> int:
        """How many control points lie between the ends."""
        return len(jax.tree.leaves(self.bends)[0])


def point_weights(kind: str, t: jax.Array, num_points: int) -> list[jax.Array]:
    """The weight of each of `num_points` control points at t in [0, 1]; they sum to 1.

    "bezier": Bernstein polynomials, for one bend (1−t)², 2t(1−t), t². "chain" and "line": straight segments.
    Source: Garipov et al., "Loss surfaces, mode connectivity, and fast ensembling of DNNs", NeurIPS 2018.
    """
    degree = num_points - 1
    if kind == "bezier":
        return [math.comb(degree, i) * t**i * (1 - t) ** (degree - i) for i in range(num_points)]
    return [jnp.maximum(0.0, 1 - jnp.abs(t * degree - i)) for i in range(num_points)]


def curve_point(curve: Curve, t: jax.Array) -> PyTree:
    """The parameters w(t) for t in [0, 1]."""
    middle = [jax.tree.map(lambda leaf, i=i: leaf[i], curve.bends) for i in range(curve.num_bends)]
    weights = point_weights(curve.kind, t, curve.num_bends + 2)
    return jax.tree.map(
        lambda *leaves: sum(weight * leaf for weight, leaf in zip(weights, leaves, strict=True)),
        curve.start,
        *middle,
        curve.end,
    )


def straight_bends(start: PyTree, end: PyTree, num_bends: int) -> PyTree:
    """Bends evenly spaced on the line from start to end, stacked on axis 0."""
    fractions = jnp.arange(1, num_bends + 1) / (num_bends + 1)

    def between(a: jax.Array, b: jax.Array) -> jax.Array:
        fraction = fractions.astype(a.dtype).reshape(-1, *[1] * a.ndim)
        return (1 - fraction) * a + fraction * b

    return jax.tree.map(between, start, end)


def random_bends(params: PyTree, num_bends: int, key: jax.Array, counted: Sequence[bool] | None = None) -> PyTree:
    """Bends with the entries that a fresh network of the same shapes gets, stacked on axis 0.

        params: one model's, or their shapes.
        num_bends: how many.
        key: what they are drawn with.
        counted: for each array whether it is drawn; the others are None in the result.

    A kernel (any array of two or more axes, inputs before the last one) is drawn from U(±1/√fan_in), and so is a
    bias beside it: the nearest kernel before it, else after it, in the same node of the tree that has as many
    outputs. Without a kernel beside it a scale is drawn from U(0, 1) and a shift is 0, which is BatchNorm as
    published (PyTorch < 1.2). InputError, with its path, for an array that is none of these.
    """
    leaves, structure = jax.tree.flatten_with_path(params)

    def drawn(index: int) -> jax.Array:
        leaf, (low, high) = leaves[index][1], _bounds(index, leaves)
        return jax.random.uniform(jax.random.fold_in(key, index), (num_bends, *leaf.shape), leaf.dtype, low, high)

    wanted = [True] * len(leaves) if counted is None else counted
    return jax.tree.unflatten(structure, [drawn(i) if is_wanted else None for i, is_wanted in enumerate(wanted)])


def _bounds(index: int, leaves: list[tuple[Any, jax.Array]]) -> tuple[float, float]:
    """The range (low, high) of `random_bends` for the leaf at `index`."""
    path, leaf = leaves[index]
    kernels = [index] if leaf.ndim > 1 else []
    if leaf.ndim == 1:
        beside = [
            i
            for i, (other, kernel) in enumerate(leaves)
            if other[:-1] == path[:-1] and kernel.ndim > 1 and kernel.shape[-1] == leaf.shape[0]
        ]
        kernels = sorted(beside, key=lambda i: (i > index, abs(i - index)))
    if kernels:
        bound = 1 / math.sqrt(math.prod(leaves[kernels[0]][1].shape[:-1]))
        return -bound, bound
    name = str(getattr(path[-1], "key", getattr(path[-1], "name", "")) if path else "").lower()
    if name in _SCALES:
        return 0.0, 1.0
    if name in _SHIFTS:
        return 0.0, 0.0
    raise InputError(
        f"Cannot draw a random start for the parameter {jax.tree_util.keystr(path)} of shape {leaf.shape}, which is no "
        "kernel, no bias beside one, and not named scale or bias. Start the curve at the midpoint."
    )


def trained_curve(
    model: Model,
    settings: CurveSettings,
    start: PyTree,
    end: PyTree,
    state: PyTree,
    examples: LabelledExamples,
    key: jax.Array,
    counted: Sequence[bool] | None = None,
) -> Curve:
    """A curve between two models' parameters, its bends trained and its ends fixed.

        model: its `batch_apply` is used: BatchNorm normalises by the mini-batch.
        settings: the curve's shape and training; a "line" is not trained.
        start, end: the two models' parameters.
        state: any of the two models' statistics; only its structure matters.
        examples: where mini-batches come from.
        key: for the bends' random start, the mini-batches and t.
        counted: for each array of the parameters whether it is trained (default: all); the others stay on the
            straight line between the ends, and are not decayed.

    Cost: one gradient of `settings.batch_size` examples a step; memory: two copies of the bends, three of the
    parameters and one mini-batch's activations.
    """
    if settings.kind == "line":
        return Curve("line", start, straight_bends(start, end, 0), end)
    given, num_examples = (examples.inputs, examples.targets), examples.num_examples
    start_key, key = jax.random.split(key)
    counted = (True,) * len(jax.tree.leaves(start)) if counted is None else counted
    bends, resting = divided(straight_bends(start, end, settings.num_bends), counted)
    if settings.start == "random":
        bends = random_bends(start, settings.num_bends, start_key, counted)
    size = settings.batch_size
    published = settings.recipe == "published"
    steps_per_epoch = -(-num_examples // size) if published else 1
    # int(10/s) in whole numbers, so that no rounding of s decides.
    num_epochs = settings.epoch_factor * (10 * examples.capacity // num_examples) if published else settings.num_steps
    optimizer = optax.sgd(_schedule(settings.learning_rate, steps_per_epoch, num_epochs), momentum=settings.momentum)

    def loss(params: PyTree, held: PyTree, x: PyTree, y: PyTree, mask: jax.Array) -> jax.Array:
        x, y, mask = over_data((x, y, mask))
        outputs, _ = model.batch_apply(united(Parts(params, held)), state, x, mask)
        return losses.mean_loss(examples.task, outputs, y, mask)

    def step(carry: PyTree, t: jax.Array, index: jax.Array, weights: jax.Array) -> PyTree:
        bends, optimizer_state = carry
        point = curve_point(Curve(settings.kind, start, united(Parts(bends, resting)), end), t)
        params, held = divided(point, counted)
        batch = jax.tree.map(lambda leaf: leaf[index], given)
        gradient = jax.grad(loss)(params, held, *batch, weights)
        # By the chain rule each bend's gradient is the point's times the bend's weight in it.
        own = jnp.stack(point_weights(settings.kind, t, settings.num_bends + 2)[1:-1])
        gradient = jax.tree.map(
            lambda g, w: jnp.multiply.outer(own, g + settings.weight_decay * w).astype(g.dtype), gradient, params
        )
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, bends)
        return optax.apply_updates(bends, updates), optimizer_state

    t_key, batch_key = jax.random.split(key)

    def drawn_step(number: jax.Array, carry: PyTree) -> PyTree:
        index = jax.random.randint(jax.random.fold_in(batch_key, number), (size,), 0, num_examples)
        return step(carry, _spread(jax.random.uniform(t_key), number), index, jnp.ones(size))

    def epoch(number: jax.Array, carry: PyTree) -> PyTree:
        t_key, order_key = jax.random.split(jax.random.fold_in(key, number))
        order = random_order(order_key, examples.capacity, num_examples)

        def epoch_step(batch: jax.Array, carry: PyTree) -> PyTree:
            index, weights = slice_batch(order, batch * size, num_examples, size)
            return step(carry, jax.random.uniform(jax.random.fold_in(t_key, batch)), index, weights)

        return jax.lax.fori_loop(0, steps_per_epoch, epoch_step, carry)

    carry = (bends, optimizer.init(bends))
    bends = jax.lax.fori_loop(0, num_epochs, epoch if published else drawn_step, carry)[0]
    return Curve(settings.kind, start, united(Parts(bends, resting)), end)


def _schedule(learning_rate: float, steps_per_epoch: Any, num_epochs: Any) -> optax.Schedule:
    """α = epoch/E, epochs from 1: constant to α = ½, linear to 1 % at α = 0.9, constant."""

    def schedule(step: jax.Array) -> jax.Array:
        alpha = (step // steps_per_epoch + 1) / num_epochs
        return learning_rate * jnp.clip(1 - (alpha - 0.5) / 0.4 * 0.99, 0.01, 1.0)

    return schedule  # pyright: ignore[reportReturnType]


def _spread(first: jax.Array, number: jax.Array) -> jax.Array:
    """Term `number` of the golden-ratio sequence in [0, 1) that begins at `first`: t without gaps or clusters."""
    # 2³² times the golden ratio's fraction: whole numbers wrap around without rounding.
    turn = number.astype(jnp.uint32) * jnp.uint32(2654435769)
    return (first + turn.astype(jnp.float32) * 2.0**-32) % 1


def evaluate_curve(
    model: Model,
    curve: Curve,
    state: PyTree,
    examples: LabelledExamples,
    *,
    points: jax.Array,
    batch_size: int = EVALUATED_TOGETHER,
    statistics: PyTree = None,
) -> tuple[jax.Array, jax.Array]:
    """Loss and error (percent) over the examples at points of a curve, by their task: two arrays [k].

        model: its `apply` and, where it has statistics, its `batch_apply` are used.
        curve: between two models' parameters.
        state: statistics of the curve's models; only their structure matters.
        examples: what loss and error are means over, and statistics re-estimated on.
        points: t[k] in [0, 1].
        batch_size: examples in one forward pass of the evaluation.
        statistics: what `reestimate_statistics` gives for these points, where that is at hand.

    At every point, the ends included, BatchNorm statistics are re-estimated on the same examples first.
    Cost per point: two forward passes, or one where the model has no statistics. Memory: one point's parameters and
    one batch's activations at a time, and the statistics of all points.
    """
    if statistics is None:
        statistics = reestimate_statistics(model, curve, state, examples, points=points)

    def evaluate_point(point: tuple[jax.Array, PyTree]) -> tuple[jax.Array, jax.Array]:
        t, statistics = point
        return losses.evaluate(model, curve_point(curve, t), statistics, examples, batch_size=batch_size)

    return jax.lax.map(evaluate_point, (points, statistics))


def reestimate_statistics(
    model: Model,
    curve: Curve,
    state: PyTree,
    examples: LabelledExamples,
    *,
    points: jax.Array,
    batch_size: int = 128,
) -> PyTree:
    """BatchNorm statistics at points of a curve, those of all points stacked on axis 0.

        model: its `batch_apply` is used.
        curve: between two models' parameters.
        state: statistics of one model; only their structure matters, and an empty one is returned as it is.
        examples: what the statistics are taken over; targets are not used.
        points: t[k] in [0, 1].
        batch_size: examples in one batch.

    Sample-weighted means of the batches' means and unbiased variances, as published, in one pass over the data for
    all points. What every batch leaves as it was, an order or a mask, is no statistic and stays so to the last bit.
    Cost: one forward pass a point.
    """
    if not jax.tree.leaves(state):
        return state
    inputs, num_examples = examples.inputs, examples.num_examples
    size = min(batch_size, examples.capacity)

    def add_batch(batch: jax.Array, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        x, weights = slice_batch(inputs, batch * size, num_examples, size)
        fraction = jnp.sum(weights) / num_examples

        def add_point(point: tuple[jax.Array, PyTree, PyTree]) -> tuple[PyTree, PyTree]:
            t, total, is_kept = point
            _, statistics = model.batch_apply(curve_point(curve, t), state, x, weights)
            total = jax.tree.map(
                lambda old, new: old + fraction * new if jnp.issubdtype(old.dtype, jnp.floating) else new,
                total,
                statistics,
            )
            return total, jax.tree.map(lambda kept, old, new: kept & jnp.all(new == old), is_kept, state, statistics)

        return jax.lax.map(add_point, (points, *carry))

    zeros = jax.tree.map(lambda leaf: jnp.zeros((len(points), *leaf.shape), leaf.dtype), state)
    kept = jax.tree.map(lambda leaf: jnp.ones(len(points), bool), state)
    totals, kept = jax.lax.fori_loop(0, -(-num_examples // size), add_batch, (zeros, kept))

    def chosen(is_kept: jax.Array, old: jax.Array, total: jax.Array) -> jax.Array:
        return jnp.where(is_kept.reshape(-1, *[1] * old.ndim), old, total)

    return jax.tree.map(chosen, kept, state, totals)


def kept_apart(state: PyTree, end_state: PyTree, statistics: PyTree) -> jax.Array:
    """Whether two models differ in what is not re-estimated on a curve between them, such as orders, masks, counters.

        state: of the first model, which `statistics` were re-estimated with.
        end_state: of the second model, aligned with the first where its parameters are.
        statistics: at points of the curve, as `reestimate_statistics` gives them.

    The curve then leads to a network that is neither. What has the first model's values at the curve's end is taken
    as not re-estimated. bool[].
    """

    def is_apart(first: jax.Array, second: jax.Array, found: jax.Array) -> jax.Array:
        return jnp.all(found[-1] == first) & jnp.any(second != first)

    apart = [jnp.zeros((), bool), *jax.tree.leaves(jax.tree.map(is_apart, state, end_state, statistics))]
    return jnp.any(jnp.stack(apart))
