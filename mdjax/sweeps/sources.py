"""What is measured, and on what: a zoo or a list of models, and the data on the device."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import NamedSharding, PartitionSpec

from mdjax.addresses import Address
from mdjax.engine import Plan, Stack, stacks
from mdjax.errors import InputError, first_line
from mdjax.metrics import Examples, Metric
from mdjax.models import Architecture, FunctionModel, Model
from mdjax.models.architecture import shape_text
from mdjax.statuses import OK, Status, StatusCode
from mdjax.sweeps.facts import checked_facts, configuration_name
from mdjax.sweeps.units import Cell
from mdjax.tasks import Classification, NextToken, form_of
from mdjax.zoo.arrays import Assumption
from mdjax.zoo.data import Dataset
from mdjax.zoo.store import DamagedGroupError, Zoo, weights_hash

PyTree = Any
Source = Zoo | str | Path | Address | Sequence[tuple[PyTree, PyTree]]
ReadGroup = Callable[[str], tuple[PyTree, PyTree]]

NOT_FINITE = Status(StatusCode.WEIGHTS_NOT_FINITE, "weights are not finite")


class GivenModels:
    """A list of models with the interface of a zoo, as far as measuring needs it: seeds of one configuration.

    `facts` are columns of the manifest, as `mdjax.sweeps.facts.checked_facts` returns them.
    """

    def __init__(self, models: Sequence[tuple[PyTree, PyTree]], facts: Mapping[str, int | float] | None = None):
        facts = facts or {}
        self.damaged: dict[str, str] = {}
        self.data = ""
        self.fingerprint = None
        try:
            # Curvature is taken in float32, whatever the weights were stored as.
            self._stacked = jax.tree.map(
                lambda leaf: leaf.astype(np.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
                stacks.stack(models),
            )
        except ValueError as error:
            raise InputError(
                f"The models differ in structure or shape and do not stack ({first_line(error)}). "
                "Measure each shape on its own."
            ) from None
        leaves = jax.tree.leaves(self._stacked)
        finite = np.logical_and.reduce([np.isfinite(leaf).reshape(len(models), -1).all(1) for leaf in leaves])
        self.manifest = pd.DataFrame(
            {
                "model_id": [f"model{i}" for i in range(len(models))],
                "configuration": configuration_name(facts),
                "seed": range(len(models)),
                "num_params": sum(leaf[0].size for leaf in jax.tree.leaves(self._stacked[0])),
                "status": np.where(finite, OK.sentence, NOT_FINITE.sentence),
                "status_code": np.where(finite, OK.code.value, NOT_FINITE.code.value),
                "weights_hash": weights_hash(*self._stacked),
                "group": "given",
                "position": range(len(models)),
                **facts,
            }
        )

    def read_group(self, group: str) -> tuple[PyTree, PyTree]:
        return self._stacked


def _check_models(models: Sequence[tuple[PyTree, PyTree]]) -> None:
    """InputError unless each model is a pair of pytrees of numbers, with parameters among them."""
    for number, member in enumerate(models):
        if not isinstance(member, tuple | list) or len(member) != 2:
            raise InputError(
                f"Model {number} of the list is {type(member).__name__!r}. Give (params, state) for each, with {{}} as "
                "the state of a model that has none."
            )
        if not jax.tree.leaves(member[0]):
            raise InputError(f"Model {number} of the list has no parameters. Give (params, state) with its arrays.")
        for path, leaf in jax.tree_util.tree_leaves_with_path(tuple(member)):
            name = f"{('params', 'state')[path[0].idx]}{jax.tree_util.keystr(path[1:])}"
            try:
                kind = np.asarray(leaf).dtype
                is_number = kind.kind in "biufc" or jnp.issubdtype(kind, jnp.floating)
            except Exception as error:  # a tensor of another library, a random key
                raise InputError(
                    f"{name} of model {number} is {type(leaf).__name__!r} and no array of numbers "
                    f"({first_line(error)}). Give NumPy or JAX arrays, random keys as jax.random.key_data."
                ) from None
            if not is_number:
                raise InputError(f"{name} of model {number} holds {kind}. Give arrays of numbers.")


def with_copies_named(manifest: pd.DataFrame) -> pd.DataFrame:
    """The manifest, where a model whose weights its configuration has already gets the status of a copy.

    Equal weights are one model, however often it was saved or given: no second seed. Models that cannot be measured
    keep their own status.
    """
    known = manifest[(manifest["status_code"] == StatusCode.OK) & (manifest["weights_hash"].fillna("") != "")]
    known = known.sort_values("seed", kind="stable")
    original = known.groupby(["configuration", "weights_hash"])["model_id"].transform("first")
    copies = original[original != known["model_id"]]
    manifest = manifest.copy()
    manifest.loc[copies.index, "status"] = [f"a copy of {name}: the same weights" for name in copies]
    manifest.loc[copies.index, "status_code"] = StatusCode.COPY.value
    return manifest


def opened(
    source: Source, model: Any, metrics: Sequence[Metric], facts: Mapping[str, Any] | None = None
) -> Zoo | GivenModels:
    """The source as a zoo or a list that can be read.

        source: a zoo, its path, or a list of (params, state).
        model: how the models of a list are called.
        metrics: what is to be measured.
        facts: what the user says of the training of a list's models.

    Raises InputError for anything else, for a model that is none, and for facts that are unknown or of a zoo.
    """
    if isinstance(source, Zoo | str | Path | Address):
        if facts:
            raise InputError(
                f"facts ({', '.join(map(str, facts))}) were given for a zoo, whose manifest tells them. Give facts "
                "with a list of models, or to 'mdjax-convert --fact' where a zoo is made."
            )
        return source if isinstance(source, Zoo) else Zoo(source)
    if not isinstance(source, Sequence) or not source or model is None:
        given = "an empty list" if source == [] else repr(type(source).__name__)
        raise InputError(f"Cannot measure {given}. Give a zoo, or a list of (params, state) with model=apply.")
    if not isinstance(model, Model) and not callable(model):
        raise InputError(
            f"model is {type(model).__name__!r}. Give a function apply(params, state, inputs) -> logits, or an object "
            "with the methods apply and batch_apply (mdjax.models.Model)."
        )
    _check_models(source)
    has_state = bool(jax.tree.leaves(source[0][1]))
    reestimating = [metric.name for metric in metrics if metric.reestimates_statistics]
    if not isinstance(model, Model) and has_state and reestimating:
        raise InputError(
            "Cannot re-estimate the statistics of a model given as a function with state. Give an object with apply "
            f"and batch_apply (mdjax.models.Model), or leave {' and '.join(reestimating)} out of metrics."
        )
    return GivenModels(source, checked_facts(facts))


def runner(architecture: Architecture | None, model: Any, plan: Plan) -> Model:
    """The model that a unit's weights are called with."""
    if architecture is not None:
        return architecture.model(plan.convolution)
    return model if isinstance(model, Model) else FunctionModel(model)


