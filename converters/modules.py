"""Any torch.nn.Module → a model that the engine measures, computed in JAX by torchax.

The module's own code runs on JAX arrays, in eval mode: without dropout, with stored statistics. torchax does not update
running statistics in train mode. So that they can be re-estimated, every call of BatchNorm is intercepted
(`torchax_modes`), and the buffers it is given as statistics say which of the module's they are.
"""

import copy
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from converters.entry_names import prefix_of
from converters.errors import RefusedError
from converters.state_dicts import require_torch
from mdjax.errors import InputError, first_line

PyTree = Any


class Converted(NamedTuple):
    """A model and one set of its arrays: `mdjax.measure([(params, state)], model=model, data=...)`."""

    model: Any
    params: PyTree
    state: PyTree


def require_torchax() -> Any:
    """The package torchax; InputError where it is not installed or does not import."""
    require_torch()
    # Its import would set this to "1": telemetry of uptime.
    os.environ.setdefault("ENABLE_RUNTIME_UPTIME_TELEMETRY", "0")
    try:
        import torchax
    except ImportError:
        raise InputError(
            "Converting a module needs torchax, which is not installed. Run pip install 'mdjax[torchax]'."
        ) from None
    except Exception as error:  # releases that do not fit the installed torch fail in many ways
        raise InputError(
            f"torchax does not work with the installed torch ({first_line(error)}). Run pip install 'mdjax[torchax]'."
        ) from None
    return torchax


def from_module(module: Any, example_inputs: Any, *, images: bool | None = None) -> Converted:
    """The model and arrays of a torch.nn.Module that maps a tensor of examples [b, ...] to logits [b, classes].

    `example_inputs` is a tensor as the module takes it, at least one example. With `images` (default: where it has
    four axes) examples are stored channels last here and channels first there. The module is copied and left as it
    is. Arrays of further checkpoints come from `model.arrays(state_dict)` and can be measured together.

    Params are nested by the module's names; a weight's outputs are its last axis, as in Flax. State holds the
    floating-point buffers. Costs one forward pass of the module and one, op by op, in JAX, whose logits must agree
    to 1e-4. Raises InputError where torchax is missing and RefusedError, with the reason, for a module that it
    cannot run, that keeps no statistics for its BatchNorm, or that does not return logits.
    """
    torchax = require_torchax()
    import torch

    inputs = (
        example_inputs[0] if isinstance(example_inputs, tuple | list) and len(example_inputs) == 1 else example_inputs
    )
    if not isinstance(inputs, torch.Tensor) or inputs.ndim < 2:
        raise InputError(
            f"example_inputs is {type(inputs).__name__!r}. Give one tensor of examples [b, ...], as the module takes."
        )
    copied = _evaluating(copy.deepcopy(module).cpu())
    for name, part in copied.named_modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm) and part.running_mean is None:
            raise RefusedError(
                f"its BatchNorm {name} keeps no statistics, so that an example's logits depend on the other examples"
            )
    model = TorchModel(copied, _names(copied), images=inputs.ndim == 4 if images is None else images)
    params, state = model.arrays(copied.state_dict())
    with torch.no_grad():
        expected = copied(inputs.cpu())
    if not isinstance(expected, torch.Tensor) or expected.ndim != 2 or len(expected) != len(inputs):
        raise RefusedError(f"it returns {_described(expected)}, not one tensor of logits [b, classes]")
    stored = inputs.detach().cpu().numpy()
    try:
        found = model.apply(params, state, jnp.asarray(np.moveaxis(stored, 1, -1) if model.images else stored))
    except RefusedError:
        raise
    except Exception as error:  # anything that torchax has no rule for
        raise RefusedError(f"torchax cannot run it: {first_line(error)}") from None
    difference = float(np.abs(np.asarray(found) - expected.numpy()).max() / max(1e-30, float(expected.abs().max())))
    if not difference < 1e-4 and bool(torch.isfinite(expected).all()):
        raise RefusedError(f"its logits under torchax {torchax.__version__} differ by {difference:.0e} from PyTorch's")
    return Converted(model, params, state)


