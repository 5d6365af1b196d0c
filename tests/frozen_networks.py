"""Small networks some of whose parameters are frozen, in JAX and in PyTorch, with their Hessians in float64."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from mdjax.models import FunctionModel

NUM_EXAMPLES = 64


def dense(layer, inputs):
    return inputs @ layer["kernel"] + layer["bias"]


def mlp(params, _, inputs):
    return dense(params["second"], jnp.tanh(dense(params["first"], inputs)))


def normalised(params, state, inputs):
    hidden = (dense(params["first"], inputs) - state["mean"]) / jnp.sqrt(state["var"] + 1e-5)
    return dense(params["second"], jnp.tanh(params["norm"]["scale"] * hidden + params["norm"]["bias"]))


class Frozen(NamedTuple):
    """A network and the paths of what is frozen in it; in PyTorch, modules in order and the names of the same."""

    apply: Callable[..., Any]
    frozen: tuple[str, ...]
    modules: tuple[str, ...]
    requires_no_grad: tuple[str, ...]


NETWORKS = {
    "first layer": Frozen(mlp, ("['first']",), ("first", "tanh", "second"), ("first.weight", "first.bias")),
    "normalisation's scale": Frozen(
        normalised, ("['norm']['scale']",), ("first", "norm", "tanh", "second"), ("norm.weight",)
    ),
    "biases": Frozen(
        mlp,
        ("['first']['bias']", "['second']['bias']"),
        ("first", "tanh", "second"),
        ("first.bias", "second.bias"),
    ),
}


def arrays(seed: int = 0):
    """(params, state) for both functions."""
    generator = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(generator.normal(size=shape), jnp.float32)

    params = {
        "first": {"kernel": normal(5, 6), "bias": normal(6)},
        "second": {"kernel": normal(6, 3), "bias": normal(3)},
        "norm": {"scale": 1 + normal(6) / 4, "bias": normal(6)},
    }
    return params, {"mean": normal(6), "var": 1 + normal(6) ** 2}


def network(name: str, seed: int = 0):
    """(model, params, state): parameters that the function does not read left out."""
    case = NETWORKS[name]
    params, state = arrays(seed)
    if case.apply is mlp:
        del params["norm"]
        state = {}
    return FunctionModel(case.apply, case.frozen), params, state


def data():
    generator = np.random.default_rng(9)
    inputs = generator.normal(size=(NUM_EXAMPLES, 5)).astype(np.float32)
    return inputs, np.arange(NUM_EXAMPLES) % 3


def dense_matrix(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The Hessian over all parameters in float64, and which of them are not frozen."""
    model, params, state = network(name)
    inputs, labels = data()
    with jax.enable_x64(True):
        params, state, inputs = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (params, state, inputs))
        flat, unravel = ravel_pytree(params)

        def loss(flat):
            scores = jax.nn.log_softmax(model.apply(unravel(flat), state, inputs))
            return -jnp.mean(scores[jnp.arange(len(labels)), labels])

        matrix = np.asarray(jax.hessian(loss)(flat))
        kept = [
            np.full(np.size(leaf), not jax.tree_util.keystr(path).startswith(model.frozen))
            for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        ]
    return matrix, np.concatenate(kept)


def torch_module(name: str):
    """The same network in PyTorch, with `requires_grad` as its case says."""
    import torch

    case, (_, params, state) = NETWORKS[name], network(name)
    made = {
        "first": lambda: torch.nn.Linear(5, 6),
        "tanh": torch.nn.Tanh,
        "norm": lambda: torch.nn.BatchNorm1d(6),
        "second": lambda: torch.nn.Linear(6, 3),
    }
    module = torch.nn.Sequential()
    for part in case.modules:
        module.add_module(part, made[part]())
    entries = {"norm.running_mean": state["mean"], "norm.running_var": state["var"]} if state else {}
    for layer, own in params.items():
        entries[f"{layer}.weight"] = own["scale"] if "scale" in own else own["kernel"].T
        entries[f"{layer}.bias"] = own["bias"]
    # Copies that PyTorch may write to.
    tensors = {key: torch.from_numpy(np.array(value)) for key, value in entries.items()}
    missing = module.load_state_dict(tensors, strict=False).missing_keys
    assert not [key for key in missing if "num_batches" not in key]
    for key, parameter in module.named_parameters():
        parameter.requires_grad_(key not in case.requires_no_grad)
    return module.eval()
