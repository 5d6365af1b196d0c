"""Transformers as Hugging Face's `transformers` stores them: which leaf an entry is, and which network entries are of.

How many heads there are stands in no weight: it is told, or read from the config.json beside them.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from converters.errors import RefusedError
from converters.families.keys import Arrays, Entry, Facts, Schema, rows
from converters.families.transformer_names import LAYOUTS, OWN, Layout, kind_of, prepared, restored
from mdjax.models import Architecture
from mdjax.models.transformer_variants import ACTIVATIONS, parts_of

__all__ = ["FAMILIES", "guesses", "prepared", "restored", "schema_of"]

FAMILIES = ("encoder", "decoder")

_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
_ACTIVATIONS = {
    "gelunew": "gelutanh",
    "gelufast": "gelutanh",
    "gelupytorchtanh": "gelutanh",
    "swish": "silu",
    **{name: name for name in ACTIVATIONS},
}


@dataclasses.dataclass(frozen=True)
class _AsStored(Entry):
    """An entry whose axes have one order in both, but for those of size 1 that it begins with."""

    own: tuple[int, ...] = ()

    def leaf(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(self.own)

    def stored(self, leaf: np.ndarray) -> np.ndarray:
        return np.array(leaf.reshape(self.shape), order="C")


def schema_of(architecture: Architecture) -> Schema:
    """Which entry of a state_dict, as `prepared`, is which leaf of an encoder's or decoder's (params, state).

    Named as Hugging Face names the network, where it has such, else as in Flax with dots.
    """
    layout = LAYOUTS.get(_kind(architecture), OWN)
    leaves, structure = jax.tree_util.tree_flatten_with_path(architecture.abstract)
    entries: list[Entry] = []
    for path, abstract in leaves:
        *layers, leaf = [str(key.key) for key in path[1:]]
        layer, own = "/".join(layers), tuple(abstract.shape)
        name = layer.replace("/", ".") if layout is OWN else layout.torch_name(layer)
        whole = f"{name}.{_LEAVES[leaf]}"
        if layout is LAYOUTS["ViT"] and leaf == "embedding":
            entries.append(_AsStored(name, (1, *own), (), own))
        elif leaf == "kernel" and (layout.transposed or layer == "head"):
            order = (3, 2, 0, 1) if len(own) == 4 else (1, 0)
            entries.append(Entry(whole, tuple(own[axis] for axis in order), ()))
        else:
            entries.append(_AsStored(whole, own, (), own))
    tied = architecture.family == "decoder" and parts_of(architecture.variant).tied and layout is not OWN
    aliases = {f"{layout.head}.weight": f"{layout.torch_name('tokens')}.weight"} if tied else {}
    return Schema(tuple(entries), frozenset(), aliases, structure)


def _kind(architecture: Architecture) -> str:
    """Which of `LAYOUTS` an architecture is of, or ""."""
    parts = parts_of(architecture.variant)
    form = (parts.rms, bool(parts.rotary), parts.post, parts.activation == "swiglu", parts.bias, parts.pooling)
    shared = bool(parts.kv_heads)
    if architecture.family == "decoder":
        kinds = {(False, False, False, False, True, "mean"): "GPT-2", (True, True, False, True, False, "mean"): "Llama"}
    elif architecture.reads_tokens:
        kinds = {(False, False, True, False, True, "pooler"): "BERT"} if parts.segments else {}
    else:
        kinds = {(False, False, False, False, True, "classtoken"): "ViT"}
    kind = kinds.get(form, "")
    return "" if shared and kind != "Llama" else kind


# Which network entries are of.


def guesses(arrays: Arrays, facts: Facts) -> list[Architecture]:
    """The transformer that a `prepared` state_dict may be; none for other networks.

    facts: `heads`, `nonlinearity` and `input_shape` as told, `config` as the config.json beside the weights says it.

    Raises RefusedError where the number of heads is not known, or a config says what mdjax's networks have not.
    """
    kind = kind_of(arrays)
    if not kind:
        return []
    layout, config = LAYOUTS[kind], facts.get("config") or {}
    _check_config(kind, layout, config)
    read = {"BERT": _bert, "GPT-2": _gpt2, "ViT": _vit, "Llama": _llama}[kind]
    depth = _count(arrays, layout)
    return [read(arrays, facts, _words(kind, layout, config, facts), depth)]


def _check_config(kind: str, layout: Layout, config: Mapping[str, Any]) -> None:
    said = config.get("model_type")
    if said is not None and said not in layout.models:
        raise RefusedError(
            f"its entries are those of a {kind}, but its config.json says model_type {said!r}. Give the module to "
            "converters.from_module"
        )
    for name, allowed in layout.only.items():
        value = config.get(name)
        if name == "rope_scaling" and isinstance(value, Mapping):
            value = None if value.get("rope_type", value.get("type")) == "default" else value
        if value is not None and value not in allowed:
            raise RefusedError(
                f"its config.json says {name} {value!r}, which mdjax's networks have not. Give the module to "
                "converters.from_module"
            )


def _words(kind: str, layout: Layout, config: Mapping[str, Any], facts: Facts) -> list[str]:
    """What weights do not tell: heads, nonlinearity, what norms add."""
    heads = facts.get("heads", config.get(layout.heads))
    if heads is None:
        raise RefusedError(
            "its weights do not tell how many heads its attention has. Put its config.json beside it, or give heads"
        )
    if not isinstance(heads, int) or isinstance(heads, bool) or heads < 1:
        raise RefusedError(f"its heads are given as {heads!r}, which is no number of heads")
    said = str(facts.get("nonlinearity") or config.get(layout.activation, layout.usual[layout.activation]))
    activation = _ACTIVATIONS.get(re.sub(r"[-_]", "", said.lower()))
    if activation is None or (kind == "Llama" and activation != "silu"):
        known = "silu" if kind == "Llama" else ", ".join(name for name in ACTIVATIONS if name != "swiglu")
        raise RefusedError(f"its nonlinearity is {said}, but one of {known} was expected")
    epsilon = config.get(layout.epsilon, layout.usual[layout.epsilon])
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 < epsilon < 1:
        raise RefusedError(f"its config.json says {layout.epsilon} {epsilon!r}, which no norm can add")
    return [f"h{heads}", "swiglu" if kind == "Llama" else activation, f"eps{float(epsilon)!r}"]


def _count(arrays: Arrays, layout: Layout) -> int:
    start = f"{layout.body}{layout.block.format('')}".removesuffix(".")
    numbers = {name.removeprefix(start).split(".", 1)[0] for name in arrays if name.startswith(start)}
    return len(numbers)


def _sizes(arrays: Arrays, layout: Layout, axis: int) -> str:
    """The words of an MLP's hidden units; of a layer that is missing none, which is told by name."""
    up = arrays.get(f"{layout.torch_name('blocks/0/mlp/up')}.weight")
    return f"mlp{up.shape[axis]}" if up is not None and up.ndim == 2 else ""


