"""Networks given by a short text: one word for each layer, applied one after another.

    features: conv8k5 max2 relu conv16k3p1 batchnorm relu classifier: flatten dense32 tanh dropout dense10

A word ending with a colon names a list; the layers after it are its entries 0, 1, 2, … (those before any such word are
entries of a list without a name). A layer may be given a name of its own: `fc1=dense32`. The names are those of the
stored weights ("classifier.1.weight") and change nothing else.

| word | layer |
|---|---|
| `conv8k5s2p1nobias` | 8 channels, 5×5, stride 2, padding 1, no bias; default: stride 1, padding 0, with bias |
| `dense10`, `dense10nobias` | a linear layer |
| `batchnorm` | BatchNorm over all axes but the last |
| `max2`, `max3s2p1`, `mean2` | pooling over 2×2 or 3×3; default: stride = size, padding 0 |
| `globalmean`, `flatten` | images to vectors |
| `relu`, `leakyrelu`, `tanh`, `sigmoid`, `silu`, `gelu`, `elu` | a nonlinearity, with PyTorch's default constants |
| `dropout`, `identity` | nothing: networks are measured without dropout |
| `@fc1`, `fc2=@fc1` | the earlier layer fc1, conv or dense, once more: one layer, tied under each of its names |
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from collections.abc import Sequence as Items

import flax.linen as nn
import jax
import jax.numpy as jnp

from mdjax.errors import InputError, brief
from mdjax.models.layers import BatchNorm, Conv, Convolution, dense_layer, global_mean, max_pool, mean_pool, placed

NONLINEARITIES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "leakyrelu": lambda values: jnp.where(values > 0, values, 0.01 * values),
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
    "silu": nn.silu,
    "gelu": functools.partial(nn.gelu, approximate=False),
    "elu": nn.elu,
}

_MOST_WORDS = 2000
_NAME = r"[A-Za-z_]\w*(?:\.\w+)*|\d+(?:\.\w+)*"
_NUMBER = r"(\d{1,9})"
_WORD = re.compile(rf"(?:({_NAME})=)?([a-z]+?){_NUMBER}?(?:k{_NUMBER})?(?:s{_NUMBER})?(?:p{_NUMBER})?(nobias)?")
_AGAIN = re.compile(rf"(?:({_NAME})=)?@({_NAME})")
_POOLS = {"max": max_pool, "mean": mean_pool}
_WEIGHTED = ("conv", "dense", "batchnorm")


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of a sequence; `key` is its name among stored weights, `name` its name in the Flax module.

    A layer that comes once more has the `name` of the earlier one, and a key of its own if it is stored under another
    name too, else that one's.
    """

    kind: str
    key: str
    name: str
    features: int = 0
    size: int = 0
    stride: int = 1
    padding: int = 0
    use_bias: bool = True
    is_again: bool = False


@functools.lru_cache(maxsize=1024)
def layers_of(text: str) -> tuple[Layer, ...]:
    """The layers that a text describes; InputError, naming the word, where it is no such text."""
    layers: list[Layer] = []
    prefix, position = "", 0
    if len(text.split()) > _MOST_WORDS:
        raise InputError(f"The layers {brief(text)} are {len(text.split())}, but at most {_MOST_WORDS} are taken.")
    for word in text.split():
        if word.endswith(":"):
            prefix, position = f"{word[:-1]}.", 0
            continue
        layers.append(_again(word, layers) or _layer(word, f"{prefix}{position}", len(layers)))
        position += 1
    if not layers or layers[-1].kind != "dense":
        raise InputError(
            f"The layers {brief(text)} do not end with one like dense10, whose outputs are the classes. Add it."
        )
    keys = {(layer.key, layer.name) for layer in layers if layer.kind in _WEIGHTED}
    if len({key for key, _ in keys}) < len(keys):
        raise InputError(f"The layers {text!r} give two layers the same name. Give each its own.")
    return tuple(layers)


def _again(word: str, before: Items[Layer]) -> Layer | None:
    """The layer that a word like fc2=@fc1 repeats, or None for a word that describes a layer."""
    found = _AGAIN.fullmatch(word)
    if found is None:
        return None
    key, original = found.groups()
    known = {layer.key: layer for layer in before if layer.kind in _WEIGHTED}
    if original not in known or known[original].kind == "batchnorm":
        expected = ", ".join(name for name, layer in known.items() if layer.kind != "batchnorm")
        raise InputError(f"{word!r} repeats no layer. Give the name of an earlier conv or dense: {expected or 'none'}.")
    return dataclasses.replace(known[original], key=key or original, is_again=True)


