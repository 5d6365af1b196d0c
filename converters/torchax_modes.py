"""What happens to a module's calls before torchax gets them: BatchNorm by the batch, missing arguments filled in."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import torch
import torchax
from torch.overrides import TorchFunctionMode

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
    """A context in which BatchNorm normalises by the batch, examples weighted by `weights` [b].

    `statistics` maps the identity (`id`) of each running statistic's tensor to its name; under those names the batch's
    mean and unbiased variance are in `found` afterwards. With `weights` None, BatchNorm uses its stored statistics.
    """

    def __init__(self, statistics: Mapping[int, str], weights: jax.Array | None):
        super().__init__()
        self._statistics = statistics
        self._weights = weights
        self.found: dict[str, jax.Array] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
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
        environment = torchax.default_env()
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
