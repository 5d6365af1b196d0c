"""Copies of a torch.nn.Module, also of one whose weights are computed from others, as by pruning and normalisation."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from converters.errors import RefusedError
from mdjax.errors import first_line


def copied(module: Any) -> Any:
    """A copy of a module on the CPU, which shares nothing with it.

    Pruning and the older weight and spectral normalisation keep, as a plain attribute, the weight that they computed
    last; it is computed again in each forward pass, and the copy has its values alone. Raises RefusedError for a module
    that cannot be copied.
    """
    import torch

    # What deepcopy would refuse, tensors with a history, by their ids; they live as long as the module does.
    derived = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    }
    try:
        return copy.deepcopy(module, derived).cpu()
    except Exception as error:  # its attributes can be anything
        raise RefusedError(
            f"it cannot be copied: {type(error).__name__}: {first_line(error)}. Take out what keeps it from being "
            "copied, as tensors with a gradient or open files that it keeps beside its parameters"
        ) from None


def plain(module: Any) -> Any:
    """A copy of a module with pruning and weight normalisation multiplied out, as reading files does."""
    from torch.nn.utils import parametrize, prune
    from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

    found = copied(module)
    for part in list(found.modules()):
        if parametrize.is_parametrized(part):
            # The class that torch made for this part is also that of its copies, and removing changes it.
            own = {name: value for name, value in vars(type(part)).items() if name not in ("__dict__", "__weakref__")}
            part.__class__ = type(type(part).__name__, type(part).__bases__, own)
            for name, parametrizations in list(part.parametrizations.items()):
                if all(type(one).__name__ == "_WeightNorm" for one in parametrizations):
                    parametrize.remove_parametrizations(part, name)
        for hook in list(part._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(part, hook.name)
            elif isinstance(hook, prune.BasePruningMethod):
                prune.remove(part, hook._tensor_name)
    return found


@contextmanager
def unchanged(module: Any) -> Iterator[None]:
    """Puts back what a forward pass writes into the attributes of a module and its parts."""
    before = [(part, dict(vars(part))) for part in module.modules()]
    try:
        yield
    finally:
        for part, attributes in before:
            vars(part).clear()
            vars(part).update(attributes)
