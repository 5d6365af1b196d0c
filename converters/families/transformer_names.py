"""What Hugging Face's `transformers` calls the entries of BERT, GPT-2, ViT and Llama, and how it stores them.

Key names, buffers and defaults of configs: github.com/huggingface/transformers, `models/{bert,gpt2,vit,llama}`. GPT-2
stores linear layers as [in, out], and queries, keys and values as one.
"""

import dataclasses
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from converters.errors import RefusedError
from converters.families.keys import Arrays

_FUSED = ("query", "key", "value")


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the layers of one kind of network are called, by their names in the Flax module.

    `body` stands before all but the head's names, `block` before those of block {}; `inner` are those in a block.
    `heads` and `activation` are what a config calls these; `models` its `model_type`; `usual` what it means where it
    does not say, and `only` what it may say of what mdjax has but one form of.
    """

    body: str
    block: str
    layers: Mapping[str, str]
    inner: Mapping[str, str]
    models: tuple[str, ...]
    heads: str
    activation: str
    epsilon: str
    usual: Mapping[str, Any]
    only: Mapping[str, tuple[Any, ...]]
    head: str
    transposed: bool = True

    def torch_name(self, layer: str) -> str:
        """The PyTorch module of a layer ("tokens", "blocks/0/attention/query")."""
        if layer == "head":
            return self.head
        if not layer.startswith("blocks/"):
            return self.body + self.layers[layer]
        _, number, inner = layer.split("/", 2)
        return f"{self.body}{self.block.format(number)}{self.inner[inner]}"


_BERT_MLP = {"mlp/up": "intermediate.dense", "mlp/down": "output.dense", "attention/out": "attention.output.dense"}

LAYOUTS = {
    "BERT": Layout(
        "bert.",
        "encoder.layer.{}.",
        {
            "tokens": "embeddings.word_embeddings",
            "positions": "embeddings.position_embeddings",
            "segments": "embeddings.token_type_embeddings",
            "norm": "embeddings.LayerNorm",
            "pooler": "pooler.dense",
        },
        {f"attention/{name}": f"attention.self.{name}" for name in _FUSED}
        | _BERT_MLP
        | {"norm1": "attention.output.LayerNorm", "norm2": "output.LayerNorm"},
        ("bert",),
        "num_attention_heads",
        "hidden_act",
        "layer_norm_eps",
        {"hidden_act": "gelu", "layer_norm_eps": 1e-12},
        {"position_embedding_type": ("absolute",), "is_decoder": (False,), "add_cross_attention": (False,)},
        "classifier",
    ),
    "GPT-2": Layout(
        "transformer.",
        "h.{}.",
        {"tokens": "wte", "positions": "wpe", "norm": "ln_f"},
        {f"attention/{name}": f"attn.c_attn.{name}" for name in _FUSED}
        | {"attention/out": "attn.c_proj", "mlp/up": "mlp.c_fc", "mlp/down": "mlp.c_proj"}
        | {"norm1": "ln_1", "norm2": "ln_2"},
        ("gpt2",),
        "n_head",
        "activation_function",
        "layer_norm_epsilon",
        {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
        {
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
        "lm_head",
        transposed=False,
    ),
    "ViT": Layout(
        "vit.",
        "encoder.layer.{}.",
        {
            "patches": "embeddings.patch_embeddings.projection",
            "positions": "embeddings.position_embeddings",
            "classtoken": "embeddings.cls_token",
            "norm": "layernorm",
        },
        {f"attention/{name}": f"attention.attention.{name}" for name in _FUSED}
        | _BERT_MLP
        | {"norm1": "layernorm_before", "norm2": "layernorm_after"},
        ("vit",),
        "num_attention_heads",
        "hidden_act",
        "layer_norm_eps",
        {"hidden_act": "gelu", "layer_norm_eps": 1e-12},
        {},
        "classifier",
    ),
    "Llama": Layout(
        "model.",
        "layers.{}.",
        {"tokens": "embed_tokens", "norm": "norm"},
        {f"attention/{name}": f"self_attn.{name[0]}_proj" for name in (*_FUSED, "out")}
        | {f"mlp/{name}": f"mlp.{name}_proj" for name in ("up", "gate", "down")}
        | {"norm1": "input_layernorm", "norm2": "post_attention_layernorm"},
        ("llama",),
        "num_attention_heads",
        "hidden_act",
        "rms_norm_eps",
        {"hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "rope_theta": 10000.0},
        {"sliding_window": (), "rope_scaling": (), "partial_rotary_factor": (1.0,)},
        "lm_head",
    ),
}
OWN = Layout("", "blocks.{}.", {}, {}, (), "", "", "", MappingProxyType({}), MappingProxyType({}), "head")

_MARK = "attention/query"


def kind_of(arrays: Arrays) -> str:
    """Which of `LAYOUTS` names its entries like these, with or without what stands before those of the body; or ""."""
    for kind, layout in LAYOUTS.items():
        own = layout.block.format(0) + layout.inner[_MARK]
        forms = {own, own.removesuffix(".query") if kind == "GPT-2" else own}
        forms |= {"layers.0.attention.q_proj"} if kind == "ViT" else set()
        if any(f"{body}{form}.weight" in arrays for form in forms for body in ("", layout.body)):
            return kind
    return ""


def prepared(arrays: Arrays) -> Arrays:
    """The entries of a transformer with their full names, constants checked and left out, what is fused taken apart.

    Other networks' entries as they are. RefusedError for a constant that is another than the network's.
    """
    kind = kind_of(arrays)
    if not kind:
        return arrays
    layout, found = LAYOUTS[kind], dict[str, np.ndarray]()
    arrays = {_of_file(kind, name): array for name, array in arrays.items()}
    whole = any(name.startswith(f"{layout.body}{layout.block.format(0)}") for name in arrays)
    for name, array in arrays.items():
        full = name if whole or name.startswith((f"{layout.head}.", "cls.", "score.")) else f"{layout.body}{name}"
        if _is_constant(full, array):
            continue
        if kind == "GPT-2" and re.search(r"\.attn\.c_attn\.(weight|bias)$", full) and array.shape[-1] % 3 == 0:
            owner, _, leaf = full.rpartition(".")
            # Copies: parts of one array that lie in each other would count as tied.
            parts = np.split(array, 3, axis=-1)
            found |= {f"{owner}.{part}.{leaf}": np.ascontiguousarray(own) for part, own in zip(_FUSED, parts)}
            continue
        found[full] = array
    return found


_OLD = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
_RECENT = {
    f"attention.{name[0]}_proj.": f"attention.{'output.dense' if name == 'out' else 'attention.' + name}."
    for name in (*_FUSED, "out")
} | {"mlp.fc1.": "intermediate.dense.", "mlp.fc2.": "output.dense."}
"""Names in a ViT's blocks since `transformers` 5, which writes its files with the older ones."""


