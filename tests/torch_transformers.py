"""Small transformers in plain PyTorch, whose entries are called as Hugging Face's BERT, GPT-2, ViT and Llama call them.

Written from the papers' formulas with PyTorch's own attention, not from `transformers` nor from mdjax's networks.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn


def attended(q, k, v, heads, causal=False, kv_heads=None, turn=lambda x: x):
    """Attention of queries, keys and values [b, t, width] by PyTorch's own function."""

    def split(x, number):
        return x.unflatten(-1, (number, -1)).transpose(1, 2)

    q, k, v = turn(split(q, heads)), turn(split(k, kv_heads or heads)), split(v, kv_heads or heads)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=kv_heads is not None)
    return mixed.transpose(1, 2).flatten(2)


def module(**parts):
    return nn.ModuleDict(parts)


def linear_and_norm(inputs, width):
    return module(dense=nn.Linear(inputs, width), LayerNorm=nn.LayerNorm(width, eps=1e-12))


class BERT(nn.Module):
    config: ClassVar = {"model_type": "bert", "num_attention_heads": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-12}

    def __init__(self, tokens=23, positions=12, width=16, hidden=40, classes=3):
        super().__init__()
        tables = {"word": tokens, "position": positions, "token_type": 2}
        embeddings = {f"{name}_embeddings": nn.Embedding(rows, width) for name, rows in tables.items()}
        layers = [
            module(
                attention=module(
                    self=module(**{name: nn.Linear(width, width) for name in ("query", "key", "value")}),
                    output=linear_and_norm(width, width),
                ),
                intermediate=module(dense=nn.Linear(width, hidden)),
                output=linear_and_norm(hidden, width),
            )
            for _ in range(2)
        ]
        self.bert = module(
            embeddings=module(**embeddings, LayerNorm=nn.LayerNorm(width, eps=1e-12)),
            encoder=module(layer=nn.ModuleList(layers)),
            pooler=module(dense=nn.Linear(width, width)),
        )
        self.classifier = nn.Linear(width, classes)

    def forward(self, tokens):
        parts = self.bert["embeddings"]
        x = parts["word_embeddings"](tokens) + parts["position_embeddings"].weight[: tokens.shape[1]]
        x = parts["LayerNorm"](x + parts["token_type_embeddings"].weight[0])
        for layer in self.bert["encoder"]["layer"]:
            own, out = layer["attention"]["self"], layer["attention"]["output"]
            x = out["LayerNorm"](x + out["dense"](attended(*(own[n](x) for n in ("query", "key", "value")), 4)))
            hidden = F.gelu(layer["intermediate"]["dense"](x))
            x = layer["output"]["LayerNorm"](x + layer["output"]["dense"](hidden))
        return self.classifier(torch.tanh(self.bert["pooler"]["dense"](x[:, 0])))