def _length(facts: Facts, longest: int) -> tuple[int, ...]:
    shape = facts.get("input_shape")
    return (longest,) if shape is None else tuple(int(size) for size in shape)


def _table(arrays: Arrays, layout: Layout, layer: str) -> tuple[int, int]:
    name = f"{layout.torch_name(layer)}.weight"
    if not rows(arrays, name, 2):
        raise RefusedError(f"it lacks the entry {name}, or it is no table")
    number, width = arrays[name].shape
    return number, width


def _classes(arrays: Arrays, layout: Layout) -> int:
    """Outputs of the head; RefusedError for a body alone, or with a head of another kind."""
    if number := rows(arrays, f"{layout.head}.weight", 2):
        return number
    others = sorted({name.split(".", 1)[0] for name in arrays} - {layout.body.removesuffix(".")})
    raise RefusedError(
        f"it has no head {layout.head}.weight{' but ' + ', '.join(others) if others else ''}, and so no outputs that a "
        "task asks for. Give a checkpoint with it, or the module to converters.from_module"
    )


def _bert(arrays: Arrays, facts: Facts, words: list[str], depth: int) -> Architecture:
    layout = LAYOUTS["BERT"]
    (tokens, width), (positions, _) = (_table(arrays, layout, layer) for layer in ("tokens", "positions"))
    segments, _ = _table(arrays, layout, "segments")
    words += [_sizes(arrays, layout, 0), f"tokens{tokens} positions{positions} segments{segments} post pooler"]
    shape = _length(facts, positions)
    return Architecture("encoder", width, shape, _classes(arrays, layout), depth, " ".join(words))


