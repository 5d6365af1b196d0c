"""Any torch.nn.Module → a model that the engine measures, computed in JAX by torchax.

The module's own code runs on JAX arrays, in eval mode: without dropout, with stored statistics. torchax does not update
running statistics in train mode. So that they can be re-estimated, every call of BatchNorm is intercepted
(`torchax_modes`), and the buffers it is given as statistics say which of the module's they are.
"""

import dataclasses
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from converters import module_entries as entries
from converters.entry_names import as_expected, completed, derived_from, tied_names
from converters.errors import RefusedError
from converters.module_copies import copied, unchanged
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
    """The model and arrays of a torch.nn.Module that maps a tensor of examples [b, ...] to one of outputs [b, ...].

    Outputs are logits [b, classes] or what else its task asks for (`mdjax.tasks`), by themselves or as the entry
    `logits` of what it returns.

    `example_inputs` is a tensor as the module takes it, at least one example. With `images` (default: where it has
    four axes) examples are stored channels last here and channels first there. The module is copied and left as it
    is. Arrays of further checkpoints come from `model.arrays(state_dict)` and can be measured together.

    Params are nested by the module's names; a weight's outputs are its last axis, as in Flax. State holds the buffers,
    whole numbers and masks included. Parameters that the module does not train are named in `model.frozen`. What runs
    without gradient in PyTorch has none here. Costs two forward passes and a gradient of the module, and the same, op
    by op, in JAX: logits must agree to 1e-4, gradients to 1e-2. Raises InputError where torchax is missing and
    RefusedError, with the reason, for a module that it cannot run, whose derivatives are not those of what it computes
    (`torch.autograd.Function`, hooks), that keeps no statistics for its BatchNorm, or does not return one tensor with
    an output for each example.
    """
    require_torchax()
    import torch

    from converters.derivatives import reference_logits, refuse_hooks

    inputs = (
        example_inputs[0] if isinstance(example_inputs, tuple | list) and len(example_inputs) == 1 else example_inputs
    )
    if not isinstance(inputs, torch.Tensor) or inputs.ndim < 2:
        raise InputError(
            f"example_inputs is {type(inputs).__name__!r}. Give one tensor of examples [b, ...], as the module takes."
        )
    if not isinstance(module, torch.nn.Module):
        found = f"the class {module.__name__}" if isinstance(module, type) else repr(type(module).__name__)
        raise InputError(f"module is {found}. Give a torch.nn.Module, made and loaded: network = MyNetwork(...).")
    if not inputs.numel():
        raise InputError(f"example_inputs is of shape {list(inputs.shape)}. Give at least one number.")
    refuse_hooks(module)
    frozen = {name for name, value in module.named_parameters() if not value.requires_grad}
    evaluated = _evaluating(copied(module))
    for name, part in evaluated.named_modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm) and part.running_mean is None:
            raise RefusedError(
                f"its BatchNorm {name} keeps no statistics, so that an example's logits depend on the other examples"
            )
    examples = inputs.detach().cpu()
    # A forward pass may change its buffers, as counters.
    expected = reference_logits(copied(evaluated), examples)
    if not isinstance(expected, torch.Tensor) or expected.ndim < 1 or len(expected) != len(inputs):
        raise RefusedError(f"it returns {_described(expected)}, not one tensor of outputs [b, ...]")
    names = entries.module_names(evaluated)
    model = TorchModel(
        evaluated,
        names,
        images=inputs.ndim == 4 if images is None else images,
        frozen=tuple(entries.key_path(name) for name in names if name.torch in frozen and name.is_param),
    )
    stored = jnp.asarray(np.moveaxis(examples.numpy(), 1, -1) if model.images else examples.numpy())
    try:
        with jax.default_matmul_precision("highest"):
            model = _traceable(model, stored)
            params, state = model.arrays(evaluated.state_dict())
            found = model.apply(params, state, stored)
            _check_logits(np.asarray(found), expected.float().numpy())
            _check_gradient(model, state, stored, examples)
    except RefusedError:
        raise
    except Exception as error:  # anything that torchax has no rule for
        raise RefusedError(f"torchax cannot run it: {first_line(error)}") from None
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
    return from_module(_tied_again(program.module(check_guards=False)), example_inputs, images=images)


