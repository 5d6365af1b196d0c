"""What tells one transformer from another, beside width and depth: a few words, in any order.

    h4 kv2 mlp48 rms rotary swiglu nobias untied

| word | part | where it is not said |
|---|---|---|
| `h4` | heads | 4, or 2 or 1 where 4 do not divide the width |
| `kv2` | heads of keys and values, each shared by as many heads of queries | one for each head |
| `mlp48` | hidden units of a block's MLP | four times the width |
| `tokens96` | tokens that an encoder reads; a decoder reads those that it says | |
| `patch4` | pixels of a patch's side | a quarter of an image's height |
| `positions512` | learned positions, as many as the longest input may have | as many as the inputs have |
| `rotary`, `rotary500000` | rotary positions of queries and keys, with that base | learned ones, or the base 10000 |
| `segments2` | a table of kinds of text, of which the first is added | none |
| `rms`, `eps1e-12` | RMSNorm in place of LayerNorm; what it adds to a variance | LayerNorm; 1e-5 |
| `post` | norms after attention and MLP, and one after the embedding | before them, and one at the end |
| `gelutanh`, `relu`, `silu`, `swiglu` | the MLP's nonlinearity; `swiglu` has a gate too | `gelu` |
| `nobias` | no biases inside blocks | biases |
| `untied` | a decoder's head of its own | its embedding is its head |
| `first`, `pooler` | an encoder's outputs are of the first position; of a tanh layer on it | of the positions' mean |
| `classtoken` | the first position is a token of its own, of which the outputs are | |
"""

import dataclasses
import functools
import math
import re
from collections.abc import Sequence

from mdjax.errors import InputError, brief

ACTIVATIONS = ("gelu", "gelutanh", "relu", "silu", "swiglu")
POOLINGS = ("mean", "classtoken", "first", "pooler")

_SIZES = {
    "h": "heads",
    "kv": "kv_heads",
    "mlp": "hidden",
    "tokens": "tokens",
    "patch": "patch",
    "positions": "positions",
    "segments": "segments",
}
_WORD = re.compile(r"([a-z]+?)(\d{1,9}(?:\.\d+)?(?:e[-+]?\d{1,3})?)?")
_USUAL_BASE = 10000.0
_MOST = 2**24


@dataclasses.dataclass(frozen=True)
class Parts:
    """A variant in parts; 0 stands for what is not said, or not there. `rotary` is the base of rotary positions."""

    heads: int = 0
    kv_heads: int = 0
    hidden: int = 0
    tokens: int = 0
    patch: int = 0
    positions: int = 0
    segments: int = 0
    rotary: float = 0.0
    rms: bool = False
    epsilon: float = 1e-5
    post: bool = False
    activation: str = "gelu"
    bias: bool = True
    tied: bool = True
    pooling: str = "mean"

    @property
    def text(self) -> str:
        """The words of these parts, in a fixed order and without what is usual."""
        words = [f"{word}{value}" for word, name in _SIZES.items() if (value := getattr(self, name))]
        words += ["rms"] if self.rms else []
        if self.rotary:
            words.append("rotary" if self.rotary == _USUAL_BASE else f"rotary{_readable(self.rotary)}")
        words += [self.activation] if self.activation != "gelu" else []
        flags = {"post": self.post, "nobias": not self.bias, "untied": not self.tied}
        words += [word for word, said in flags.items() if said]
        words += [self.pooling] if self.pooling != "mean" else []
        words += [f"eps{_readable(self.epsilon)}"] if self.epsilon != Parts.epsilon else []
        return " ".join(words)


@functools.lru_cache(maxsize=1024)
def parts_of(text: str) -> Parts:
    """The parts that a text describes; InputError, naming the word, where it is no such text."""
    said: dict[str, int | float | bool | str] = {}
    for word in text.split():
        found = _WORD.fullmatch(word)
        name, value = _part(*found.groups()) if found else ("", None)
        if value is None:
            raise InputError(
                f"{brief(word)} is no part of a transformer. Use words like h4, kv2, mlp64, tokens96, patch4, "
                "positions512, segments2, rms, eps1e-6, rotary, post, nobias, untied, "
                f"{', '.join(ACTIVATIONS)}, {', '.join(POOLINGS[1:])}."
            )
        if name in said:
            raise InputError(
                f"The variant {brief(text)} says its {name} twice, the second time by {word!r}. Say it once."
            )
        said[name] = value
    return Parts(**said)  # pyright: ignore[reportArgumentType]


