"""How PyTorch differentiates a module: what JAX cannot know of is refused by name, its gradient is the reference."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from converters.errors import RefusedError
from mdjax.errors import first_line

_RELATIVE, _ABSOLUTE = 1e-2, 1e-4
"""How far the gradient of a parameter may be off, of its own length and of the longest one. Rounding is far below;
a part that is differentiated in another way is far above."""


def refuse_hooks(module: Any) -> None:
    """Raise RefusedError for a module with backward hooks, which can change any derivative."""
    everywhere = torch.nn.modules.module
    if everywhere._global_backward_hooks or everywhere._global_backward_pre_hooks:
        raise RefusedError("there are backward hooks for all modules, which can change derivatives. Remove them first")
    for name, part in module.named_modules():
        if part._backward_hooks or part._backward_pre_hooks:
            raise RefusedError(
                f"its part {name or type(part).__name__} has a backward hook, which can change derivatives. "
                "Remove it first"
            )
    for name, value in module.named_parameters():
        if value._backward_hooks:
            raise RefusedError(
                f"its parameter {name} has a hook on its gradient, which can change it. Remove the hook first"
            )


def outputs_of(returned: Any) -> Any:
    """The outputs in what a module returns: `logits` where they are an entry of an object, as those of transformers."""
    found = getattr(returned, "logits", None)
    return returned if found is None else found


def reference_logits(module: Any, inputs: Any) -> Any:
    """What the module returns for a batch, computed as for training in eval mode, without its graph.

    Raises RefusedError where PyTorch finds no derivatives, or a `torch.autograd.Function` gives its own.
    """
    with torch.inference_mode(False), torch.enable_grad():
        for value in module.parameters():
            if value.is_floating_point():
                value.requires_grad_(True)
        try:
            outputs = outputs_of(module(inputs))
        except RefusedError:
            raise
        except Exception as error:  # the module's own code
            raise RefusedError(f"PyTorch cannot run it with gradients: {first_line(error)}") from None
    if not isinstance(outputs, torch.Tensor):
        return outputs
    if any(value.requires_grad for value in module.parameters()) and not outputs.requires_grad:
        raise RefusedError(
            "PyTorch finds no derivatives of its logits, as they come from torch.no_grad() or .detach(). Take it off"
        )
    if named := _own_derivatives(outputs.grad_fn):
        raise RefusedError(
            f"its torch.autograd.Function {named} defines a derivative of its own, which JAX does not know. Write it "
            "with .detach(), as (x + (f(x) - x).detach()), or in differentiable functions"
        )
    return outputs.detach()


def _own_derivatives(node: Any) -> str:
    """The name of a function in a graph whose backward pass is not PyTorch's own, or ""."""
    waiting, known = [node], {node}
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            return getattr(node, "_forward_cls", type(node)).__qualname__
        for following, _ in node.next_functions:
            if following not in known:
                known.add(following)
                waiting.append(following)
    return ""


def nearby(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Parameters moved a little, away from the kinks that zeros and ties lie on: there any two derivatives agree."""
    generator = np.random.default_rng(0)
    return {
        name: np.asarray(
            array * (1 + 0.01 * generator.normal(size=array.shape)) + 1e-3 * generator.normal(size=array.shape),
            np.float32,
        )
        for name, array in arrays.items()
    }


def logit_weights(shape: tuple[int, ...]) -> np.ndarray:
    """What logits are multiplied by, so that one gradient tells of all of them."""
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def gradient(module: Any, point: Mapping[str, np.ndarray], inputs: Any) -> dict[str, np.ndarray]:
    """The gradient of the logits' weighted sum by the parameters, moved to `point`, as PyTorch computes it."""
    named = dict(module.named_parameters())
    with torch.inference_mode(False), torch.enable_grad():
        for name, value in named.items():
            value.requires_grad_(True).data.copy_(torch.from_numpy(point[name]))
        try:
            logits = outputs_of(module(inputs))
            total = (logits * torch.from_numpy(logit_weights(tuple(logits.shape)))).sum()
            found = torch.autograd.grad(total, list(named.values()), allow_unused=True, materialize_grads=True)
        except Exception as error:  # what it saved for the derivative was written over, or has none
            raise RefusedError(f"PyTorch cannot differentiate it: {first_line(error)}") from None
    return {name: array.detach().float().numpy() for name, array in zip(named, found, strict=True)}


def difference(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> str:
    """The parameter whose gradients differ most, or "" where all agree or PyTorch's own are not finite."""
    if not all(np.isfinite(array).all() for array in expected.values()):
        return ""
    longest = max((float(np.linalg.norm(array)) for array in expected.values()), default=0.0)
    excess = {
        name: float(np.linalg.norm(found[name] - array))
        / max(_RELATIVE * float(np.linalg.norm(array)) + _ABSOLUTE * longest, 1e-30)
        for name, array in expected.items()
    }
    worst = max(excess, key=lambda name: np.nan_to_num(excess[name], nan=np.inf), default="")
    return worst if worst and not excess[worst] < 1 else ""
