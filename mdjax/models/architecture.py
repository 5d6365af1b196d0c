"""Architectures by name, and models as pure functions of pytrees.

Flax linen rather than nnx: a linen module is a frozen dataclass whose `apply` is a pure function of its arrays,
so models stack on a leading axis and equal architectures share one compiled program.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp

from mdjax.errors import InputError, brief, check_whole
from mdjax.models import families
from mdjax.models.layers import Convolution
from mdjax.models.sequences import layers_of, shapes_of
from mdjax.models.transformer_variants import parts_of

PyTree = Any

FAMILIES = tuple(families.FAMILIES)
GROWN = families.GROWN


MOST_FEATURES, MOST_LAYERS = 2**24, 1000
"""The greatest width, number of classes and size of an input's axis, and the greatest depth: of networks beyond neither
weights nor programs fit any device, and even their shapes take minutes to work out."""


@runtime_checkable
class Model(Protocol):
    """What the engine measures: a hashable object with a pure `apply`.

    Equal models, by `==` and `hash`, share their compiled programs.
    """

    def apply(self, params: PyTree, state: PyTree, inputs: jax.Array) -> jax.Array:
        """The logits [b, classes] of inputs[b, ...], with the statistics stored in `state`."""
        ...

    def batch_apply(
        self, params: PyTree, state: PyTree, inputs: jax.Array, weights: jax.Array
    ) -> tuple[jax.Array, PyTree]:
        """The logits [b, classes] and the batch's own statistics, by which it is normalised.

            params, state: one model's.
            inputs: examples [b, ...].
            weights: [b], 1 or 0: an example of weight 0 does not count.

        A model without state returns `state`.
        """
        ...


@runtime_checkable
class HasFrozen(Protocol):
    """A model some of whose parameters were not trained: what it names they are.

    `frozen` is a tuple of their paths in the parameters, as `jax.tree_util.keystr` writes them ("['dense']['kernel']");
    the path of a node stands for all below it. Curvature and curves leave them out (`mdjax.models.parameters`).
    """

    @property
    def frozen(self) -> tuple[str, ...]: ...


@dataclasses.dataclass(frozen=True)
class FlaxModel:
    """One of this package's Flax modules as a `Model`; `state` is its `batch_stats` collection, `frozen` names what was
    not trained (`HasFrozen`)."""

    module: nn.Module
    frozen: tuple[str, ...] = ()

    def apply(self, params: PyTree, state: PyTree, inputs: jax.Array) -> jax.Array:
        return self.module.apply({"params": params, "batch_stats": state}, inputs)  # pyright: ignore[reportReturnType]

    def batch_apply(
        self, params: PyTree, state: PyTree, inputs: jax.Array, weights: jax.Array
    ) -> tuple[jax.Array, PyTree]:
        logits, mutated = self.module.apply(
            {"params": params, "batch_stats": state}, inputs, weights, mutable=["batch_stats"]
        )
        return logits, mutated.get("batch_stats", {})

    @property
    def unrolled(self) -> "FlaxModel":
        """The same network with no layers in a loop and with examples first, for who looks into it layer by layer or
        operation by operation."""
        model = self.examples_first
        if getattr(model.module, "convolution", None) != "looped":
            return model
        return dataclasses.replace(model, module=model.module.clone(convolution="lax"))

    @property
    def examples_first(self) -> "FlaxModel":
        """The same network with images [b, rows, columns, c] throughout, for who batches it over single examples."""
        if getattr(self.module, "convolution", None) != "examples_last":
            return self
        return dataclasses.replace(self, module=self.module.clone(convolution="patches"))

    def layer_outputs(self, params: PyTree, state: PyTree, inputs: jax.Array, layer: str) -> jax.Array:
        """What a layer's module returns: an array [b, ...], before any ReLU outside the module.

            params, state: one model's; statistics stay as stored.
            inputs: examples [b, ...].
            layer: a top-level module ("hidden0", "layer2_0") or one inside, joined by slashes ("layer2_0/conv1").

        Cost: one forward pass, of which the compiler drops what comes after the
        layer. Raises InputError, naming the top-level modules, where there is no such layer.
        """

        def captured(wanted: Callable[[nn.Module], bool]) -> PyTree:
            _, variables = self.unrolled.module.apply(
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
    `frozen` names the parameters that were not trained, as `HasFrozen` says: `FunctionModel(apply, ("['first']",))`.
    """

    function: Callable[[PyTree, PyTree, jax.Array], jax.Array]
    frozen: tuple[str, ...] = ()

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


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network's shape: everything needed to rebuild it, and nothing about its weights.

    `input_shape` is (height, width, channels); `depth` 0 means the family's usual one (MLP: 2 hidden layers,
    CNN: 3 convolutions; a ResNet-18 has no other). `variant` tells a family's kinds apart: the stem of a
    `resnet_torchvision` ("7x7", "3x3", "3x3-pool"), "plain" or "bn" for a VGG, the layers of a `sequence` (made by
    `sequence`), the parts of an `encoder` or `decoder` (`mdjax.models.transformer_variants`); "" is the usual one.

        Architecture("decoder", 64, (128,), 1000, depth=4, variant="h4 rms rotary swiglu nobias")   # 1000 tokens
        Architecture("encoder", 64, (128,), 3, variant="h4 tokens1000")                           # 3 classes of text
        Architecture("encoder", 64, (32, 32, 3), 10, variant="h4 patch4 classtoken")                # of images

    An `encoder` or `decoder` reads tokens where `input_shape` is (length,); `num_classes` of a decoder are the tokens.
    """

    family: str
    width: int
    input_shape: tuple[int, ...] = (32, 32, 3)
    num_classes: int = 10
    depth: int = 0
    variant: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.family, str) or self.family not in families.FAMILIES:
            raise InputError(f"Unknown architecture {brief(self.family)}. Choose one of {', '.join(FAMILIES)}.")
        if not isinstance(self.variant, str):
            raise InputError(f"variant is {brief(self.variant)}. Give it as text.")
        family = families.FAMILIES[self.family]
        check_whole("depth", self.depth, 0, MOST_LAYERS)
        object.__setattr__(self, "depth", int(self.depth or family.usual_depth))
        for name in ("width", "num_classes"):
            check_whole(name, getattr(self, name), 1, MOST_FEATURES)
            object.__setattr__(self, name, int(getattr(self, name)))
        if not isinstance(self.input_shape, Sequence) or not 1 <= len(self.input_shape) <= 8:
            raise InputError(f"input_shape is {brief(self.input_shape)}. Give one to eight whole numbers.")
        for size in self.input_shape:
            check_whole("input_shape", size, 1, MOST_FEATURES)
        object.__setattr__(self, "input_shape", tuple(int(size) for size in self.input_shape))
        if not family.has_depth(self.depth):
            raise InputError(f"depth is {self.depth}, but a {self.family} has depth {family.depths}. Leave depth out.")
        if family.sides is not None:
            if len(self.input_shape) != 3:
                raise InputError(
                    f"input_shape is {self.input_shape}, but a {self.family} reads images of (height, width, channels)."
                )
            least, most = family.sides
            if not all(least <= side <= most for side in self.input_shape[:2]):
                raise InputError(
                    f"input_shape is {self.input_shape}, but a {self.family} reads images of {least} to {most} pixels "
                    "a side. Scale the images."
                )
        if family.spelled is not None:
            object.__setattr__(self, "variant", family.spelled(self.variant, self.width, self.input_shape))
        elif family.variants is None:
            self._check_sequence()
        else:
            object.__setattr__(self, "variant", self.variant or family.variants[0])
            if self.variant not in family.variants:
                known = ", ".join(map(repr, family.variants))
                raise InputError(f"variant is {self.variant!r}. Choose one of {known} for a {self.family}.")

    def _check_sequence(self) -> None:
        expected = _sequence_fields(self.variant, self.input_shape)
        for name, value in expected.items():
            if getattr(self, name) != value:
                raise InputError(
                    f"{name} is {getattr(self, name)}, but the layers {self.variant!r} have {value}. Make the "
                    "architecture with mdjax.models.sequence."
                )

    def model(self, convolution: Convolution = "lax") -> FlaxModel:
        """The pure functions of this architecture, with convolutions computed as `convolution` says."""
        build = families.FAMILIES[self.family].build
        return FlaxModel(build(self.width, self.num_classes, self.depth, convolution, self.variant))

    @property
    def reads_tokens(self) -> bool:
        """Whether inputs are whole numbers [b, length], not floats."""
        return families.FAMILIES[self.family].reads_tokens and len(self.input_shape) == 1

    @property
    def num_tokens(self) -> int:
        """How many tokens it reads, from 0; 0 where inputs are floats."""
        if not self.reads_tokens:
            return 0
        return self.num_classes if self.family == "decoder" else parts_of(self.variant).tokens

    def init(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        """Fresh parameters and state: weights and biases from U(±1/√fan_in), norms' scale 1 and shift 0."""
        example = jnp.zeros((1, *self.input_shape), jnp.int32 if self.reads_tokens else jnp.float32)
        variables = self.model().module.init(key, example)
        return variables["params"], variables.get("batch_stats", {})

    @property
    def abstract(self) -> tuple[PyTree, PyTree]:
        """Shapes and types of (params, state), without computing any."""
        return _abstract(self)

    @property
    def num_params(self) -> int:
        """How many trainable parameters the network has (statistics not counted)."""
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.abstract[0]))


