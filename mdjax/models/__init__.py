"""Architectures by name, and models as pure functions of pytrees.

Flax linen rather than nnx: a linen module is a frozen dataclass whose `apply` is a pure function of its arrays,
so models stack on a leading axis and equal architectures share one compiled program.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp

from mdjax.errors import InputError
from mdjax.models.layers import Convolution
from mdjax.models.networks import CNN, MLP, ResNet18

PyTree = Any


@runtime_checkable
class Model(Protocol):
    """What the engine measures: a hashable object with a pure `apply`.

    `apply(params, state, inputs[b, ...]) -> logits[b, classes]` evaluates with stored statistics.
    `batch_apply(params, state, inputs[b, ...], weights[b]) -> (logits, state)` normalises by the batch itself,
    ignoring examples of weight 0, and returns that batch's statistics; a model without state returns `state`.
    """

    def apply(self, params: PyTree, state: PyTree, inputs: jax.Array) -> jax.Array: ...

    def batch_apply(
        self, params: PyTree, state: PyTree, inputs: jax.Array, weights: jax.Array
    ) -> tuple[jax.Array, PyTree]: ...


@dataclasses.dataclass(frozen=True)
class FlaxModel:
    """One of this package's Flax modules as a `Model`; `state` is its `batch_stats` collection."""

    module: nn.Module

    def apply(self, params: PyTree, state: PyTree, inputs: jax.Array) -> jax.Array:
        return self.module.apply({"params": params, "batch_stats": state}, inputs)  # pyright: ignore[reportReturnType]

    def batch_apply(
        self, params: PyTree, state: PyTree, inputs: jax.Array, weights: jax.Array
    ) -> tuple[jax.Array, PyTree]:
        logits, mutated = self.module.apply(
            {"params": params, "batch_stats": state}, inputs, weights, mutable=["batch_stats"]
        )
        return logits, mutated.get("batch_stats", {})

    def layer_outputs(self, params: PyTree, state: PyTree, inputs: jax.Array, layer: str) -> jax.Array:
        """What the module named `layer` returns for inputs[b, ...]: an array [b, ...], before any ReLU outside it.

        `layer` is a top-level module ("hidden0", "layer2_0") or one inside, joined by slashes ("layer2_0/conv1").
        Evaluates with stored statistics; cost: one forward pass, of which the compiler drops what comes after the
        layer. Raises InputError, naming the top-level modules, where there is no such layer.
        """

        def captured(wanted: Callable[[nn.Module], bool]) -> PyTree:
            _, variables = self.module.apply(
                {"params": params, "batch_stats": state},
                inputs,
                capture_intermediates=lambda module, method: method == "__call__" and wanted(module),
                mutable=["intermediates"],
            )
            return variables.get("intermediates", {})

        found = jax.tree.leaves(captured(lambda module: bool(module.path) and "/".join(module.path) == layer))
        if not found:
            known = jax.eval_shape(lambda: captured(lambda module: len(module.path) == 1))
            raise InputError(f"There is no layer {layer!r} in this network. Choose one of {', '.join(known)}.")
        return found[0]


@dataclasses.dataclass(frozen=True)
class FunctionModel:
    """Any pure `apply(params, state, inputs) -> logits` as a `Model`: Flax, Equinox or hand-written.

    Pass the same function object each time: a fresh lambda compiles anew. State, if there is any, stays as it
    was given, so a model with BatchNorm has to bring its own `batch_apply` to be connected by curves.
    """

    function: Callable[[PyTree, PyTree, jax.Array], jax.Array]

    def apply(self, params: PyTree, state: PyTree, inputs: jax.Array) -> jax.Array:
        return self.function(params, state, inputs)

    def batch_apply(
        self, params: PyTree, state: PyTree, inputs: jax.Array, weights: jax.Array
    ) -> tuple[jax.Array, PyTree]:
        if jax.tree.leaves(state):
            raise InputError(
                "Cannot re-estimate the statistics of a model given as a function with state. Give a model with a "
                "batch_apply method, or measure without mode_connectivity."
            )
        return self.function(params, state, inputs), state


_MODULES: dict[str, tuple[type[nn.Module], int]] = {
    "mlp": (MLP, 2),
    "cnn": (CNN, 3),
    "resnet18": (ResNet18, 18),
}
"""Family name → module and its usual depth."""

FAMILIES = tuple(_MODULES)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network's shape: everything needed to rebuild it, and nothing about its weights.

    `input_shape` is (height, width, channels); `depth` 0 means the family's usual one (MLP: 2 hidden layers,
    CNN: 3 convolutions; a ResNet-18 has no other).
    """

    family: str
    width: int
    input_shape: tuple[int, ...] = (32, 32, 3)
    num_classes: int = 10
    depth: int = 0

    def __post_init__(self) -> None:
        if self.family not in _MODULES:
            raise InputError(f"Unknown architecture {self.family!r}. Choose one of {', '.join(FAMILIES)}.")
        object.__setattr__(self, "input_shape", tuple(int(size) for size in self.input_shape))
        usual = _MODULES[self.family][1]
        object.__setattr__(self, "depth", int(self.depth or usual))
        for name in ("width", "num_classes", "depth"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}. Give a whole number of at least 1.")
        if self.family == "resnet18" and self.depth != usual:
            raise InputError(f"depth is {self.depth}, but a resnet18 has depth {usual}. Leave depth out.")
        if self.family != "mlp" and len(self.input_shape) != 3:
            raise InputError(
                f"input_shape is {self.input_shape}, but a {self.family} reads images of (height, width, channels)."
            )

    def model(self, convolution: Convolution = "lax") -> FlaxModel:
        """The pure functions of this architecture, with convolutions computed as `convolution` says."""
        module = _MODULES[self.family][0]
        return FlaxModel(module(self.width, self.num_classes, self.depth, convolution))  # pyright: ignore[reportCallIssue]

    def init(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        """Fresh parameters and state: weights and biases from U(±1/√fan_in), BatchNorm scale 1 and shift 0."""
        variables = self.model().module.init(key, jnp.zeros((1, *self.input_shape)))
        return variables["params"], variables.get("batch_stats", {})

    @property
    def abstract(self) -> tuple[PyTree, PyTree]:
        """Shapes and types of (params, state), without computing any."""
        return _abstract(self)

    @property
    def num_params(self) -> int:
        """How many trainable parameters the network has (statistics not counted)."""
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.abstract[0]))


@functools.lru_cache(maxsize=256)
def _abstract(architecture: Architecture) -> tuple[PyTree, PyTree]:
    return jax.eval_shape(architecture.init, jax.random.key(0))