def _layer(word: str, key: str, position: int) -> Layer:
    found = _WORD.fullmatch(word)
    name, kind, number, size, stride, padding, no_bias = found.groups() if found else (None,) * 7
    given = {letter for letter, value in zip("nkspb", (number, size, stride, padding, no_bias)) if value is not None}
    allowed = {"conv": "nkspb", "dense": "nb", "max": "nsp", "mean": "nsp"}.get(str(kind), "")
    needed = {"conv": "nk", "dense": "n", "max": "n", "mean": "n"}.get(str(kind), "")
    known = kind in (*NONLINEARITIES, *_WEIGHTED, *_POOLS, "globalmean", "flatten", "dropout", "identity")
    zero = 0 in [int(value) for value in (number, size, stride) if value is not None]
    if not known or not set(needed) <= given <= set(allowed) or zero:
        raise InputError(
            f"{brief(word)} describes no layer. Use words like conv8k5s2p1, dense10, batchnorm, max2, mean2, "
            f"globalmean, flatten, dropout, {', '.join(NONLINEARITIES)}."
        )
    pooled = kind in _POOLS
    return Layer(
        kind=str(kind),
        key=name or key,
        name=f"{kind}{position}",
        features=0 if pooled else int(number or 0),
        size=int((number if pooled else size) or 0),
        stride=int(stride or (number if pooled else 1) or 1),
        padding=int(padding or 0),
        use_bias=no_bias is None,
    )


def scaled(text: str, factor: float) -> str:
    """The same layers with the features of all but the last one multiplied, each at least 1."""
    words = text.split()
    found = [_WORD.fullmatch(word) for word in words]
    weighted = [i for i, match in enumerate(found) if match and match[2] in ("conv", "dense")]
    for i in weighted[:-1]:
        match = found[i]
        assert match is not None
        words[i] = f"{words[i][: match.start(3)]}{max(1, round(factor * int(match[3])))}{words[i][match.end(3) :]}"
    return " ".join(words)


@functools.lru_cache(maxsize=1024)
def shapes_of(text: str, input_shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The shape of an example before each layer, and after the last one; InputError where a layer does not fit."""
    shapes = [input_shape]
    for layer in layers_of(text):
        shapes.append(_shape_after(layer, shapes[-1], text, input_shape))
    _check_repeated(layers_of(text), shapes, text)
    return tuple(shapes)


def _shape_after(layer: Layer, shape: tuple[int, ...], text: str, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    images = layer.kind in ("conv", "globalmean", *_POOLS)
    if (images and len(shape) != 3) or (layer.kind == "dense" and len(shape) != 1):
        needed = "images of (height, width, channels)" if images else "vectors; put flatten or globalmean before it"
        raise InputError(f"In the layers {text!r}, {layer.kind} gets inputs of shape {shape}, but needs {needed}.")
    if layer.kind in ("conv", *_POOLS):
        sides = shape[:2]
        rows, columns = ((side + 2 * layer.padding - layer.size) // layer.stride + 1 for side in sides)
        if min(rows, columns) < 1 or (layer.kind in _POOLS and 2 * layer.padding > layer.size):
            raise InputError(
                f"In the layers {text!r}, a {layer.kind} of size {layer.size} does not fit {'×'.join(map(str, sides))} "
                f"pixels, which inputs of shape {input_shape} come to there. Give larger inputs or smaller windows."
            )
        return rows, columns, layer.features or shape[-1]
    if layer.kind == "globalmean":
        return shape[-1:]
    if layer.kind == "flatten":
        return (math.prod(shape),)
    return (layer.features,) if layer.kind == "dense" else shape


def _check_repeated(layers: Items[Layer], shapes: Items[tuple[int, ...]], text: str) -> None:
    """InputError where a layer that comes once more reads another number of features than before."""
    read: dict[str, int] = {}
    for layer, shape in zip(layers, shapes):
        if layer.kind in ("conv", "dense") and read.setdefault(layer.name, shape[-1]) != shape[-1]:
            raise InputError(
                f"In the layers {text!r}, the layer once more as {layer.key} gets {shape[-1]} features, but "
                f"{read[layer.name]} before. Repeat a layer where as many come in."
            )


class Sequence(nn.Module):
    """The network that `text` describes. Parameters are named by kind and index: conv0, batchnorm1, dense5."""

    text: str
    convolution: Convolution = "lax"

    @nn.compact
    def __call__(self, inputs: jax.Array, weights: jax.Array | None = None) -> jax.Array:
        hidden = placed(inputs, self.convolution) if inputs.ndim == 4 else inputs
        made: dict[str, nn.Module] = {}  # a layer that comes once more is the same one
        for layer in layers_of(self.text):
            if layer.name in made:
                hidden = made[layer.name](hidden)
            elif layer.kind == "conv":
                window = layer.features, layer.size, layer.stride, layer.padding, layer.use_bias
                made[layer.name] = Conv(*window, convolution=self.convolution, name=layer.name)
                hidden = made[layer.name](hidden)
            elif layer.kind == "dense":
                made[layer.name] = dense_layer(layer.features, hidden.shape[-1], layer.name, use_bias=layer.use_bias)
                hidden = made[layer.name](hidden)
            elif layer.kind == "batchnorm":
                form = self.convolution if hidden.ndim == 4 else "lax"
                hidden = BatchNorm(form, name=layer.name)(hidden, weights)
            elif layer.kind in _POOLS:
                hidden = _POOLS[layer.kind](hidden, layer.size, layer.stride, layer.padding)
            elif layer.kind == "globalmean":
                hidden = global_mean(hidden, self.convolution)
            elif layer.kind == "flatten":
                hidden = placed(hidden, self.convolution) if hidden.ndim == 4 else hidden
                hidden = hidden.reshape(hidden.shape[0], -1)
            elif layer.kind in NONLINEARITIES:
                hidden = NONLINEARITIES[layer.kind](hidden)
        return hidden
