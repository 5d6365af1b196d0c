"""Checkpoints of Flax modules, linen or nnx, in Orbax folders or msgpack files → a model that the engine measures.

Networks are run as they are evaluated: without dropout, with stored statistics. BatchNorm's statistics are
re-estimated by mdjax's own rule (weighted examples, unbiased variances), whatever momentum the module has.
"""

import contextvars
import copy
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx, serialization

from converters.errors import RefusedError
from converters.module_entries import as_type, canonical, nested
from converters.modules import Converted
from mdjax.errors import InputError, first_line
from mdjax.inputs import open_regular
from mdjax.memory import check_needed
from mdjax.models.layers import batch_moments
from mdjax.zoo.weights import check_stored, checkpointer, size_of, stored_arrays

PyTree = Any
Arrays = dict[tuple[str, ...], np.ndarray]

_EVALUATING = {
    "train": False,
    "training": False,
    "is_training": False,
    "deterministic": True,
    "use_running_average": True,
}
"""Arguments by which a linen module's `__call__` is told that it is evaluated."""

_DEEPEST = 100

_WRAPPERS = ("model", "state", "train_state", "default")
"""Entries in which whole training states are kept; beside them, and beside params, lies the optimizer's."""


def from_flax(
    path: str | Path, module: Any, example_inputs: Any, *, arguments: Mapping[str, Any] | None = None
) -> Converted:
    """The model and arrays of a Flax checkpoint, given the module that it is of.

        path: an Orbax folder (a checkpoint, or one step of a CheckpointManager) or a msgpack file
            (`flax.serialization.to_bytes`), of variables, of params, or of a whole training state, whose optimizer is
            left out.
        module: linen or nnx, the latter with any weights.
        example_inputs: an array [b, ...] of inputs.
        arguments: for a linen module's `__call__`; by default those among train, training, is_training,
            deterministic and use_running_average that it has, set to evaluation.

    Params are a linen module's collection params, an nnx module's `nnx.Param`; all other variables, whole numbers and
    masks included, are state, but for the keys and counts of random numbers. Arrays of further checkpoints of the
    module come from `model.arrays(path)` and can be measured together. Raises RefusedError for a checkpoint that
    cannot be read, lacks an array, or has one left over or of another shape or type; InputError for a module that is
    neither.
    """
    inputs = jax.eval_shape(lambda: jnp.asarray(example_inputs))
    if isinstance(module, nn.Module):
        model: LinenModel | NnxModel = linen_model(module, inputs, arguments)
    elif isinstance(module, nnx.Module):
        model = nnx_model(module, inputs)
    else:
        raise InputError(f"module is {type(module).__name__!r}. Give a Flax module, linen or nnx.")
    params, state = model.arrays(path)
    try:
        logits = jax.eval_shape(model.apply, params, state, inputs)
    except Exception as error:  # the module's own code
        raise RefusedError(f"its module cannot be run on these arrays and inputs: {first_line(error)}") from None
    if getattr(logits, "ndim", 0) < 1 or logits.shape[0] != inputs.shape[0]:
        raise RefusedError(f"its module returns {getattr(logits, 'shape', logits)}, not one array of outputs [b, ...]")
    return Converted(model, params, state)