class Fitting(NamedTuple):
    """The data in the form that the models read, and what is to be said of how it was chosen."""

    dataset: Dataset
    notes: tuple[str, ...] = ()


def fitting(collection: Zoo | GivenModels, model: Model | None, dataset: Dataset) -> Fitting:
    """The data as the models read them: where nobody gave the inputs' layout, the one that the models can be called on.

    collection: what is measured.
    model: how models given in Python are called; a zoo knows the shape of its models' inputs.
    dataset: the data, as `mdjax.zoo.data.dataset_of` read them.

    By shapes alone, before anything runs. Raises InputError where models given in Python do not take the inputs or do
    not give what the task asks for; an architecture of a zoo is held against the data with its unit.
    """
    reading = dataset.reading
    if isinstance(collection, Zoo):
        shapes = set(collection.manifest.get("input_shape", ()))
        if reading and reading.otherwise and shapes == {shape_text(dataset.input_shape[:-1])}:
            return Fitting(reading.otherwise())
        return Fitting(dataset)
    assert model is not None
    params, state = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), collection.read_group("")
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise InputError(
                f"The parameter {jax.tree_util.keystr(path)} holds {leaf.dtype}, but parameters are differentiated. "
                "Put what is not trained into state."
            )

    def misfit(inputs: PyTree) -> InputError | None:
        try:
            _check_call(model, (params, state), inputs, dataset)
        except InputError as error:
            return error
        return None

    error = misfit(_two(dataset.x_train))
    if reading is None:
        if error is not None:
            raise error
        return Fitting(dataset)
    shape, dtype = dataset.input_shape, dataset.x_train.dtype
    other = {
        Assumption.GREY: (shape[:-1], dtype),
        Assumption.PIXELS: (shape, np.int32),
        Assumption.TOKENS: (shape, np.float32),
    }[reading.assumption]
    fits = misfit(jax.ShapeDtypeStruct((2, *other[0]), other[1])) is None
    told = _told(dataset, reading.assumption)
    if error is None:
        also = (
            f"{told} The model would take them otherwise, too: say which by layout {_REMEDIES[reading.assumption]} "
            "(--layout, layout= or an array layout beside them)."
        )
        return Fitting(dataset, (also,) if fits else ())
    if fits and reading.otherwise is not None:
        return Fitting(reading.otherwise())
    raise InputError(f"{error} {told}") from error