def _tied_again(module: Any) -> Any:
    """A loaded program whose tied parameters, which share their memory still, are one parameter again."""
    first: dict[Any, Any] = {}
    for part in module.modules():
        for leaf, value in part._parameters.items():
            if value is not None and value.numel():
                part._parameters[leaf] = first.setdefault((value.data_ptr(), value.shape, value.stride()), value)
    return module


@dataclasses.dataclass(frozen=True, eq=False)
class TorchModel:
    """A module as a `mdjax.models.Model`.

    `frozen` are the parameters that the module does not train (`requires_grad` False), by their paths in params as
    `jax.tree_util.keystr` spells them. `constants` are buffers whose values the program is built on, as the number of
    steps of a loop; checkpoints with others are refused. Compared by identity: a program compiled for one object is
    not reused for another.
    """

    module: Any
    names: tuple[entries.Name, ...]
    images: bool
    frozen: tuple[str, ...] = ()
    constants: frozenset[str] = frozenset()

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
        buffers = {name.torch: name for name in self.names if not name.is_param}
        for name in buffers:
            if name.rpartition(".")[2] in ("running_mean", "running_var") and name not in found:
                raise RefusedError(f"its statistics {name} are not those of a BatchNorm and cannot be re-estimated")
        estimated = {entry.path: found.get(name, entries.at_path(state, entry.path)) for name, entry in buffers.items()}
        return logits, entries.nested(estimated)

    def arrays(self, state_dict: Mapping[str, Any]) -> tuple[PyTree, PyTree]:
        """(params, state) of a checkpoint of the module, as numpy arrays: float32, whole numbers and masks as they are.

        Entries are torch tensors or numpy arrays; of tied ones one is enough. Every entry is taken, but for BatchNorm's
        counters of batches. Raises RefusedError for an entry that is missing, left over, of another shape or kind,
        that differs from the one it is tied to, or from a constant of the program.
        """
        if not isinstance(state_dict, Mapping):
            raise InputError(
                f"state_dict is {type(state_dict).__name__!r}. Give the entries by name, as module.state_dict() does."
            )
        expected = self.module.state_dict(keep_vars=True)
        # Of all names of one tensor of the module the first one stands for it.
        groups = tied_names(expected)
        first_of = {name: group[0] for group in groups for name in group}
        named = as_expected({str(name): value for name, value in state_dict.items()}, expected.keys())
        given = completed({name: entries.plain_array(value, name) for name, value in named.items()}, groups)
        missing, unknown = expected.keys() - given.keys(), given.keys() - expected.keys()
        if missing:
            raise RefusedError(
                f"it lacks {len(missing)} of {len(expected)} entries, first {min(missing)}{_remedy(missing, unknown)}"
            )
        if unknown:
            raise RefusedError(f"it has {len(unknown)} unknown entries, first {min(unknown)}")
        for name, value in expected.items():
            given[name] = entries.fitting(name, given[name], value)
            first = first_of[name]
            if not np.array_equal(given[name], given[first], equal_nan=given[name].dtype.kind == "f"):
                raise RefusedError(f"its entries {first} and {name} differ, but are tied to each other")
            if name in self.constants and not np.array_equal(given[name], entries.plain_array(value, name)):
                raise RefusedError(
                    f"its entry {name} is not that of the module, whose program depends on it. Load this checkpoint "
                    "into the module and call from_module again"
                )
        others = {name: value for name, value in self.module.named_buffers() if name not in given}
        values = given | {name: entries.plain_array(value, name) for name, value in others.items()}
        values = {name.torch: entries.canonical(name.torch, values[name.torch]) for name in self.names}
        return entries.placed(self.names, values, params=True), entries.placed(self.names, values, params=False)

    def _run(
        self, params: PyTree, state: PyTree, inputs: jax.Array, weights: jax.Array | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        import torch

        from converters import torchax_rules
        from converters.derivatives import outputs_of
        from converters.torchax_modes import Interception, mark

        environment = torchax_rules.environment()
        arrays = entries.found(self.names, params, params=True) | entries.found(self.names, state, params=False)
        with jax.ensure_compile_time_eval():  # the program can be built on them
            for name, buffer in self.module.named_buffers():
                if name not in arrays:  # counters of batches, and constants
                    arrays[name] = jnp.asarray(entries.canonical(name, entries.plain_array(buffer, name)))
        tensors = environment.j2t_iso(arrays)
        statistics = {id(tensors[name.torch]): name.torch for name in self.names if not name.is_param}
        given = jnp.asarray(inputs)
        examples = mark(environment.j2t_iso(jnp.moveaxis(given, -1, 1) if self.images else given), False)
        params_of = {name.torch for name in self.names if name.is_param}
        for name, tensor in tensors.items():
            mark(tensor, name in params_of)
        everywhere = {name: tensors[first] for name, first in entries.representatives(self.module).items()}
        interception = Interception(statistics, weights, folded=bool(self.constants))
        with environment, unchanged(self.module), interception:
            logits = outputs_of(torch.func.functional_call(self.module, everywhere, (examples,), tie_weights=False))
        return environment.t2j_iso(logits), interception.found


def _remedy(missing: Collection[str], unknown: Collection[str]) -> str:
    """What to do about a weight that is stored and one that is computed from others, "" where there is none such."""
    for name in sorted(unknown):
        if any(parts <= set(missing) for parts in derived_from(name)):
            return (
                f"; the module computes {name} from them, and here it is multiplied out, as by "
                "converters.read_state_dict. Give the entries as they were saved, by torch.load(FILE)"
            )
    for name in sorted(missing):
        if any(parts <= set(unknown) for parts in derived_from(name)):
            return "; here it is computed from others. Give it multiplied out, by converters.read_state_dict(FILE)"
    return ""


def _traceable(model: TorchModel, inputs: jax.Array) -> TorchModel:
    """The model, with those buffers as constants without whose values its program cannot be written down."""
    whole = {name.torch for name in model.names if not name.is_param and not name.is_floating}
    failure = _failure(model, inputs)
    if failure is None or not whole:
        if failure is not None:
            raise failure
        return model
    fixed = {name for name in whole if _failure(_with_constants(model, whole - {name}), inputs) is not None}
    for constants in (fixed, whole):
        found = _with_constants(model, constants)
        failure = _failure(found, inputs)
        if failure is None:
            return found
    raise failure


def _with_constants(model: TorchModel, constants: set[str]) -> TorchModel:
    names = tuple(name for name in model.names if name.torch not in constants)
    return dataclasses.replace(model, names=names, constants=frozenset(constants))


def _failure(model: TorchModel, inputs: jax.Array) -> Exception | None:
    try:
        jax.eval_shape(model.apply, *model.arrays(model.module.state_dict()), inputs)
    except Exception as error:  # the module's own code, and anything that torchax has no rule for
        return error
    return None


def _check_logits(found: np.ndarray, expected: np.ndarray) -> None:
    import torchax

    difference = float(np.abs(found - expected).max() / max(1e-30, float(np.abs(expected).max())))
    if not difference < 1e-4 and bool(np.isfinite(expected).all()):
        raise RefusedError(f"its logits under torchax {torchax.__version__} differ by {difference:.0e} from PyTorch's")


def _check_gradient(model: TorchModel, state: PyTree, inputs: jax.Array, examples: Any) -> None:
    from converters import derivatives

    if not any(name.is_param for name in model.names):
        return
    values = {name: entries.plain_array(value, name) for name, value in model.module.named_parameters()}
    point = derivatives.nearby(values)

    def total(params: PyTree) -> jax.Array:
        logits = model.apply(params, state, inputs)
        return jnp.sum(logits * derivatives.logit_weights(logits.shape))

    slopes = jax.grad(total)(entries.placed(model.names, point, params=True))
    named = {name: np.asarray(array) for name, array in entries.found(model.names, slopes, params=True).items()}
    if differing := derivatives.difference(named, derivatives.gradient(copied(model.module), point, examples)):
        raise RefusedError(
            f"the derivative of its logits by {differing} is not PyTorch's: something in its forward pass changes "
            "derivatives in a way that torchax does not follow"
        )


def _evaluating(module: Any) -> Any:
    try:
        return module.eval()
    except NotImplementedError:  # an exported program has no modes
        return module


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"a tensor of shape {list(shape)}"