def shape_text(shape: Sequence[int]) -> str:
    """An input shape as tables and commands spell it: (28, 28, 1) as "28x28x1"."""
    return "x".join(map(str, shape))


def parse_shape(text: str) -> tuple[int, ...]:
    """The input shape that `shape_text` spells so. Raises InputError for any other text."""
    if not isinstance(text, str) or not re.fullmatch(r"\d{1,9}(x\d{1,9}){0,7}", text):
        raise InputError(f"input_shape is {brief(text)}. Give height, width and channels, like 28x28x1.")
    return tuple(map(int, text.split("x")))


@functools.lru_cache(maxsize=256)
def _abstract(architecture: Architecture) -> tuple[PyTree, PyTree]:
    return jax.eval_shape(architecture.init, jax.random.key(0))


def sequence(layers: str, input_shape: Sequence[int]) -> Architecture:
    """The architecture of a plain network given by its layers, as `mdjax.models.sequences` describes them.

        sequence("conv8k5 max2 relu conv6k5 max2 relu flatten dense20 relu dense10", (28, 28, 1))

    Raises InputError, naming the layer, for a word that describes none or a layer that does not fit the one before.
    """
    text, shape = " ".join(layers.split()), tuple(int(size) for size in input_shape)
    return Architecture("sequence", input_shape=shape, variant=text, **_sequence_fields(text, shape))


def _sequence_fields(text: str, input_shape: tuple[int, ...]) -> dict[str, int]:
    """Width (the first layer's features), depth (layers with weights but for the last) and classes of a sequence."""
    shapes_of(text, input_shape)
    features = [layer.features for layer in layers_of(text) if layer.features]
    return {"width": features[0], "num_classes": features[-1], "depth": max(1, len(features) - 1)}