_REMEDIES = {
    Assumption.GREY: "nhwc or features",
    Assumption.PIXELS: "features or tokens",
    Assumption.TOKENS: "tokens (or give pixels as uint8)",
}
"""The layouts that say what was assumed, and what else it could be."""


def _told(dataset: Dataset, assumption: Assumption) -> str:
    shape = list(dataset.input_shape)
    read = {
        Assumption.GREY: f"{shape[:-1]} each, were read as images of one channel, {shape}",
        Assumption.PIXELS: f"uint8 {shape} each, were read as pixels and standardised",
        Assumption.TOKENS: f"whole numbers {shape} each, were read as tokens",
    }
    return f"The inputs of {dataset.name}, {read[assumption]}."


def _two(arrays: PyTree) -> PyTree:
    """The shapes of two examples."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((2, *np.shape(leaf)[1:]), jax.dtypes.canonicalize_dtype(leaf.dtype)), arrays
    )


def _check_call(model: Model, weights: tuple[PyTree, PyTree], inputs: PyTree, dataset: Dataset) -> None:
    """InputError unless the model takes the inputs and gives what the data's task asks for."""
    told = f"inputs {form_of(inputs)} of {dataset.name}"
    try:
        outputs = jax.eval_shape(model.apply, *weights, inputs)
    except InputError:
        raise
    except Exception as error:  # the model is the user's own: it can raise anything
        raise InputError(
            f"Cannot call the model on {told}: {type(error).__name__}: {first_line(error)}. "
            "Give the data that it reads."
        ) from error
    dataset.task.check_outputs(outputs, _two(dataset.y_train), told)
    if isinstance(dataset.task, NextToken):
        largest = max(int(np.max(y)) for y in (dataset.y_train, dataset.y_test) if len(y))
        if largest >= outputs.shape[-1]:
            raise InputError(
                f"The model tells {outputs.shape[-1]} tokens apart, but the targets of {dataset.name} hold {largest}. "
                "Give data of its vocabulary."
            )
    if not isinstance(dataset.task, Classification):
        return
    labels = [int(end) for y in (dataset.y_train, dataset.y_test) if len(y) for end in (np.min(y), np.max(y))]
    if max(*labels, dataset.num_classes - 1) >= outputs.shape[1]:
        given_outputs = f"{outputs.shape[1]} outputs"
        if outputs.shape[1] == 1:
            given_outputs = "1 output (a single logit z is the two logits 0 and z)"
        raise InputError(
            f"The model gives {given_outputs}, but the labels of {dataset.name} go from {min(labels)} to {max(labels)} "
            f"in {dataset.num_classes} classes. Number the classes 0, 1, 2, ... and give each an output."
        )


def on_devices(plan: Plan) -> Callable[[Any], jax.Array]:
    """Puts an array on every device of a plan's mesh from the start, or each call would send it there again."""
    place = None if plan.mesh is None else NamedSharding(plan.mesh, PartitionSpec())
    return lambda array: jax.device_put(jnp.asarray(array), place)


