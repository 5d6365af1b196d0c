"""Plain networks, one layer after another: the published ModelZoos' CNNs, MLPs of any names, and given specifications.

The ModelZoos (Schürholt et al., "Model zoos: a dataset of diverse populations of neural network models", NeurIPS 2022;
github.com/ModelZoos/ModelZooDataset) number the layers of a `module_list`, dropout among them, so that the names of
the weights tell whether there is dropout; the nonlinearity stands in the zoo's configuration only.
"""

import itertools
import math
import re
from collections.abc import Mapping

import numpy as np

from converters.errors import RefusedError
from converters.families.keys import Arrays, Facts, LayerNames, image_shape, nonlinearity, rows
from mdjax.errors import InputError
from mdjax.models import Architecture, sequence
from mdjax.models.sequences import NONLINEARITIES, layers_of, shapes_of

_CNN_SMALL = "module_list: conv8k5 max2 {0} {1} conv6k5 max2 {0} {1} conv4k2 {0} flatten dense20 {0} {1} dense{2}"
_CNN_LARGE = "module_list: conv6k5 max2 {0} {1} conv9k5 max2 {0} {1} conv6k2 {0} flatten dense20 {0} {1} dense{2}"
_CNN3 = (
    "module_list: conv16k3 max2 {0} dropout conv32k3 max2 {0} dropout conv15k3 max2 {0} dropout flatten dense20 {0} "
    "dropout dense{2}"
)
MODEL_ZOOS = {"CNN-s": (_CNN_SMALL, 28), "CNN-l": (_CNN_LARGE, 28), "CNN3": (_CNN3, 32)}
"""Name → its layers, with {0} for the nonlinearity, {1} for dropout or nothing, {2} for the number of classes; and the
side of its images in pixels."""

_IMAGES = {784: (28, 28, 1), 3072: (32, 32, 3)}
"""Number of inputs of an MLP → the images that it is taken to read, MNIST's and CIFAR's; other inputs are vectors."""

_MOST_LAYERS = 1000
_NUMBER = re.compile(r"\d+")


class _Sequence(LayerNames):
    """Names stand in the specification; the layers from flatten to the first linear one read a flattened image."""

    def torch_name(self, architecture: Architecture, layer: str) -> str:
        return next(found.key for found in layers_of(architecture.variant) if found.name == layer)

    def flattened(self, architecture: Architecture, layer: str) -> tuple[int, ...]:
        image: tuple[int, ...] = ()
        read: list[tuple[int, ...]] = []  # wherever the layer comes
        for found, shape in zip(
            layers_of(architecture.variant), shapes_of(architecture.variant, architecture.input_shape)
        ):
            if found.kind == "flatten" and len(shape) == 3:
                # Of one channel, or one pixel, both orders are the same.
                image = shape if shape[2] > 1 and shape[0] * shape[1] > 1 else ()
            if found.name == layer:
                read.append(image)
            if found.kind == "dense":
                image = ()
        if len(set(read)) > 1:
            name = self.torch_name(architecture, layer)
            channels = next(shape[2] for shape in read if shape)
            raise RefusedError(
                f"its layer {name} reads a flattened image of {channels} channels once and a vector once, and PyTorch "
                "flattens in another order. Give the module to converters.from_module"
            )
        return read[0]

    def again(self, architecture: Architecture) -> Mapping[str, str]:
        layers = layers_of(architecture.variant)
        first = {layer.name: layer.key for layer in reversed(layers)}
        return {layer.key: first[layer.name] for layer in layers if layer.key != first[layer.name] and layer.is_again}


class _MLP(LayerNames):
    """mdjax's own MLP: layers are called as in Flax, and the first one reads a flattened image."""

    def torch_name(self, architecture: Architecture, layer: str) -> str:
        return layer

    def flattened(self, architecture: Architecture, layer: str) -> tuple[int, ...]:
        return architecture.input_shape if layer == "hidden0" and len(architecture.input_shape) == 3 else ()


class _CNN(LayerNames):
    """mdjax's own CNN: layers are called as in Flax."""

    def torch_name(self, architecture: Architecture, layer: str) -> str:
        return layer


LAYER_NAMES = {"sequence": _Sequence(), "mlp": _MLP(), "cnn": _CNN()}


def guesses(arrays: Arrays, facts: Facts) -> list[Architecture]:
    """The plain networks that a state_dict may be; only the given one where facts have a `specification`.

    Raises RefusedError for a network whose nonlinearity is not known.
    """
    if facts.get("specification") is not None:
        return [_specified(arrays, facts)]
    found = [_own_mlp(arrays, facts), _own_cnn(arrays, facts)]
    found += [_model_zoo(arrays, facts, name, dropout) for name in MODEL_ZOOS for dropout in (False, True)]
    known = [architecture for architecture in found if architecture is not None]
    return known or [architecture for architecture in [_mlp(arrays, facts)] if architecture is not None]


def _specified(arrays: Arrays, facts: Facts) -> Architecture:
    text = str(facts["specification"])
    try:
        first = next((layer for layer in layers_of(text) if layer.kind in ("conv", "dense")), None)
        weight = arrays.get(f"{first.key}.weight") if first else None
        shape = facts.get("input_shape")
        if shape is None and weight is not None and weight.ndim == 2:
            shape = _input_shape(weight.shape[1], facts)
        if shape is None:
            raise RefusedError(
                "its specification needs the shape of an input. Give input_shape=(height, width, channels)"
            )
        return sequence(text, shape)
    except RefusedError:
        raise
    except InputError as error:
        raise RefusedError(str(error)) from None