def _part(word: str, number: str | None) -> tuple[str, int | float | bool | str | None]:
    """The part that a word is of, and what it says; None where it says nothing."""
    if number is None:
        words: dict[str, tuple[str, bool | float | str]] = {
            "rms": ("rms", True),
            "post": ("post", True),
            "nobias": ("bias", False),
            "untied": ("tied", False),
            "rotary": ("rotary", _USUAL_BASE),
            **{name: ("activation", name) for name in ACTIVATIONS},
            **{name: ("pooling", name) for name in POOLINGS},
        }
        return words.get(word, ("", None))
    value = float(number)
    if word in _SIZES:
        return _SIZES[word], int(number) if number.isdecimal() and 1 <= value <= _MOST else None
    kinds = {"rotary": ("rotary", value > 1), "eps": ("epsilon", 0 < value < 1)}
    name, fits = kinds.get(word, ("", False))
    return name, value if fits else None


def _readable(value: float) -> str:
    return repr(value).removesuffix(".0")


def spelled(family: str, text: str, width: int, input_shape: Sequence[int]) -> str:
    """The variant of an encoder or decoder in its fixed order, heads and patches told.

    Raises InputError for words that mean nothing, or nothing for this family, and for sizes that do not fit.
    """
    parts, length = parts_of(text), input_shape[0] if len(input_shape) == 1 else 0
    if not length and (family == "decoder" or len(input_shape) != 3):
        reads = "tokens of the shape (length,)" + (", or images" if family == "encoder" else "")
        raise InputError(f"input_shape is {tuple(input_shape)}, but a {family} reads {reads}.")
    unused = {
        "tokens": (parts.tokens, family == "encoder" and length),
        "patch": (parts.patch, not length),
        "segments": (parts.segments, length),
        "rotary": (parts.rotary, length),
        "positions": (parts.positions, not parts.rotary),
        "untied": (not parts.tied, family == "decoder"),
        parts.pooling: (parts.pooling != "mean", family == "encoder"),
    }
    reader = "a decoder" if family == "decoder" else f"an encoder of {'tokens' if length else 'images'}"
    for word, (said, means) in unused.items():
        if said and not means:
            other = "one with rotary positions" if word == "positions" else reader
            raise InputError(f"The variant {text!r} says {word}, which {other} has none of. Leave it out.")
    if family == "encoder" and length and not parts.tokens:
        raise InputError("How many tokens an encoder reads is not known. Say it in its variant: 'tokens96'.")
    heads = parts.heads or next(count for count in (4, 2, 1) if width % count == 0 and _is_even(parts, width // count))
    if width % heads or heads % (parts.kv_heads or heads) or not _is_even(parts, width // heads):
        also = f" and {parts.kv_heads} of keys" if parts.kv_heads else ""
        even = " of an even size for rotary positions" if parts.rotary else ""
        raise InputError(f"A width of {width} does not part into {heads} heads{also}{even}. Choose others.")
    patch = parts.patch or (0 if length else max(1, input_shape[0] // 4))
    if patch and any(side % patch for side in input_shape[:2]):
        raise InputError(
            f"Images of {input_shape[0]}×{input_shape[1]} do not part into patches of {patch}. Say patch4."
        )
    count = length or math.prod(side // patch for side in input_shape[:2]) + (parts.pooling == "classtoken")
    if 0 < parts.positions < count:
        raise InputError(f"The inputs have {count} positions, but the network {parts.positions}. Give shorter ones.")
    kv_heads = 0 if parts.kv_heads == heads else parts.kv_heads
    hidden = 0 if parts.hidden == 4 * width else parts.hidden
    return dataclasses.replace(parts, heads=heads, patch=patch, kv_heads=kv_heads, hidden=hidden).text


def _is_even(parts: Parts, size: int) -> bool:
    return not parts.rotary or size % 2 == 0


def scaled(text: str, factor: float) -> str:
    """The same variant with its MLPs' hidden units multiplied, as the width is."""
    parts = parts_of(text)
    return dataclasses.replace(parts, hidden=max(1, round(factor * parts.hidden)) if parts.hidden else 0).text