class DeviceData:
    """The data on the device, once; labels once per noise level."""

    def __init__(self, dataset: Dataset, plan: Plan):
        self._dataset = dataset
        self._put = on_devices(plan)
        self._inputs = jax.tree.map(self._put, (dataset.x_train, dataset.x_test, dataset.y_test))
        self._labels: dict[float, PyTree] = {}
        self._ordered: tuple[tuple[float, float], tuple[PyTree, PyTree]] | None = None

    def examples(self, cell: Cell) -> Examples:
        """What the models of a cell are measured on: the subset and the noisy labels that they were trained on."""
        if cell.label_noise not in self._labels:
            labels = self._dataset.train_labels(cell.label_noise)
            self._labels[cell.label_noise] = jax.tree.map(self._put, labels)
        x_train, x_test, y_test = self._inputs
        count = self._put(self._dataset.subset_size(cell.data_share))
        x_train, y_train = self._subset_first(cell, x_train, self._labels[cell.label_noise])
        drawn = self._dataset.drawn is not None
        return Examples(x_train, y_train, count, x_test, y_test, self._dataset.task, drawn)

    def _subset_first(self, cell: Cell, x_train: PyTree, y_train: PyTree) -> tuple[PyTree, PyTree]:
        """A sample's training examples with those first that the models were trained on; of the last cell kept."""
        order = self._dataset.subset_order(cell.data_share)
        if order is None:
            return x_train, y_train
        name = cell.data_share, cell.label_noise
        if self._ordered is None or self._ordered[0] != name:
            self._ordered = None  # before another one is made
            arrays = self._dataset.x_train, self._dataset.train_labels(cell.label_noise)
            self._ordered = name, jax.tree.map(lambda leaf: self._put(leaf[order]), arrays)
        return self._ordered[1]


def example_shapes(dataset: Dataset, cell: Cell) -> Examples:
    """What `DeviceData.examples` gives, shapes in place of arrays but for the number of examples: for no device."""

    def shape(array: Any) -> Any:
        return jax.ShapeDtypeStruct(np.shape(array), jax.dtypes.canonicalize_dtype(array.dtype))

    arrays = dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test
    x_train, y_train, x_test, y_test = jax.tree.map(shape, arrays)
    num_train: Any = np.int32(dataset.subset_size(cell.data_share))
    return Examples(x_train, y_train, num_train, x_test, y_test, dataset.task, dataset.drawn is not None)


RECENT_BYTES = 2**28
"""Of groups of a zoo that are kept in memory beside the one read last."""


def recent_groups(read_group: ReadGroup, most_bytes: int = RECENT_BYTES) -> ReadGroup:
    """A reader that keeps the groups read last for the units to come; before it reads one it makes room.

    most_bytes: of the groups that are kept beside the newest one.
    """
    kept: dict[str, tuple[PyTree, PyTree]] = {}

    def read(group: str) -> tuple[PyTree, PyTree]:
        if group in kept:
            kept[group] = kept.pop(group)
            return kept[group]
        sizes = {name: sum(leaf.nbytes for leaf in jax.tree.leaves(weights)) for name, weights in kept.items()}
        for name in [*kept]:
            if sum(sizes[other] for other in kept) <= most_bytes:
                break
            del kept[name]
        kept[group] = read_group(group)
        return kept[group]

    return read


class Loaded(NamedTuple):
    """Models in memory: those that could be read, and why the others could not.

    `rows` are those of the manifest, in the order of the stack.
    """

    rows: pd.DataFrame
    stack: Stack
    problems: dict[str, Status]


def loaded(rows: pd.DataFrame, model: Model, read_group: ReadGroup) -> Loaded:
    """Read the groups that models stand in, which are rows of a manifest, and stack them in this order."""
    problems: dict[str, Status] = {}
    stacked: PyTree = None
    is_read = np.zeros(len(rows), bool)
    for group in rows["group"].unique():
        own = (rows["group"] == group).to_numpy()
        try:
            weights = read_group(str(group))
        except DamagedGroupError as error:
            status = Status(StatusCode.GROUP_DAMAGED, str(error))
            problems.update(dict.fromkeys(rows.loc[own, "model_id"], status))
            continue
        if stacked is None:
            stacked = jax.tree.map(lambda leaf: np.zeros((len(rows), *leaf.shape[1:]), leaf.dtype), weights)
        positions = rows.loc[own, "position"].to_numpy()
        # Straight to their places: of large networks every further copy counts.
        jax.tree.map(lambda leaf, part: leaf.__setitem__(own, part[positions]), stacked, weights)
        is_read |= own
        del weights  # before the next group is read
    if stacked is None:
        return Loaded(rows.iloc[:0], Stack(model, {}, {}, []), problems)
    if not is_read.all():
        rows, stacked = rows[is_read], stacks.take(stacked, np.flatnonzero(is_read))
    params, state = stacked
    return Loaded(rows, Stack(model, params, state, rows["model_id"].tolist()), problems)