@dataclasses.dataclass(frozen=True, eq=False)
class LinenModel:
    """A linen module as a `mdjax.models.Model`; state is its collections other than params."""

    module: nn.Module
    arguments: Mapping[str, Any]
    variables: PyTree  # shapes

    def apply(self, params: PyTree, state: PyTree, inputs: jax.Array) -> jax.Array:
        """Logits [b, classes], with the stored statistics."""
        return self.module.apply({"params": params, **state}, inputs, **self.arguments)  # pyright: ignore[reportReturnType]

    def batch_apply(
        self, params: PyTree, state: PyTree, inputs: jax.Array, weights: jax.Array
    ) -> tuple[jax.Array, PyTree]:
        """Logits normalised by the batch, and the state with its statistics.

            params: as `arrays` gives them.
            state: the same; collections other than batch_stats are returned as they are.
            inputs: [b, ...].
            weights: of the examples [b]; 0 leaves one out of the statistics.

        Raises RefusedError for statistics that no nn.BatchNorm used.
        """
        found: set[tuple[str, ...]] = set()

        def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            norm = context.module
            if not isinstance(norm, nn.BatchNorm) or context.method_name != "__call__":
                return call(*args, **kwargs)
            _check_norm(norm, "/".join(norm.path), kwargs.get("mask"), norm.path in found)
            found.add(norm.path)
            outputs, mean, variance = _normalised(
                args[0],
                weights,
                norm.epsilon,
                norm.get_variable("params", "scale"),
                norm.get_variable("params", "bias"),
            )
            norm.put_variable("batch_stats", "mean", mean)
            norm.put_variable("batch_stats", "var", variance)
            return outputs

        with nn.intercept_methods(intercept):
            logits, mutated = self.module.apply(
                {"params": params, **state}, inputs, **self.arguments, mutable=["batch_stats"]
            )
        for name in _flat(state.get("batch_stats", {})):
            if name[:-1] not in found:
                raise RefusedError(f"its statistics {'/'.join(name)} are not those of a BatchNorm")
        return logits, {**state, **mutated} if "batch_stats" in state else state

    def arrays(self, path: str | Path) -> tuple[PyTree, PyTree]:
        """(params, state) of a checkpoint of this module."""
        readings = []
        for content in _contents(_read(Path(path))):
            # `content` may be the variables, hold them under "params" as some training states do, or be params alone.
            for variables in (content, content.get("params"), {"params": content}):
                if isinstance(variables, Mapping):
                    readings.append(_flat({name: variables.get(name) for name in self.variables}))
        tree = _fitted(readings, _flat(self.variables), lambda name: name[0] == "params")
        return tree.get("params", {}), {name: tree.get(name, {}) for name in self.variables if name != "params"}


@dataclasses.dataclass(frozen=True, eq=False)
class NnxModel:
    """An nnx module as a `mdjax.models.Model`; state is its variables that are no `nnx.Param`.

    `fixed` are the keys and counts of random numbers, which are not used when evaluating, and, where the program is
    built on them, whole numbers and masks; checkpoints with others of these are refused.
    """

    graph: Any
    params: Any
    others: Any
    fixed: Any

    def apply(self, params: PyTree, state: PyTree, inputs: jax.Array) -> jax.Array:
        """Logits [b, classes], with the stored statistics."""
        return self._merged(params, state)(inputs)

    def batch_apply(
        self, params: PyTree, state: PyTree, inputs: jax.Array, weights: jax.Array
    ) -> tuple[jax.Array, PyTree]:
        """Logits normalised by the batch, and its statistics.

            params: as `arrays` gives them.
            state: the same; variables other than `nnx.BatchStat` are returned as they are.
            inputs: [b, ...].
            weights: of the examples [b]; 0 leaves one out of the statistics.

        Raises RefusedError for statistics that no nnx.BatchNorm used.
        """
        module = self._merged(params, state)
        norms = {path: node for path, node in nnx.iter_graph(module) if type(node) is nnx.BatchNorm}
        for norm in norms.values():
            # `module` was merged for this call alone, so that its layers may be made to compute something else.
            norm.__class__ = _WeightedNorm
        used: list[int] = []
        token = _EXAMPLES.set((weights, used))
        try:
            logits = module(inputs)
        finally:
            _EXAMPLES.reset(token)
        taken = {tuple(map(str, path)) for path, norm in norms.items() if id(norm) in used}
        found = _flat(nnx.to_pure_dict(nnx.state(module, nnx.BatchStat)))
        for name in found:
            if name[:-1] not in taken:
                raise RefusedError(f"its statistics {'/'.join(name)} are not those of a BatchNorm")
        return logits, nested(_flat(state) | found)

    def own_arrays(self) -> tuple[PyTree, PyTree]:
        """(params, state) of the module itself."""
        params, others = (nested(_flat(nnx.to_pure_dict(part))) for part in (self.params, self.others))
        return params, others

    def arrays(self, path: str | Path) -> tuple[PyTree, PyTree]:
        """(params, state) of a checkpoint of this module."""
        params, others, fixed = (_flat(nnx.to_pure_dict(part)) for part in (self.params, self.others, self.fixed))
        random = _flat(nnx.to_pure_dict(nnx.filter_state(self.fixed, nnx.RngState)))
        constants = {name: array for name, array in fixed.items() if name not in random}
        readings = []
        for content in _contents(_read(Path(path))):
            # A stored nnx.State wraps every array in a dict {"value": array}.
            flat = {name[:-1] if name[-1] == "value" else name: array for name, array in _flat(content).items()}
            readings.append({name: array for name, array in flat.items() if name not in random})
        tree = _flat(_fitted(readings, params | others | constants, lambda name: name in params))
        for name, array in constants.items():
            if not np.array_equal(tree[name], array):
                raise RefusedError(
                    f"its array {'/'.join(name)} is not that of the module, whose program depends on it. Make the "
                    "module with it and call from_flax again"
                )
        return nested({name: tree[name] for name in params}), nested({name: tree[name] for name in others})

    def _merged(self, params: PyTree, state: PyTree) -> Any:
        parts = []
        for template, tree in ((self.params, params), (self.others, state)):
            part = jax.tree.map(lambda leaf: leaf, template)
            # Not numpy's arrays, into which a layer that keeps statistics would write.
            nnx.replace_by_pure_dict(part, nnx.restore_int_paths(jax.tree.map(jnp.asarray, tree)))
            parts.append(part)
        return nnx.merge(self.graph, *parts, self.fixed)


