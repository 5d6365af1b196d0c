"""Networks of no known family: their own torch.nn.Module, given by the user, as one of mdjax's architectures.

The module's code is the user's and is run; a checkpoint stays what it is, data. A zoo holds networks by name, so what
can be kept in one is a plain sequence of layers (`converters.specifications`) or a network of a known family, and it is
held against the module itself: equal logits and gradients. Others are measured from Python (`converters.from_module`).
"""

import ast
import copy
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from converters import families
from converters.entry_names import completed, prefix_of, tied_names
from converters.errors import RefusedError, UnknownFamilyError
from converters.module_copies import plain
from converters.specifications import fitting_shape, specification
from converters.state_dicts import Reading
from mdjax.errors import InputError, first_line
from mdjax.models import Architecture
from mdjax.models.architecture import shape_text
from mdjax.models.sequences import layers_of
from mdjax.own_code import own_names, run_file

Arrays = Mapping[str, np.ndarray]

_TOLERANCE = 1e-4


class Made(NamedTuple):
    """A user's module, of any library: itself, the call that makes it, and the file of its code ("": not known)."""

    module: Any
    construction: str
    code: str = ""


def made(module: Any) -> Made:
    """A module as it is, or made as a text says: "FILE.py:CLASS", or with plain values "FILE.py:CLASS(16, bias=False)".

    A text's file is run; CLASS may be a function that returns a module, too. Raises InputError for a text that cannot
    be read, and for code that is not there or raises.
    """
    if not isinstance(module, str):
        return Made(module, f"{type(module).__name__}()")
    code, name, arguments = _parts(module)
    return Made(_made(code, name, arguments), f"{name}({arguments})", code)


class OwnModule:
    """The module that all files of a conversion are checkpoints of.

    module: a torch.nn.Module, left as it is, or how it is made, as `made` takes it, or what that returned.
        `construction` is the call.
    """

    def __init__(self, module: Any):
        import torch

        self.module, self.construction, self.code = module if isinstance(module, Made) else made(module)
        if not isinstance(self.module, torch.nn.Module):
            raise InputError(f"module is {type(self.module).__name__!r}. Give a torch.nn.Module or FILE.py:CLASS.")
        self._verified: set[Architecture] = set()
        self._plain = plain(self.module).eval().requires_grad_(requires_grad=True)  # as files are read

    def recognised(self, arrays: Arrays, facts: Mapping[str, Any]) -> tuple[Architecture, Arrays]:
        """The architecture that computes what the module does with these arrays, and the arrays by its names.

        Every array is an entry of the module and the other way round, as in a strict `load_state_dict`, but that of
        tied ones one is enough. `facts` may tell the `input_shape`. Raises RefusedError with the reason,
        UnknownFamilyError for a module that is none of mdjax's networks. Cost: for the first file of an architecture a
        forward and a backward pass of four examples, in PyTorch and here.
        """
        expected = self._plain.state_dict(keep_vars=True)
        prefix = prefix_of(arrays.keys(), expected.keys())
        ties = [[name.removeprefix(prefix) for name in group] for group in tied_names(expected)]
        arrays = completed(arrays, ties)
        module = self._with(arrays, prefix)
        _check_ties(arrays, ties)
        shape = facts.get("input_shape")
        reason = ""
        try:
            text = specification(module, prefix)
            once = _without_unused(arrays, ties, {layer.key for layer in layers_of(text)})
            told = {"specification": text, "input_shape": shape or fitting_shape(text, once)}
            architecture = families.recognise(once, told)
        except RefusedError as error:
            reason = str(error)
            once = _without_unused(arrays, ties, {group[0].rpartition(".")[0] for group in ties})
            try:
                architecture = families.recognise(once, {} if shape is None else {"input_shape": shape})
            except RefusedError:
                raise UnknownFamilyError(_NOT_HERE.format(reason)) from None
        finite = all(np.isfinite(array).all() for array in arrays.values())
        if finite and architecture not in self._verified:
            try:
                difference = _difference(module, prefix, once, architecture)
            except Exception as error:  # the module is the user's own: it can raise anything
                shape = shape_text(architecture.input_shape)
                problem = f"on inputs of {shape} it raises {type(error).__name__}: {first_line(error)}"
                raise UnknownFamilyError(_NOT_HERE.format(problem)) from None
            if not difference < _TOLERANCE:
                reason = reason or "its trace does not show all that it does"
                found = f"as {architecture.family} its logits or gradients differ by {difference:.0e}"
                raise UnknownFamilyError(_NOT_HERE.format(f"{reason}; {found}"))
            self._verified.add(architecture)
        return architecture, once

    def _with(self, arrays: Arrays, prefix: str) -> Any:
        """The module in eval mode with these arrays, every one of its parameters differentiated."""
        import torch

        module = copy.deepcopy(self._plain)
        entries = {f"{prefix}{name}": torch.from_numpy(np.array(array)) for name, array in arrays.items()}
        expected = module.state_dict()
        for verb, names in (("lacks", expected.keys() - entries.keys()), ("has", entries.keys() - expected.keys())):
            if names:
                kind = "entries" if verb == "lacks" else "entries unknown to the module"
                raise RefusedError(f"it {verb} {len(names)} {kind} of {self.construction}, first {min(names)}")
        try:
            module.load_state_dict(entries)
        except RuntimeError as error:
            raise RefusedError(
                f"it does not load into {self.construction}: {str(error).split(chr(10))[1].strip()}"
            ) from None
        return module