def _own_mlp(arrays: Arrays, facts: Facts) -> Architecture | None:
    width, classes = rows(arrays, "hidden0.weight", 2), rows(arrays, "linear.weight", 2)
    if not width or not classes:
        return None
    nonlinearity(facts, ["relu"])
    depth = next(number for number in itertools.count() if f"hidden{number}.weight" not in arrays)
    if any(rows(arrays, f"hidden{number}.weight", 2) != width for number in range(depth)):
        return None
    return Architecture("mlp", width, _input_shape(arrays["hidden0.weight"].shape[1], facts), classes, depth)


def _own_cnn(arrays: Arrays, facts: Facts) -> Architecture | None:
    width, classes = rows(arrays, "conv0.weight", 4), rows(arrays, "linear.weight", 2)
    if not width or not classes:
        return None
    nonlinearity(facts, ["relu"])
    depth = next(number for number in itertools.count() if f"conv{number}.weight" not in arrays)
    return Architecture("cnn", width, image_shape(facts, arrays["conv0.weight"].shape[1], 32), classes, depth)


def _model_zoo(arrays: Arrays, facts: Facts, name: str, dropout: bool) -> Architecture | None:
    layers, side = MODEL_ZOOS[name]
    described = [layer for layer in layers_of(layers.format("relu", "dropout" if dropout else "", 1)) if layer.features]
    weights = [arrays.get(f"{layer.key}.weight") for layer in described]
    if any(
        weight is None or weight.ndim != (4 if layer.kind == "conv" else 2) for layer, weight in zip(described, weights)
    ):
        return None
    if any(len(weight) != layer.features for layer, weight in zip(described[:-1], weights) if weight is not None):
        return None
    first, last = weights[0], weights[-1]
    assert first is not None and last is not None
    text = layers.format(_known_nonlinearity(facts), "dropout" if dropout else "", len(last))
    return sequence(text, image_shape(facts, first.shape[1], side))


def _mlp(arrays: Arrays, facts: Facts) -> Architecture | None:
    """A chain of linear layers whatever they are called, in the order of the entries or of the numbers in them."""
    names = [name.removesuffix(".weight") for name in arrays if name.endswith(".weight")]
    if not arrays.keys() <= {f"{name}.{leaf}" for name in names for leaf in ("weight", "bias")}:
        return None
    if not names or any(arrays[f"{name}.weight"].ndim != 2 for name in names):
        return None
    if len(names) > _MOST_LAYERS:
        raise RefusedError(
            f"it is a chain of {len(names)} linear layers, but networks of at most {_MOST_LAYERS} are read"
        )
    orders = [names, sorted(names, key=lambda name: [int(number) for number in _NUMBER.findall(name)])]
    chains = [order for order in orders if _is_chain(arrays, order)]
    if not chains:
        return None
    if chains[0] != chains[-1]:
        raise RefusedError(
            f"its linear layers may come as {', '.join(chains[0])} or as {', '.join(chains[1])}. Give a specification, "
            f"like 'flatten {names[0]}=dense{len(arrays[names[0] + '.weight'])} relu ...'"
        )
    given = _known_nonlinearity(facts) if len(names) > 1 else ""
    layers: dict[str, str] = {}
    for name in chains[0]:
        no_bias = "" if f"{name}.bias" in arrays else "nobias"
        same = next((other for other in layers if _is_one(arrays, other, name)), None)
        layers[name] = f"{name}=@{same}" if same else f"{name}=dense{len(arrays[f'{name}.weight'])}{no_bias}"
    try:
        shape = _input_shape(arrays[f"{chains[0][0]}.weight"].shape[1], facts)
        return sequence(f"flatten {f' {given} '.join(layers.values())}", shape)
    except RefusedError:
        raise
    except InputError:  # a name that cannot be written in a specification
        return None


def _is_one(arrays: Arrays, first: str, second: str) -> bool:
    """Whether two layers are one, tied: all their arrays are the same memory."""
    leaves = [leaf for leaf in ("weight", "bias") if f"{first}.{leaf}" in arrays or f"{second}.{leaf}" in arrays]
    pairs = [(arrays.get(f"{first}.{leaf}"), arrays.get(f"{second}.{leaf}")) for leaf in leaves]
    return all(
        one is not None and other is not None and one.shape == other.shape and _place(one) == _place(other)
        for one, other in pairs
    )


def _place(array: np.ndarray) -> tuple[int, tuple[int, ...]]:
    return array.__array_interface__["data"][0], array.strides


def _known_nonlinearity(facts: Facts) -> str:
    given = nonlinearity(facts, list(NONLINEARITIES))
    if given is None:
        raise RefusedError(
            f"its weights do not tell its nonlinearity. Give nonlinearity= one of {', '.join(NONLINEARITIES)}"
        )
    return given


def _is_chain(arrays: Arrays, names: list[str]) -> bool:
    shapes = [arrays[f"{name}.weight"].shape for name in names]
    return all(after[1] == before[0] for before, after in itertools.pairwise(shapes))


def _input_shape(inputs: int, facts: Facts) -> tuple[int, ...]:
    shape = facts.get("input_shape")
    if shape is None:
        return _IMAGES.get(inputs, (inputs,))
    shape = tuple(int(size) for size in shape)
    if math.prod(shape) != inputs:
        raise RefusedError(f"its first layer reads {inputs} numbers, but input_shape is {shape}")
    return shape