_EXAMPLES: contextvars.ContextVar[tuple[jax.Array, list[int]]] = contextvars.ContextVar("examples")
"""For _WeightedNorm, while a network runs: the weights of the examples [b], and the ids of layers that used them."""


class _WeightedNorm(nnx.BatchNorm):
    """An nnx.BatchNorm that normalises by the batch and keeps the batch's statistics."""

    def __call__(self, x: jax.Array, use_running_average: bool | None = None, *, mask: Any = None) -> jax.Array:
        weights, used = _EXAMPLES.get()
        _check_norm(self, "of the module", mask, id(self) in used)
        used.append(id(self))
        scale, bias = (None if part is None else part[...] for part in (self.scale, self.bias))
        outputs, mean, variance = _normalised(x, weights, self.epsilon, scale, bias)
        self.mean[...] = mean
        self.var[...] = variance
        return outputs


def _check_norm(norm: Any, name: str, mask: Any, again: bool) -> None:
    if norm.axis not in (-1, (-1,), [-1]) or mask is not None:
        raise RefusedError(f"its BatchNorm {name} has another axis than the last, or a mask; it is not re-estimated")
    if again:
        raise RefusedError(f"its BatchNorm {name} serves two layers and cannot be re-estimated")


def _normalised(
    inputs: jax.Array, weights: jax.Array, epsilon: float, scale: Any, bias: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Inputs normalised by the batch, its mean and its unbiased variance."""
    mean, variance, unbiased = batch_moments(inputs, weights)
    factor = jax.lax.rsqrt(variance + epsilon) * (1.0 if scale is None else scale)
    return (inputs - mean) * factor + (0.0 if bias is None else bias), mean, unbiased


def linen_model(module: nn.Module, inputs: PyTree, arguments: Mapping[str, Any] | None = None) -> LinenModel:
    """A linen module as a model, for inputs of these shapes; `arguments` as for `from_flax`."""
    if arguments is None:
        known = inspect.signature(type(module).__call__).parameters
        arguments = {name: value for name, value in _EVALUATING.items() if name in known}
    variables = jax.eval_shape(
        lambda: module.init(
            jax.random.key(0), jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), inputs), **arguments
        )
    )
    return LinenModel(module, dict(arguments), variables)


def nnx_model(module: nnx.Module, inputs: PyTree) -> NnxModel:
    """An nnx module as a model, for inputs of these shapes; the module is left as it is."""
    evaluated = copy.deepcopy(module)
    evaluated.eval()
    fixed = (nnx.RngState, nnx.Any(nnx.RngState, lambda _, value: not jnp.issubdtype(value.dtype, jnp.floating)))
    found = []
    for kept in fixed:
        graph, params, rest, others = nnx.split(evaluated, nnx.Param, kept, ...)  # pyright: ignore[reportArgumentType]
        found.append(NnxModel(graph, params, others, rest))
        try:
            jax.eval_shape(found[-1].apply, *found[-1].own_arrays(), inputs)
        except Exception:  # its code branches or loops on whole numbers; or cannot be run at all, which is found later
            continue
        return found[-1]
    return found[0]


def _read(path: Path) -> Any:
    """The nested dicts of numpy arrays in a msgpack file or an Orbax folder."""
    if not path.exists():
        raise RefusedError("there is no such file or folder")
    try:
        found = serialization.msgpack_restore(_content(path)) if path.is_file() else _restored(path)
        _check_depth(found)
        return found
    except RefusedError:
        raise
    except Exception as error:  # damaged files raise nearly anything
        raise RefusedError(f"it cannot be read: {first_line(error)}") from None


def _content(path: Path) -> bytes:
    with open_regular(path) as file:
        # Arrays are views of the content, and are copied once.
        check_needed("it", 2 * path.stat().st_size, "Give a smaller file")
        return file.read()


def _check_depth(tree: Any) -> None:
    """RefusedError where dictionaries and lists lie in each other deeper than those of any network."""
    nodes = [tree] if isinstance(tree, Mapping | list | tuple) else []
    for _ in range(_DEEPEST):
        inner = [node.values() if isinstance(node, Mapping) else node for node in nodes]
        nodes = [node for part in inner for node in part if isinstance(node, Mapping | list | tuple)]
        if not nodes:
            return
    raise RefusedError(f"its arrays lie more than {_DEEPEST} dictionaries deep")


def _restored(path: Path) -> Any:
    # A step of a CheckpointManager holds its items in folders of their own.
    items = [path, *(path / name for name in _WRAPPERS)]
    folder = next((item for item in items if (item / "_METADATA").is_file()), None)
    if folder is None:
        raise RefusedError("it is no Orbax checkpoint. Give the folder that holds _METADATA, or a step of a manager")
    with checkpointer() as reader:
        size = size_of(folder)  # before a pipe in it could hang its reader
        metadata: Any = reader.metadata(folder.absolute())
        check_stored(
            "its arrays", {name: leaf for name, leaf in stored_arrays(metadata).items() if leaf is not None}, size
        )
        tree = getattr(metadata.item_metadata, "tree", metadata.item_metadata)
        arguments = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
            tree,
            is_leaf=lambda node: not isinstance(node, dict | list | tuple),
        )
        return reader.restore(folder.absolute(), args=ocp.args.PyTreeRestore(restore_args=arguments))


def _contents(content: Any) -> list[Mapping[str, Any]]:
    """What was read, and what lies inside where that is a training state."""
    if not isinstance(content, Mapping):
        raise RefusedError(f"it holds a {type(content).__name__}, not arrays by name")
    inner = [content[name] for name in _WRAPPERS if isinstance(content.get(name), Mapping)]
    return [content, *(found for part in inner for found in _contents(part))]


def _fitted(
    readings: list[Arrays],
    shapes: Mapping[tuple[str, ...], Any],
    is_trained: Callable[[tuple[str, ...]], bool],
) -> PyTree:
    """The arrays of the reading that fits best, as nested dicts; those expected and no others, in the expected types.

    readings: what the file may mean.
    shapes: name → shape and type.
    is_trained: whether the array of a name is differentiated.
    """
    arrays = min(readings, key=lambda reading: len(reading.keys() ^ shapes.keys()))
    if missing := shapes.keys() - arrays.keys():
        raise RefusedError(f"it lacks {len(missing)} of {len(shapes)} arrays, first {'/'.join(min(missing))}")
    if unknown := arrays.keys() - shapes.keys():
        raise RefusedError(f"it has {len(unknown)} unknown arrays, first {'/'.join(min(unknown))}")
    fitted = {}
    for path, expected in shapes.items():
        array, name = np.asarray(arrays[path]), "/".join(path)
        if array.shape != expected.shape:
            raise RefusedError(f"its array {name} is of shape {array.shape}, but {expected.shape} was expected")
        if array.dtype.kind not in "biufc" and jnp.issubdtype(array.dtype, jnp.floating):  # bfloat16 and the like
            array = array.astype(np.float32)
        if is_trained(path) and array.dtype.kind != "f":
            raise RefusedError(f"its array {name} is {array.dtype}, which has no derivatives")
        kind = np.dtype(np.float32) if jnp.issubdtype(expected.dtype, jnp.floating) else expected.dtype
        if array.dtype.kind not in "biufc" or not isinstance(kind, np.dtype):
            raise RefusedError(f"its array {name} is {array.dtype}, but {kind} was expected")
        fitted[path] = canonical(name, as_type(name, array, kind))
    return nested(fitted)


def _flat(tree: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if isinstance(tree, Mapping | list | tuple):
        items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        return {name: leaf for key, node in items for name, leaf in _flat(node, (*path, str(key))).items()}
    return {} if tree is None else {path: tree}