def from_exported(
    path: str | Path, example_inputs: Any = None, *, trust: bool = False, images: bool | None = None
) -> Converted:
    """The model and arrays of a `.pt2` file (`torch.export.save`); see `from_module`.

        path: of a program exported in eval mode, for batches of any size: `dynamic_shapes=({0: Dim("batch")},)`.
        example_inputs: a tensor [b, ...] as the program takes it; by default the one in the file.
        trust: that you know where the file comes from; loading it evaluates text from it and may unpickle.
        images: whether examples are stored channels last here; by default where they have four axes.

    Raises InputError without `trust`, RefusedError, with the reason, for a file that cannot be taken.
    """
    require_torchax()
    import torch

    if not trust:
        raise InputError(f"Loading {path} would run what it says. Give trust=True if you know where it comes from.")
    try:
        program = torch.export.load(path)
    except Exception as error:  # a damaged file can raise nearly anything
        raise RefusedError(f"it cannot be loaded: {first_line(error)}") from None
    if example_inputs is None:
        example_inputs = program.example_inputs[0] if program.example_inputs else None
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    for name in program.graph_signature.user_inputs:
        value = placeholders[str(name)].meta["val"]
        if not isinstance(value, torch.Tensor) or isinstance(value.shape[0], int):
            raise RefusedError(
                "it was exported for batches of one size. Export it with "
                'dynamic_shapes=({0: torch.export.Dim("batch")},)'
            )
    return from_module(program.module(check_guards=False), example_inputs, images=images)


@dataclasses.dataclass(frozen=True)
class _Name:
    """An entry of a state_dict and the array that it becomes."""

    torch: str
    path: tuple[str, ...]  # in params or state
    is_param: bool
    shape: tuple[int, ...]
    outputs: int = 0  # the axis of outputs, in PyTorch