def _check_ties(arrays: Arrays, ties: Iterable[Sequence[str]]) -> None:
    for first, *others in ties:
        for name in others:
            if not np.array_equal(arrays[name], arrays[first], equal_nan=arrays[name].dtype.kind == "f"):
                raise RefusedError(f"its entries {first} and {name} differ, but are tied to each other")


def _without_unused(arrays: Arrays, ties: Iterable[Sequence[str]], layers: Collection[str]) -> Arrays:
    """The arrays without those names of what is tied that are of none of these layers, where others are."""
    unused: set[str] = set()
    for group in ties:
        used = [name for name in group if name.rpartition(".")[0] in layers]
        unused |= set(group) - set(used) if used else set()
    return {name: array for name, array in arrays.items() if name not in unused}


HINT = "; give the network's code with --module FILE.py:CLASS, or measure it from Python as said below"
_NOT_HERE = "its module is no network that a zoo can hold ({}); measure it from Python as said below"


def python_lines(path: Path, reading: Reading, module: OwnModule | None, data: Any) -> str:
    """How a network that only its own code tells is measured from Python, with the lines for one of its files.

    path: of the checkpoint.
    reading: how it is read.
    module: the network's code, where it is known.
    data: what it was trained on, by `name` and `input_shape`, which may be unknown.
    """
    made = "YourNetwork()" if module is None else module.construction
    options = [f"{name}=True" for name, value in reading._asdict().items() if value]
    how = "".join(f", {option}" for option in options)
    shape = data.input_shape
    inputs = "example_inputs"
    if shape is not None:
        inputs = f"torch.zeros{(2, shape[2], *shape[:2]) if len(shape) == 3 else (2, *shape)}"
    imported = f"from {Path(module.code).stem} import {made.partition('(')[0]}\n  " if module and module.code else ""
    told = "" if module else "YourNetwork is its class; "
    told += "" if shape is not None else "example_inputs is a tensor of examples [b, ...] as it takes them"
    return (
        "A network that only its own code tells is measured from Python (pip install 'mdjax[torchax]'):\n\n"
        f"  {imported}model, _, _ = converters.from_module({made}, {inputs})\n"
        f"  models = [model.arrays(converters.read_state_dict({str(path)!r}{how}))]\n"
        f"  table = mdjax.measure(models, model=model, data={data.name or 'my.npz'!r})\n"
        + (f"\n{told.rstrip('; ')}." if told else "")
    )


def _parts(text: str) -> tuple[str, str, str]:
    """ "FILE.py:CLASS(ARGUMENTS)" as its three parts."""
    found = re.fullmatch(r"(.+):([A-Za-z_]\w*)(?:\((.*)\))?", text, re.DOTALL)
    if found is None:
        raise InputError(f"Cannot read the module {text!r}. Give the network's code as FILE.py:CLASS.")
    return found[1], found[2], found[3] or ""


def _made(file: str, name: str, arguments: str) -> Any:
    """The module that a call makes. Runs the file."""
    code = run_file(file, "the network's code")
    called = getattr(code, name, None)
    if not callable(called):
        raise InputError(
            f"{file} has no {name!r}; it has {', '.join(own_names(code)) or 'nothing'}. Give FILE.py:CLASS."
        )
    try:
        call = ast.parse(f"made({arguments})", mode="eval").body
        if not isinstance(call, ast.Call):
            raise ValueError
        positional = [ast.literal_eval(value) for value in call.args]
        named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError):
        raise InputError(f"Cannot read {arguments!r}. Write plain values as in Python: 16, bias=False.") from None
    try:
        return called(*positional, **named)
    except Exception as error:  # the user's own code again
        raise InputError(
            f"{name}({arguments}) raised {type(error).__name__}: {first_line(error)}. Give --module-args what it needs."
        ) from None


def _difference(module: Any, prefix: str, arrays: Arrays, architecture: Architecture) -> float:
    """The largest relative difference of logits and gradients between a module and an architecture, at random inputs.

    Gradients are those of a random function of the logits; parameters that get none in PyTorch count as zero.
    """
    import torch

    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(4, *architecture.input_shape)).astype(np.float32)
    weights = generator.normal(size=(4, architecture.num_classes)).astype(np.float32)
    stored = np.moveaxis(inputs, -1, 1) if inputs.ndim == 4 else inputs
    # A copy: views of one channel keep strides that torch takes for channels stored last.
    logits = module(torch.from_numpy(np.array(stored, order="C")))
    (logits * torch.from_numpy(weights) + logits.square() / 2).sum().backward()
    gradients = dict(arrays)
    for name, parameter in module.named_parameters(remove_duplicate=False):
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        if (entry := name.removeprefix(prefix)) in arrays:
            gradients[entry] = gradient.numpy()
    params, state = families.to_flax(arrays, architecture)
    model = architecture.model()

    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        found = model.apply(params, state, jnp.asarray(inputs))
        return (found * weights + found**2 / 2).sum(), found

    found_gradients, found = jax.grad(loss, has_aux=True)(params)
    pairs = [(found, logits.detach().numpy())]
    expected = families.to_flax(gradients, architecture)[0]
    pairs += list(zip(jax.tree.leaves(found_gradients), jax.tree.leaves(expected), strict=True))
    if np.shape(found) != tuple(logits.shape):
        return float("inf")
    scale = max(float(np.abs(other).max()) for _, other in pairs[1:])
    scales = [float(np.abs(pairs[0][1]).max()), *[max(np.abs(other).max(), 1e-2 * scale) for _, other in pairs[1:]]]
    return max(float(np.abs(one - other).max() / max(size, 1e-30)) for (one, other), size in zip(pairs, scales))
