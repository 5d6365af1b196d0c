"""Transformers in plain PyTorch, laid out as GPT-2, BERT and ViT are: a file of one's own code, as `--module` takes."""

import torch
from torch import nn


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool):
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.causal = heads, causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5
        if self.causal:
            mask = torch.tril(torch.ones(length, length, dtype=torch.bool, device=x.device))
            scores = scores.masked_fill(~mask, -1e9)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """Normalised before attention and MLP, as GPT-2 and ViT are, or after them, as BERT is."""

    def __init__(self, width: int, heads: int, *, causal: bool = False, before: bool = True):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), Attention(width, heads, causal)
        self.ln_2, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, 4 * width), nn.GELU())
        self.proj, self.before = nn.Linear(4 * width, width), before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.before:
            x = x + self.attn(self.ln_1(x))
            return x + self.proj(self.mlp(self.ln_2(x)))
        x = self.ln_1(x + self.attn(x))
        return self.ln_2(x + self.proj(self.mlp(x)))


class GPT(nn.Module):
    """A decoder whose head is its embedding."""

    def __init__(self, tokens: int = 23, length: int = 10, width: int = 16, layers: int = 2, heads: int = 2):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(tokens, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads, causal=True) for _ in range(layers))
        self.ln_f, self.head = nn.LayerNorm(width), nn.Linear(width, tokens, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))


class BERT(nn.Module):
    """An encoder whose first position tells the class."""

    def __init__(self, tokens: int = 23, length: int = 10, width: int = 16, layers: int = 2, classes: int = 3):
        super().__init__()
        self.words, self.places = nn.Embedding(tokens, width), nn.Embedding(length, width)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, 2, before=False) for _ in range(layers))
        self.pooler, self.classifier = nn.Linear(width, width), nn.Linear(width, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.words(tokens) + self.places.weight[: tokens.shape[1]])
        for block in self.blocks:
            x = block(x)
        return self.classifier(torch.tanh(self.pooler(x[:, 0])))


class ViT(nn.Module):
    """Patches of two by two pixels, a token for the class before them."""

    def __init__(self, channels: int = 1, size: int = 8, width: int = 16, layers: int = 2, classes: int = 10):
        super().__init__()
        self.patches = nn.Conv2d(channels, width, 2, 2)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(1, (size // 2) ** 2 + 1, width))
        self.blocks = nn.ModuleList(Block(width, 2) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])