def _gpt2(arrays: Arrays, facts: Facts, words: list[str], depth: int) -> Architecture:
    layout = LAYOUTS["GPT-2"]
    (tokens, width), (positions, _) = (_table(arrays, layout, layer) for layer in ("tokens", "positions"))
    words += [_sizes(arrays, layout, 1), f"positions{positions}", _tying(arrays, facts, layout)]
    return Architecture("decoder", width, _length(facts, positions), tokens, depth, " ".join(words))


def _llama(arrays: Arrays, facts: Facts, words: list[str], depth: int) -> Architecture:
    layout, config = LAYOUTS["Llama"], facts.get("config")
    if not config:
        raise RefusedError(
            "its weights do not tell the base of its rotary positions and what its norms add. Put its config.json "
            "beside it"
        )
    (tokens, width), heads = _table(arrays, layout, "tokens"), int(words[0][1:])
    rope = config.get("rope_parameters") or {}
    if not isinstance(rope, Mapping) or rope.get("rope_type", "default") != "default":
        raise RefusedError(f"its config.json says rope_parameters {rope!r}, but only the default ones are known")
    if config.get("head_dim") not in (None, width / heads):
        raise RefusedError(
            f"its config.json says head_dim {config['head_dim']!r}, but its {heads} heads part a width of {width}"
        )
    base = rope.get("rope_theta", config.get("rope_theta", layout.usual["rope_theta"]))
    keys = rows(arrays, f"{layout.torch_name('blocks/0/attention/key')}.weight", 2)
    if width % heads or keys % (width // heads):
        raise RefusedError(
            f"its keys are {keys} numbers of a width of {width}, which part into no heads like its {heads}"
        )
    bias = any(name.endswith("_proj.bias") for name in arrays)
    words += [f"kv{keys // (width // heads)}", "rms", f"rotary{float(base)!r}", "" if bias else "nobias"]
    words += [_sizes(arrays, layout, 0), _tying(arrays, facts, layout)]
    longest = config.get("max_position_embeddings")
    shape = _length(facts, longest if isinstance(longest, int) and longest > 0 else 1)
    return Architecture("decoder", width, shape, tokens, depth, " ".join(words))


def _tying(arrays: Arrays, facts: Facts, layout: Layout) -> str:
    """ "" where a decoder's head is its embedding, "untied" where it is not."""
    config, head = facts.get("config"), arrays.get(f"{layout.head}.weight")
    said = None if config is None else config.get("tie_word_embeddings", layout.usual["tie_word_embeddings"])
    if head is None and said is False:
        _classes(arrays, layout)
    tokens = arrays[f"{layout.torch_name('tokens')}.weight"]
    same = head is None or np.array_equal(head, tokens)
    return "" if said or (said is None and same) else "untied"


def _vit(arrays: Arrays, facts: Facts, words: list[str], depth: int) -> Architecture:
    layout = LAYOUTS["ViT"]
    name, places = f"{layout.torch_name('patches')}.weight", arrays.get(layout.torch_name("positions"))
    if not rows(arrays, name, 4) or places is None or places.ndim != 3:
        raise RefusedError("it lacks the patches or positions of a ViT")
    width, channels, patch, _ = arrays[name].shape
    shape, size = facts.get("input_shape"), (facts.get("config") or {}).get("image_size")
    if shape is None:
        side = math.isqrt(places.shape[1] - 1) * patch
        rows_columns = tuple(size) if isinstance(size, list | tuple) else (size or side,) * 2
        shape = (*rows_columns, channels)
    words += [_sizes(arrays, layout, 0), f"patch{patch} classtoken"]
    return Architecture("encoder", width, tuple(shape), _classes(arrays, layout), depth, " ".join(words))
