"""A grid of settings → trained, stacked models in a zoo: every model that shares shapes in one compiled program."""

import functools
import hashlib
import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mdjax.columns import RECIPE, TRAINING
from mdjax.engine.compilation import in_32_bits, keep_compiled_programs
from mdjax.engine.plan import brief_options, usual_convolution
from mdjax.engine.programs import compiled
from mdjax.errors import InputError
from mdjax.landscape import losses
from mdjax.landscape.batches import random_order
from mdjax.memory import check_needed
from mdjax.models import Architecture, Model
from mdjax.models.layers import Convolution
from mdjax.models.transformer_variants import parts_of
from mdjax.progress import progress
from mdjax.subprocesses import leave_accelerators_alone
from mdjax.tasks import Task
from mdjax.zoo.data import Data, Dataset, absolute, dataset_of
from mdjax.zoo.fits import check_asked, check_read
from mdjax.zoo.grids import Grid, Setting, readable
from mdjax.zoo.recipes import Rates, Recipe
from mdjax.zoo.store import Zoo
from mdjax.zoo.trainers import Group, Trainers, num_trainers, trained_by

PyTree = Any

MAX_STACK = 64
"""Most models trained together: a larger group is split, which bounds memory and what a killed run repeats."""

_COPIES = 4

MAX_STACK_BYTES = 2**30
"""Most bytes of the parameters of models trained together; momentum and gradients take as much again, each."""

STATISTICS_MOMENTUM = 0.1
"""Weight of the newest batch in BatchNorm's running statistics, as in PyTorch."""

_AUGMENTING = 2**31 - 1
"""What tells the random numbers of augmentation from those of an epoch's order."""

_EPOCHS_TOGETHER = 4
"""Epochs in one call, between which the progress bar moves; the orders of as many are kept."""


class Network(Protocol):
    """What can be trained: an `Architecture`, or anything hashable with these two."""

    def model(self, convolution: Convolution) -> Model:
        """The pure functions, with convolutions computed as `convolution` says where that can be chosen."""
        ...

    def init(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        """Fresh (params, state)."""
        ...


def architecture_of(setting: Setting, dataset: Dataset) -> Architecture:
    """The network of a setting, for the shape and classes of the data."""
    shape, num_classes, variant = dataset.input_shape, dataset.num_classes, setting.variant
    if setting.family == "decoder":
        num_classes = num_classes or dataset.num_tokens
    elif setting.family == "encoder" and dataset.num_tokens and not parts_of(variant).tokens:
        variant = f"{variant} tokens{dataset.num_tokens}"
    return Architecture(setting.family, setting.width, shape, num_classes, setting.depth, variant)


def _check_network(architecture: Architecture, dataset: Dataset) -> None:
    """InputError unless the network reads the data's inputs and says what their task asks for."""
    if architecture.num_tokens < dataset.num_tokens:
        raise InputError(
            f"The networks of the grid read {architecture.num_tokens} tokens, but {dataset.name} has "
            f"{dataset.num_tokens}. Say as many in the variant (tokens{dataset.num_tokens}), or for a decoder as "
            "num_classes beside the data."
        )
    dtype = np.int32 if architecture.reads_tokens else np.float32
    inputs = jax.ShapeDtypeStruct((2, *architecture.input_shape), dtype)
    outputs = jax.eval_shape(architecture.model().apply, *architecture.abstract, inputs)
    targets = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape[1:]), leaf.dtype), dataset.y_train)
    dataset.task.check_outputs(outputs, targets, f"inputs of shape {list(inputs.shape)} of {dataset.name}")


