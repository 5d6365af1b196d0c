"""Logits, gradient and Hessian-vector product of a network, by PyTorch's double backward and by JAX, in one form."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

# Networks this small gain nothing from threads, which wait for each other where tests share cores.
torch.set_num_threads(1)


class Derivatives(NamedTuple):
    """Arrays of one network; gradient and product are named by their entries in PyTorch's state_dict."""

    logits: np.ndarray
    gradient: dict[str, np.ndarray]
    product: dict[str, np.ndarray]


def direction(network: torch.nn.Module, seed: int) -> dict[str, np.ndarray]:
    """A random vector of the parameters' shapes, each array as long as its parameter."""
    generator = np.random.default_rng(seed)
    vectors = {}
    for name, value in network.named_parameters():
        noise = generator.normal(size=tuple(value.shape)).astype(np.float32)
        vectors[name] = noise * float(value.detach().norm() / np.linalg.norm(noise))
    return vectors


def torch_derivatives(
    network: torch.nn.Module, inputs: np.ndarray, labels: np.ndarray, vectors: dict[str, np.ndarray]
) -> Derivatives:
    """In eval mode, for the mean cross-entropy; inputs as the network takes them."""
    names, parameters = zip(*network.named_parameters(), strict=True)
    logits = network(torch.from_numpy(np.ascontiguousarray(inputs)))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    along = sum((part * torch.from_numpy(vectors[name])).sum() for name, part in zip(names, gradient, strict=True))
    product = torch.autograd.grad(along, parameters, allow_unused=True, materialize_grads=True)

    def named(arrays):
        return {name: array.detach().numpy() for name, array in zip(names, arrays, strict=True)}

    return Derivatives(logits.detach().numpy(), named(gradient), named(product))


def jax_derivatives(model, params, state, inputs, labels, vectors, *, products: bool = True):
    """(logits, gradient, product) in the layout of `params`, from one compiled program."""

    def everything(params, state, inputs, labels, vectors):
        def loss(params):
            logits = model.apply(params, state, inputs)
            scores = jax.nn.log_softmax(logits)
            return -jnp.mean(scores[jnp.arange(len(labels)), labels]), logits

        gradient = jax.grad(loss, has_aux=True)
        if not products:
            return *gradient(params)[::-1], None
        (slope, logits), (product, _) = jax.jvp(gradient, (params,), (vectors,))
        return logits, slope, product

    return jax.device_get(jax.jit(everything)(params, state, inputs, labels, vectors))


def relative(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> float:
    """The length of the difference over the length of the second, all arrays together."""
    assert first.keys() == second.keys()
    difference = sum(float(np.sum(np.square(np.float64(first[name]) - second[name]))) for name in second)
    return (difference / sum(float(np.sum(np.square(np.float64(second[name])))) for name in second)) ** 0.5