def _of_file(kind: str, name: str) -> str:
    """An entry's name as files have it: memory's are other ones in recent versions, and files' in the first ones."""
    if kind == "BERT":
        start, dot, end = name.rpartition("LayerNorm.")
        return f"{start}{_OLD.get(dot + end, dot + end)}"
    if kind != "ViT" or (found := re.match(r"(vit\.|)layers\.(\d+)\.(.*)", name)) is None:
        return name
    inner = next(
        (old + found[3].removeprefix(new) for new, old in _RECENT.items() if found[3].startswith(new)), found[3]
    )
    return f"{found[1]}encoder.layer.{found[2]}.{inner}"


def _is_constant(name: str, array: np.ndarray) -> bool:
    """Whether an entry is one that older versions stored beside the weights; RefusedError where it is changed."""
    kinds = {
        r"embeddings\.position_ids$": lambda: np.arange(array.size).reshape(1, -1),
        r"\.attn\.bias$": lambda: np.tril(np.ones(array.shape[-2:])).reshape(1, 1, *array.shape[-2:]),
        r"\.attn\.masked_bias$": lambda: np.array(-1e4),
        r"\.rotary_emb\.inv_freq$": lambda: array,
    }
    expected = next((value for pattern, value in kinds.items() if re.search(pattern, name)), None)
    if expected is None:
        return False
    if array.ndim == 1 and name.endswith(".attn.bias"):
        return False
    if not np.array_equal(array, expected()):
        raise RefusedError(f"its entry {name} is a constant of this kind of network, but holds other numbers")
    return True


def restored(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `prepared`: what GPT-2 stores as one put together."""
    found: dict[str, np.ndarray] = {}
    fused: dict[str, list[np.ndarray]] = {}
    for name, array in arrays.items():
        owner, part, leaf = (*name.rsplit(".", 2), "", "")[:3]
        if owner.endswith(".c_attn") and part in _FUSED:
            # In the order of the leaves keys come before queries.
            fused.setdefault(f"{owner}.{leaf}", [array] * 3)[_FUSED.index(part)] = array
        else:
            found[name] = array
    return found | {name: np.concatenate(parts, axis=-1) for name, parts in fused.items()}