def plan_groups(settings: Sequence[Setting], dataset: Dataset) -> dict[str, list[Setting]]:
    """Group name → its settings: equal architecture, batch size and fraction of the data, at most MAX_STACK of them.

    A name ends with a digest of its members' ids: where a grid has grown, its new groups get names of their own.
    Raises InputError for a batch size larger than the data it is drawn from.
    """
    groups: dict[str, list[Setting]] = {}

    def stack(setting: Setting) -> tuple[Any, ...]:
        return (setting.width, setting.depth, setting.batch_size, setting.data_share)

    for (width, depth, batch_size, data_share), members in itertools.groupby(sorted(settings, key=stack), stack):
        count = dataset.subset_size(data_share)
        if batch_size > count:
            raise InputError(
                f"batch_size {batch_size} exceeds the {count} training examples that data_share {data_share:g} of "
                f"{dataset.name} leaves. Lower batch_size or raise data_share."
            )
        alike = list(members)
        size = 4 * architecture_of(alike[0], dataset).num_params
        limit = min(MAX_STACK, max(1, MAX_STACK_BYTES // size))
        if (steps := alike[0].epochs * (count // batch_size)) >= 2**31:
            raise InputError(f"{alike[0].epochs:,} epochs of {dataset.name} are {steps:,} steps. Give fewer than 2³¹.")
        # Parameters, gradients and what the optimizer keeps of each.
        needed = _COPIES * size * min(limit, len(alike))
        check_needed(f"Training a {alike[0].family} of width {width:,}", needed, "Give a smaller width")
        name = f"{alike[0].family}-w{width}" + (f"-depth{depth}" if depth else "")
        for start in range(0, len(alike), limit):
            part = alike[start : start + limit]
            digest = hashlib.blake2b("\n".join(setting.model_id for setting in part).encode(), digest_size=4)
            groups[f"{name}-bs{batch_size}-data{readable(data_share)}-{digest.hexdigest()}"] = part
    return groups


@in_32_bits
def train(
    grid: Grid,
    out: str | Path,
    *,
    dataset: Data | None = None,
    show_progress: bool = True,
    workers: int | str = 0,
) -> Zoo:
    """Grow the zoo of a grid in `out`; models that are there already are not trained again.

        grid: the settings to train.
        out: the folder of the zoo, new or one that holds models of this grid only.
        dataset: the data already loaded, or its arrays (`mdjax.zoo.data.dataset_of`); by default `grid.data` is.
        show_progress: draw a bar of models.
        workers: processes of their own that train, each of which may die alone (default 0: this one trains; "auto": one
            for each GPU, else one, for a grid of more than a few dozen models). They need data by name or path.

    Recipe, unless the grid says otherwise: SGD with momentum, weight decay on every parameter, constant learning rate,
    mini-batches without the partial last one, the loss of the data's task, no augmentation (the published zoo's, with a
    fixed number of epochs). A model's random numbers derive from its own id, so that they do not depend on the models
    it is trained with, and a grid may grow. Cost: about 3 forward passes per example and epoch and model. Raises
    InputError for settings that cannot be trained, for a folder that cannot be written or that another process is
    writing, for a zoo of other data or of models that the grid lacks, and for groups at which workers died again and
    again: the rest is in the zoo.
    """
    data = grid.data if dataset is None else dataset
    if count := num_trainers(workers, len(grid), data):
        leave_accelerators_alone()
    keep_compiled_programs()
    dataset = dataset_of(data)
    settings = grid.settings()
    check_asked(grid.family, dataset)
    check_read(grid.family, dataset)
    _check_network(architecture_of(settings[0], dataset), dataset)
    grid.recipe.check(dataset.input_shape)
    # What cannot be trained is refused before a zoo is made.
    plan_groups(settings, dataset)
    for noise in {setting.label_noise for setting in settings}:
        dataset.train_labels(noise)
    zoo = Zoo.create(out, data=absolute(grid.data), fingerprint=dataset.fingerprint)
    with zoo.writing():
        trainers = Trainers(count, absolute(str(data)), dataset.fingerprint) if count else None
        _fill(zoo, settings, dataset, trainers, show_progress=show_progress)
    return zoo


def _fill(
    zoo: Zoo, settings: Sequence[Setting], dataset: Dataset, trainers: Trainers | None, *, show_progress: bool
) -> None:
    """Train those models that the zoo has not yet."""
    done = set(zoo.manifest["model_id"])
    foreign = sorted(done - {setting.model_id for setting in settings})
    if foreign:
        raise InputError(
            f"The zoo {zoo.path} already holds models of another grid ({foreign[0]} is not in this one). "
            "Choose another folder for --out."
        )
    groups = plan_groups([setting for setting in settings if setting.model_id not in done], dataset)
    with progress("training", len(settings), done=len(done), show=show_progress) as advance:
        if trainers is None:
            made = _trained_here(groups, dataset, advance)
        else:
            made = trained_by(trainers, groups, Path(str(zoo.path)) / "groups", advance)
        for name, leaves in made:
            members = groups[name]
            rows = [_manifest_row(setting) for setting in members]
            architecture = architecture_of(members[0], dataset)
            params, state = jax.tree.unflatten(jax.tree.structure(architecture.abstract), leaves)
            zoo.append(name, architecture, rows, params, state)


def _trained_here(
    groups: Mapping[str, Sequence[Setting]], dataset: Dataset, advance: Callable[[float], None]
) -> Iterator[Group]:
    for name, members in groups.items():
        yield Group(name, jax.tree.leaves(train_stack(members, dataset, advance=advance)))


def _manifest_row(setting: Setting) -> dict[str, Any]:
    return {
        "model_id": setting.model_id,
        "configuration": setting.configuration,
        **{name: getattr(setting, name) for name in (*TRAINING, "seed")},
        **{name: getattr(setting.recipe, name) for name in RECIPE},
    }


class _Runs(NamedTuple):
    """What tells the training runs of a stack of models apart, each [models]."""

    keys: jax.Array  # from which a model's initial weights and the order of its examples are drawn
    rates: Rates
    noise_index: jax.Array  # which row of the labels the model learns
    num_steps: jax.Array  # of the whole training; the same for all, [models] all the same


class _Shared(NamedTuple):
    """What is compiled into the training of a stack of models."""

    model: Model
    batch_size: int
    recipe: Recipe
    task: Task


class _Examples(NamedTuple):
    """What a stack of models is trained on."""

    inputs: jax.Array  # [examples, ...]
    labels: PyTree  # [noise levels, examples, ...]
    num_used: jax.Array  # how many of the first examples: a number, traced


@in_32_bits
def train_stack(
    settings: Sequence[Setting],
    dataset: Dataset,
    *,
    network: Network | None = None,
    advance: Callable[[float], None] = lambda units: None,
) -> tuple[PyTree, PyTree]:
    """Train models of one architecture, batch size, recipe and fraction of the data together; stacked (params, state).

    `network` is trained in place of the settings' architecture. `advance` is called with the work done since the last
    call, one model's whole training being 1. Memory: parameters, momentum and gradients of every model, and the
    activations of one mini-batch of each.
    """
    first = settings[0]
    architecture = network or architecture_of(first, dataset)
    model = architecture.model(usual_convolution())
    keys = jnp.stack([jax.random.fold_in(jax.random.key(s.seed), zlib.crc32(s.model_id.encode())) for s in settings])
    noises = sorted({setting.label_noise for setting in settings})
    targets = [dataset.train_labels(noise) for noise in noises]
    labels = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *targets)
    noise_index = jnp.asarray([noises.index(setting.label_noise) for setting in settings])
    rates = Rates(
        *(jnp.asarray([getattr(setting, name) for setting in settings], jnp.float32) for name in Rates._fields)
    )
    count = dataset.subset_size(first.data_share)
    num_steps = jnp.full(len(settings), first.epochs * (count // first.batch_size))
    runs = _Runs(keys, rates, noise_index, num_steps)
    examples = _Examples(jnp.asarray(dataset.x_train), labels, jnp.asarray(count))
    shared = _Shared(model, first.batch_size, first.recipe, dataset.task)
    initialize = compiled(
        functools.partial(_initial, architecture, first.recipe),
        ("initial", architecture, first.recipe),
        keys,
        rates,
        compiler_options=brief_options,
    )
    carry = initialize(keys, rates)
    size = len(dataset.x_train)
    orders_from = compiled(functools.partial(_orders, size), ("orders", size), keys, examples.num_used, np.int32(0))
    orders = jax.ShapeDtypeStruct((_EPOCHS_TOGETHER, len(settings), size), np.int32)
    arguments = runs, examples, orders, np.int32(0), np.int32(0)
    train_epochs = compiled(
        functools.partial(_after_epochs, shared), ("epochs", shared), carry, *arguments, donate_argnums=0
    )
    for start in range(0, first.epochs, _EPOCHS_TOGETHER):
        stop = min(start + _EPOCHS_TOGETHER, first.epochs)
        orders = orders_from(keys, examples.num_used, np.int32(start))
        carry = train_epochs(carry, runs, examples, orders, np.int32(start), np.int32(stop))
        jax.block_until_ready(carry)
        advance(len(settings) * (stop - start) / first.epochs)
    params, state, _ = carry
    return jax.tree.map(np.asarray, (params, state))


def _initial(architecture: Network, recipe: Recipe, keys: jax.Array, rates: Rates) -> PyTree:
    params, state = jax.vmap(architecture.init)(keys)
    return params, state, jax.vmap(lambda params, rates: recipe.transformation(rates, 1).init(params))(params, rates)


def _orders(size: int, keys: jax.Array, num_used: jax.Array, start: jax.Array) -> jax.Array:
    """The orders [epochs, models, size] in which models with these keys see the examples, from the epoch `start` on.

    A program of its own, which does not depend on the network: sorting takes long to compile.
    """

    def order(number: jax.Array, key: jax.Array) -> jax.Array:
        return random_order(jax.random.fold_in(key, number), size, num_used)

    return jax.vmap(jax.vmap(order, (None, 0)), (0, None))(start + jnp.arange(_EPOCHS_TOGETHER), keys)


def _after_epochs(
    shared: _Shared,
    carry: PyTree,
    runs: _Runs,
    examples: _Examples,
    orders: jax.Array,
    start: jax.Array,
    stop: jax.Array,
) -> PyTree:
    """The carry (params, state, optimizer's state), stacked, after the epochs `start` to `stop - 1` of every model.

    `orders` are those of the epochs from `start` on. Counts are traced: one program serves all fractions of the data
    and numbers of epochs.
    """
    inputs, labels, num_used = examples
    model, batch_size, recipe, task = shared
    augments = recipe.augmentation != "none"

    def loss(params: PyTree, state: PyTree, x: jax.Array, y: jax.Array) -> tuple[jax.Array, PyTree]:
        weights = jnp.ones(batch_size)
        outputs, statistics = model.batch_apply(params, state, x, weights)
        return losses.mean_loss(task, outputs, y, weights), statistics

    def update(carry: PyTree, run: _Runs, index: jax.Array, number: jax.Array) -> PyTree:
        params, state, optimizer_state = carry
        x, y = inputs[index], jax.tree.map(lambda leaf: leaf[run.noise_index, index], labels)
        if augments:
            x = recipe.augmented(jax.random.fold_in(jax.random.fold_in(run.keys, _AUGMENTING), number), x)
        gradient, statistics = jax.grad(loss, has_aux=True)(params, state, x, y)
        optimizer = recipe.transformation(run.rates, run.num_steps)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        state = jax.tree.map(
            lambda old, new: (1 - STATISTICS_MOMENTUM) * old + STATISTICS_MOMENTUM * new, state, statistics
        )
        return optax.apply_updates(params, updates), state, optimizer_state

    steps = num_used // batch_size

    def epoch(number: jax.Array, carry: PyTree) -> PyTree:
        order = orders[number - start]

        def step(batch: jax.Array, carry: PyTree) -> PyTree:
            index = jax.lax.dynamic_slice_in_dim(order, batch * batch_size, batch_size, axis=1)
            return jax.vmap(update, in_axes=(0, 0, 0, None))(carry, runs, index, number * steps + batch)

        return jax.lax.fori_loop(0, steps, step, carry)

    return jax.lax.fori_loop(start, stop, epoch, carry)
