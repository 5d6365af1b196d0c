"""What happens to a module's calls before torchax gets them.

BatchNorm by the batch, missing arguments filled in, and no derivatives where PyTorch takes none: torchax itself knows
nothing of `torch.no_grad`, `.data` and their like.
"""

import contextlib
import unittest.mock
from collections.abc import Iterator, Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import torch
from jax.core import Tracer
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as torch_pytree
from torchax.tensor import Tensor
from torchax.view import View

from converters import torchax_rules
from converters.errors import RefusedError
from mdjax.models.layers import batch_moments

_FUNCTIONAL = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_BUILT_IN = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
_ARGUMENTS = {
    torch.nn.functional.batch_norm: _FUNCTIONAL,
    torch.batch_norm: _BUILT_IN,
    torch.ops.aten.batch_norm.default: _BUILT_IN,
}


class Interception(TorchFunctionMode):
    """A context in which a module's calls have the derivatives that PyTorch gives them, and BatchNorm its statistics.

    What runs while gradients are off has none, whatever it writes into included. `statistics` maps the identity (`id`)
    of each running statistic's tensor to its name; with `weights` [b], BatchNorm normalises by the batch, examples
    weighted by them, and its mean and unbiased variance are in `found` afterwards, under those names. With `weights`
    None it uses its stored statistics. With `folded`, what depends on constants alone is computed at once, so that the
    program can be built on its values.
    """

    def __init__(self, statistics: Mapping[int, str], weights: jax.Array | None, *, folded: bool = False):
        super().__init__()
        self._folded = folded
        self._statistics = statistics
        self._weights = weights
        self._contexts = contextlib.ExitStack()
        self.found: dict[str, jax.Array] = {}

    def __enter__(self) -> Self:
        # Methods that torchax wrote in Python do not come through here.
        for kind, methods in _METHODS.items():
            for name, method in methods.items():
                self._contexts.enter_context(unittest.mock.patch.object(kind, name, method))
        # A caller that measures without gradients wants derivatives all the same.
        self._contexts.enter_context(torch.inference_mode(False))
        self._contexts.enter_context(torch.enable_grad())
        return super().__enter__()

    def __exit__(self, *reason: Any) -> None:
        super().__exit__(*reason)
        self._contexts.close()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # torch.func.grad, which torchax can follow, calls torch.autograd.grad.
        if func in _REFUSED and not torch._C._are_functorch_transforms_active():
            raise RefusedError(f"it uses {_REFUSED[func]} in its forward pass, which JAX does not know. {_REMEDY}")
        if func in _ANSWERS and isinstance(args[0], Tensor | View):
            return _ANSWERS[func](*args, **kwargs)
        given = _tensors((args, kwargs)) if self._folded else []
        at_once = given and not any(isinstance(_root(tensor)._elem, Tracer) for tensor in given)
        evaluation = jax.ensure_compile_time_eval() if at_once else contextlib.nullcontext()
        with evaluation, _recorded((args, kwargs)) as results:
            results.append(self._called(func, args, kwargs))
        return results[0]

    def _called(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if func in _ARGUMENTS:
            given = dict(zip(_ARGUMENTS[func], args, strict=False)) | kwargs
            if given.get("training"):
                raise RefusedError("its BatchNorm is fixed to training. Export it, or write it, in eval mode")
            if self._weights is not None:
                return self._normalised(given, self._weights)
        if not isinstance(func, torch._ops.OpOverload):
            return func(*args, **kwargs)
        try:
            return func(*args, **kwargs)
        except TypeError:
            # Exported programs leave out arguments that have defaults; some of torchax's rules want them.
            return func(*_with_defaults(func, args, kwargs), **kwargs)

    def _normalised(self, given: dict[str, Any], weights: jax.Array) -> torch.Tensor:
        environment = torchax_rules.environment()
        names: list[str] = []
        for which in ("running_mean", "running_var"):
            name = self._statistics.get(id(given[which]))
            if name is None:
                raise RefusedError("its BatchNorm gets statistics that are no buffers and cannot be re-estimated")
            if name in self.found:
                raise RefusedError(f"its statistics {name} serve two layers and cannot be re-estimated")
            names.append(name)
        inputs = jnp.moveaxis(environment.t2j_iso(given["input"]), 1, -1)
        mean, variance, unbiased = batch_moments(inputs, weights)
        self.found |= dict(zip(names, (mean, unbiased), strict=True))
        factor = jax.lax.rsqrt(variance + given.get("eps", 1e-5))
        if given.get("weight") is not None:
            factor = factor * environment.t2j_iso(given["weight"])
        outputs = (inputs - mean) * factor
        if given.get("bias") is not None:
            outputs = outputs + environment.t2j_iso(given["bias"])
        return environment.j2t_iso(jnp.moveaxis(outputs, -1, 1))


def _with_defaults(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """All arguments that may be given by position, defaults included; those given by name are taken out of kwargs."""
    positional = [argument for argument in func._schema.arguments if not argument.kwarg_only]
    return [*args, *(kwargs.pop(argument.name, argument.default_value) for argument in positional[len(args) :])]


@jax.custom_jvp
def _written(value: jax.Array, before: jax.Array) -> jax.Array:
    """`value`, with the derivatives of `before`: what PyTorch makes of a write that it does not record."""
    return value


@_written.defjvp
def _written_jvp(primals: Any, tangents: Any) -> Any:
    return _written(*primals), tangents[1]


def _without_gradient() -> bool:
    return torch.is_inference_mode_enabled() or not torch.is_grad_enabled()


def _root(tensor: Tensor | View) -> Tensor:
    while isinstance(tensor, View):
        tensor = tensor.parent
    return tensor


def _tensors(tree: Any) -> list[Tensor | View]:
    return [leaf for leaf in torch_pytree.tree_leaves(tree) if isinstance(leaf, Tensor | View)]


@contextlib.contextmanager
def _recorded(arguments: Any) -> Iterator[list[Any]]:
    """A context for one call.

    Afterwards its results, which belong into the list, and what it wrote into have PyTorch's derivatives.
    """
    given = _tensors(arguments)
    needed = any(map(_needs_gradient, given))
    before = {id(root): (root, root._elem) for root in map(_root, given)}
    results: list[Any] = []
    yield results
    off = _without_gradient()
    for root, array in before.values():
        if root._elem is not array:
            mark(root, _needs_gradient(root) or (needed and not off))
            if off and root._elem.shape == array.shape:
                root._elem = _written(root._elem.astype(array.dtype), array)
            # What .detach() and .data give shares its memory with where it is from.
            source = getattr(root, "_detached_from", None)
            if source is not None:
                if isinstance(source, View):
                    raise RefusedError(
                        "it writes into .data or .detach() of a part of a tensor, which mdjax cannot follow"
                    )
                source._elem = _written(root._elem, source._elem)
    known = {id(tensor) for tensor in given}
    for tensor in _tensors(results):
        if id(tensor) not in known:
            mark(tensor, needed and not off and jnp.issubdtype(tensor.jax().dtype, jnp.floating))
            if off:
                _stop(tensor)


def _stop(tensor: Tensor | View) -> None:
    """Takes the derivatives of a result away; a view still writes into what it is a view of."""
    if isinstance(tensor, Tensor):
        tensor._elem = jax.lax.stop_gradient(tensor._elem)
        return
    whole = type(tensor).source_jax
    tensor.source_jax = lambda: jax.lax.stop_gradient(whole(tensor))


def _detached(tensor: Tensor | View) -> Tensor:
    found: Any = Tensor(jax.lax.stop_gradient(tensor.jax()), tensor._env)
    found._detached_from = tensor
    return mark(found, False)


def _detached_in_place(tensor: Tensor | View) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise RefusedError("it calls .detach_() on a part of a tensor")
    tensor._elem = jax.lax.stop_gradient(tensor._elem)
    return mark(tensor, False)


def mark(tensor: Any, requires_grad: bool = True) -> Any:
    """The tensor, which from now on answers whether it requires a gradient."""
    tensor._needs_gradient = requires_grad
    return tensor


def _needs_gradient(tensor: Tensor | View) -> bool:
    """What PyTorch would say of `requires_grad`."""
    return getattr(tensor, "_needs_gradient", jnp.issubdtype(tensor.jax().dtype, jnp.floating))


def _set_data(tensor: Tensor | View, value: Any) -> None:
    if not isinstance(tensor, Tensor) or not isinstance(value, Tensor | View):
        raise RefusedError("it replaces .data of a part of a tensor or by an array of another kind")
    tensor._elem = _written(value.jax().astype(tensor._elem.dtype), tensor._elem)


def _flattened(tensor: Tensor | View, start_dim: int = 0, end_dim: int = -1) -> Any:
    return torch.flatten(tensor, start_dim, end_dim)


def _item_setter(written: Any) -> Any:
    def set_item(tensor: Tensor | View, key: Any, value: Any) -> None:
        with _recorded((tensor, value)):
            written(tensor, key, value)

    return set_item


def _methods(kind: Any) -> dict[str, Any]:
    return {
        "__setitem__": _item_setter(kind.__setitem__),
        "data": property(_detached, _set_data),
        "detach": _detached,
        "flatten": _flattened,
    }


_METHODS = {kind: _methods(kind) for kind in (Tensor, View)}
_TENSOR: Any = torch.Tensor
_ANSWERS = {
    torch.detach: _detached,
    torch.Tensor.detach: _detached,
    torch.ops.aten.detach.default: _detached,
    torch.Tensor.detach_: _detached_in_place,
    torch.Tensor.requires_grad_: mark,
    _TENSOR.requires_grad.__get__: _needs_gradient,
    _TENSOR.requires_grad.__set__: mark,
}
_REFUSED = {
    torch.Tensor.register_hook: ".register_hook()",
    _TENSOR.grad_fn.__get__: ".grad_fn",
    torch.Tensor.backward: ".backward()",
    torch.autograd.grad: "torch.autograd.grad()",
}
_REMEDY = "Take it off, or write what it does with .detach() or torch.func.grad"