class Conv1D(nn.Module):
    """A linear layer whose weight is [in, out]."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs) / 5), nn.Parameter(torch.randn(outputs))

    def forward(self, x):
        return x @ self.weight + self.bias


class GPT2(nn.Module):
    config: ClassVar = {
        "model_type": "gpt2",
        "n_head": 4,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
    }

    def __init__(self, tokens=23, positions=12, width=16):
        super().__init__()
        layers = [
            module(
                ln_1=nn.LayerNorm(width),
                attn=module(c_attn=Conv1D(width, 3 * width), c_proj=Conv1D(width, width)),
                ln_2=nn.LayerNorm(width),
                mlp=module(c_fc=Conv1D(width, 4 * width), c_proj=Conv1D(4 * width, width)),
            )
            for _ in range(2)
        ]
        self.transformer = module(
            wte=nn.Embedding(tokens, width),
            wpe=nn.Embedding(positions, width),
            h=nn.ModuleList(layers),
            ln_f=nn.LayerNorm(width),
        )
        self.lm_head = nn.Linear(width, tokens, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, tokens):
        x = self.transformer["wte"](tokens) + self.transformer["wpe"].weight[: tokens.shape[1]]
        for layer in self.transformer["h"]:
            q, k, v = layer["attn"]["c_attn"](layer["ln_1"](x)).chunk(3, -1)
            x = x + layer["attn"]["c_proj"](attended(q, k, v, 4, causal=True))
            x = x + layer["mlp"]["c_proj"](F.gelu(layer["mlp"]["c_fc"](layer["ln_2"](x)), approximate="tanh"))
        return self.lm_head(self.transformer["ln_f"](x))


class ViT(nn.Module):
    config: ClassVar = {"model_type": "vit", "num_attention_heads": 4, "hidden_act": "gelu", "image_size": 8}

    def __init__(self, channels=3, side=8, patch=2, width=16, hidden=40, classes=5):
        super().__init__()
        layers = [
            module(
                layernorm_before=nn.LayerNorm(width, eps=1e-12),
                attention=module(
                    attention=module(**{name: nn.Linear(width, width) for name in ("query", "key", "value")}),
                    output=module(dense=nn.Linear(width, width)),
                ),
                layernorm_after=nn.LayerNorm(width, eps=1e-12),
                intermediate=module(dense=nn.Linear(width, hidden)),
                output=module(dense=nn.Linear(hidden, width)),
            )
            for _ in range(2)
        ]
        projection = nn.Conv2d(channels, width, patch, patch)
        embeddings = module(patch_embeddings=module(projection=projection))
        embeddings.cls_token = nn.Parameter(torch.randn(1, 1, width))
        embeddings.position_embeddings = nn.Parameter(torch.randn(1, (side // patch) ** 2 + 1, width))
        norm = nn.LayerNorm(width, eps=1e-12)
        self.vit = module(embeddings=embeddings, encoder=module(layer=nn.ModuleList(layers)), layernorm=norm)
        self.classifier = nn.Linear(width, classes)

    def forward(self, images):
        parts = self.vit["embeddings"]
        x = parts["patch_embeddings"]["projection"](images).flatten(2).mT
        x = torch.cat([parts.cls_token.expand(len(x), -1, -1), x], 1) + parts.position_embeddings
        for layer in self.vit["encoder"]["layer"]:
            own, read = layer["attention"]["attention"], layer["layernorm_before"](x)
            mixed = attended(*(own[name](read) for name in ("query", "key", "value")), 4)
            x = x + layer["attention"]["output"]["dense"](mixed)
            x = x + layer["output"]["dense"](F.gelu(layer["intermediate"]["dense"](layer["layernorm_after"](x))))
        return self.classifier(self.vit["layernorm"](x)[:, 0])


class Llama(nn.Module):
    config: ClassVar = {
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 500.0,
        "tie_word_embeddings": False,
        "max_position_embeddings": 64,
    }

    def __init__(self, tokens=23, width=16, hidden=40):
        super().__init__()
        layers = [
            module(
                input_layernorm=nn.RMSNorm(width, eps=1e-5),
                self_attn=module(
                    **{f"{n}_proj": nn.Linear(width, w, bias=False) for n, w in zip("qkvo", (16, 8, 8, 16))}
                ),
                post_attention_layernorm=nn.RMSNorm(width, eps=1e-5),
                mlp=module(
                    **{f"{name}_proj": nn.Linear(width, hidden, bias=False) for name in ("gate", "up")},
                    down_proj=nn.Linear(hidden, width, bias=False),
                ),
            )
            for _ in range(2)
        ]
        embed, norm = nn.Embedding(tokens, width), nn.RMSNorm(width, eps=1e-5)
        self.model = module(embed_tokens=embed, layers=nn.ModuleList(layers), norm=norm)
        self.lm_head = nn.Linear(width, tokens, bias=False)

    def turn(self, x):
        """Pairs (i, i + d/2) as complex numbers, turned by position · θ^(−2i/d)."""
        pairs = torch.complex(*x.chunk(2, -1))
        size = pairs.shape[-1]
        angles = torch.arange(x.shape[2])[:, None] * 500.0 ** (-torch.arange(size) / size)
        turned = pairs * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([turned.real, turned.imag], -1)

    def forward(self, tokens):
        x = self.model["embed_tokens"](tokens)
        for layer in self.model["layers"]:
            read, own = layer["input_layernorm"](x), layer["self_attn"]
            mixed = attended(*(own[f"{n}_proj"](read) for n in "qkv"), 4, True, 2, self.turn)
            x = x + own["o_proj"](mixed)
            read, mlp = layer["post_attention_layernorm"](x), layer["mlp"]
            x = x + mlp["down_proj"](F.silu(mlp["gate_proj"](read)) * mlp["up_proj"](read))
        return self.lm_head(self.model["norm"](x))


NETWORKS = {"bert": BERT, "gpt2": GPT2, "vit": ViT, "llama": Llama}


def network(name):
    """One of them with weights that are all of their own, norms' and biases' too."""
    torch.manual_seed(0)
    made = NETWORKS[name]().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made
