"""Dense Hessians of a module's mean cross-entropy: by PyTorch's autograd in float64, and by JAX once converted."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.flatten_util import ravel_pytree
from torch.func import functional_call

from converters.modules import Converted

torch.set_num_threads(1)


def torch_hessian(network: torch.nn.Module, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[p, p], by double backward, parameters in the order in which the module names them."""
    network = copy.deepcopy(network).double().eval()
    values = {name: value.detach() for name, value in network.named_parameters()}
    flat = torch.cat([value.reshape(-1) for value in values.values()]).requires_grad_()
    parts = flat.split([value.numel() for value in values.values()])
    placed = {name: part.reshape(value.shape) for (name, value), part in zip(values.items(), parts, strict=True)}
    logits = functional_call(network, placed, (torch.from_numpy(inputs).double(),))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels).long())
    (gradient,) = torch.autograd.grad(loss, flat, create_graph=True)
    rows = [
        torch.autograd.grad(entry, flat, retain_graph=True)[0] if entry.requires_grad else torch.zeros_like(flat)
        for entry in gradient
    ]
    return torch.stack(rows).detach().numpy()


def jax_hessian(converted: Converted, network: torch.nn.Module, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[p, p], parameters in the order in which the module names them."""
    model, params, state = converted
    flat, unravel = ravel_pytree(params)
    sizes = {name: tuple(value.shape) for name, value in network.named_parameters()}
    places = np.split(np.arange(len(flat)), np.cumsum([np.prod(shape, dtype=int) for shape in sizes.values()])[:-1])
    numbered = {name: place.reshape(shape) for (name, shape), place in zip(sizes.items(), places, strict=True)}
    leaves = {
        name.path: np.moveaxis(numbered[name.torch], name.outputs, -1)
        if numbered[name.torch].ndim > 1
        else numbered[name.torch]
        for name in model.names
        if name.is_param
    }
    found = jax.tree_util.tree_map_with_path(lambda path, _: leaves[tuple(key.key for key in path)], params)
    order = np.argsort(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found)]))

    def loss(vector):
        scores = jax.nn.log_softmax(model.apply(unravel(vector), state, inputs))
        return -jnp.mean(scores[jnp.arange(len(labels)), labels])

    return np.asarray(jax.jit(jax.hessian(loss))(flat))[np.ix_(order, order)]


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference over the largest entry."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())