@dataclasses.dataclass(frozen=True, eq=False)
class TorchModel:
    """A module as a `mdjax.models.Model`.

    Compared by identity: a program compiled for one object is not reused for another.
    """

    module: Any
    names: tuple[_Name, ...]
    images: bool

    def apply(self, params: PyTree, state: PyTree, inputs: jax.Array) -> jax.Array:
        """Logits [b, classes], with the stored statistics."""
        return self._run(params, state, inputs, None)[0]

    def batch_apply(
        self, params: PyTree, state: PyTree, inputs: jax.Array, weights: jax.Array
    ) -> tuple[jax.Array, PyTree]:
        """Logits normalised by the batch, and the state with its statistics. Without dropout.

            params: as `arrays` gives them.
            state: the same; buffers that are no statistics are returned as they are.
            inputs: [b, ...], images with the channels last.
            weights: of the examples [b]; 0 leaves one out of the statistics.

        Raises RefusedError for running statistics that no BatchNorm used, so that there is no rule to estimate them.
        """
        logits, found = self._run(params, state, inputs, weights)
        entries = {name.torch: name for name in self.names if not name.is_param}
        for name in entries:
            if name.rpartition(".")[2] in ("running_mean", "running_var") and name not in found:
                raise RefusedError(f"its statistics {name} are not those of a BatchNorm and cannot be re-estimated")
        return logits, nested({entry.path: found.get(name, _at(state, entry.path)) for name, entry in entries.items()})

    def arrays(self, state_dict: Mapping[str, Any]) -> tuple[PyTree, PyTree]:
        """(params, state) of a checkpoint of the module, as numpy arrays of float32.

        Entries are torch tensors or numpy arrays. Raises RefusedError for an entry that is missing, left over, of
        another shape, or differs from the one that it is tied to.
        """
        expected = self.module.state_dict(keep_vars=True)
        prefix = prefix_of(state_dict.keys(), expected.keys())  # reading may have taken it off
        given = {f"{prefix}{name}": _array(value) for name, value in state_dict.items()}
        if missing := expected.keys() - given.keys():
            raise RefusedError(f"it lacks {len(missing)} of {len(expected)} entries, first {min(missing)}")
        if unknown := given.keys() - expected.keys():
            raise RefusedError(f"it has {len(unknown)} unknown entries, first {min(unknown)}")
        kept = {id(value): name for name, value in reversed(expected.items())}
        for name, value in expected.items():
            tied = kept[id(value)]
            if given[name].shape != tuple(value.shape):
                raise RefusedError(
                    f"its entry {name} is of shape {list(given[name].shape)}, but {list(value.shape)} was expected"
                )
            if tied != name and not np.array_equal(given[name], given[tied]):
                raise RefusedError(f"its entries {tied} and {name} differ, but are tied to each other")
        constants = {name: value for name, value in self.module.named_buffers() if name not in given}
        params, state = {}, {}
        for name in self.names:
            value = given.get(name.torch)
            value = _array(constants[name.torch]) if value is None else value
            value = value.astype(np.float32)
            (params if name.is_param else state)[name.path] = (
                np.moveaxis(value, name.outputs, -1) if name.is_param and value.ndim > 1 else value
            )
        return nested(params), nested(state)

    def _run(
        self, params: PyTree, state: PyTree, inputs: jax.Array, weights: jax.Array | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        import torch
        import torchax

        from converters.torchax_modes import Interception

        environment = torchax.default_env()
        arrays = {}
        for name in self.names:
            value = jnp.asarray(_at(params if name.is_param else state, name.path))
            arrays[name.torch] = jnp.moveaxis(value, -1, name.outputs) if name.is_param and value.ndim > 1 else value
        for name, buffer in self.module.named_buffers():
            if name not in arrays:  # whole numbers and masks
                arrays[name] = jnp.asarray(buffer.detach().numpy())
        tensors = environment.j2t_iso(arrays)
        statistics = {id(tensors[name.torch]): name.torch for name in self.names if not name.is_param}
        examples = environment.j2t_iso(jnp.moveaxis(inputs, -1, 1) if self.images else inputs)
        with environment, Interception(statistics, weights) as interception:
            logits = torch.func.functional_call(self.module, tensors, (examples,))
        return environment.t2j_iso(logits), interception.found


def _names(module: Any) -> tuple[_Name, ...]:
    import torch

    parts = dict(module.named_modules())
    entries = []
    for is_param, named in ((True, module.named_parameters()), (False, module.named_buffers())):
        for name, value in named:
            if not value.is_floating_point():
                if is_param:
                    raise RefusedError(f"its parameter {name} is {value.dtype}, which has no derivatives")
                continue
            owner, _, leaf = name.rpartition(".")
            part = parts.get(owner)
            inputs_first = isinstance(part, torch.nn.modules.conv._ConvTransposeNd | torch.nn.Embedding)
            if is_param and leaf == "weight":
                leaf = "kernel" if value.ndim > 1 else "scale"
            path = (*owner.split("."), leaf) if owner else (leaf,)
            outputs = 1 if inputs_first and leaf == "kernel" else 0
            entries.append(_Name(name, path, is_param, tuple(value.shape), outputs))
    paths = [(entry.is_param, entry.path) for entry in entries]
    if len(set(paths)) < len(paths):  # a module with both a weight and a kernel
        return tuple(dataclasses.replace(entry, path=tuple(entry.torch.split("."))) for entry in entries)
    return tuple(entries)


def _evaluating(module: Any) -> Any:
    try:
        return module.eval()
    except NotImplementedError:  # an exported program has no modes
        return module


def _array(value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    try:
        value = value.detach().cpu()
        return (value.float() if value.is_floating_point() else value).numpy()
    except Exception as error:  # sparse, quantised, without data
        raise RefusedError(f"one of its entries is no plain array: {first_line(error)}") from None


def nested(arrays: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Arrays by their paths as dicts of dicts."""
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = array
    return tree


def _at(tree: PyTree, path: tuple[str, ...]) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"a tensor of shape {list(shape)}"
