"""Transformers as Flax modules: a decoder that says each next token, an encoder of tokens or of an image's patches.

Attention as in Vaswani et al., "Attention is all you need", NeurIPS 2017; norms before attention and MLP (GPT-2) or
after them (BERT); rotary positions of Su et al., 2021, with the halves of a head turned against each other; patches of
Dosovitskiy et al., ICLR 2021. Nothing is dropped out, and no position is padding: every example is read whole.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from mdjax.models.layers import dense, fan_in_uniform
from mdjax.models.transformer_variants import Parts, parts_of

_NONLINEARITIES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelutanh": functools.partial(nn.gelu, approximate=True),
    "relu": nn.relu,
    "silu": nn.silu,
    "swiglu": nn.silu,
}


class Table(nn.Module):
    """Rows [n, features] to be looked up, from U(±1/√features)."""

    rows: int
    features: int

    @nn.compact
    def __call__(self) -> jax.Array:
        return self.param("embedding", fan_in_uniform(self.features), (self.rows, self.features))


class Norm(nn.Module):
    """LayerNorm over the last axis with scale and bias, or RMSNorm with a scale."""

    rms: bool
    epsilon: float

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        features = inputs.shape[-1:]
        # The variance of what is centred: a difference of two means of squares would cancel.
        centred = inputs if self.rms else inputs - jnp.mean(inputs, -1, keepdims=True)
        factor = jax.lax.rsqrt(jnp.mean(jnp.square(centred), -1, keepdims=True) + self.epsilon)
        outputs = centred * factor * self.param("scale", nn.initializers.ones, features)
        return outputs if self.rms else outputs + self.param("bias", nn.initializers.zeros, features)


def turned(values: jax.Array, base: float) -> jax.Array:
    """Rotary positions: of values [b, t, ..., d] the halves of d, turned by angles that grow with the position."""
    size = values.shape[-1] // 2
    frequencies = base ** (-jnp.arange(size, dtype=jnp.float32) / size)
    angles = jnp.arange(values.shape[1], dtype=jnp.float32)[:, None] * frequencies
    angles = angles.reshape(values.shape[1], *(1,) * (values.ndim - 3), size)
    first, second = values[..., :size], values[..., size:]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


class Attention(nn.Module):
    """Each position's mean of values, weighted by how well its query fits a key; of those before it alone if causal."""

    parts: Parts
    causal: bool

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        batch, length, width = inputs.shape
        heads, kv_heads = self.parts.heads, self.parts.kv_heads or self.parts.heads
        size = width // heads
        project = functools.partial(dense, inputs=inputs, use_bias=self.parts.bias)
        queries = project(width, name="query").reshape(batch, length, kv_heads, heads // kv_heads, size)
        keys, values = (
            project(kv_heads * size, name=name).reshape(batch, length, kv_heads, size) for name in ("key", "value")
        )
        if self.parts.rotary:
            queries, keys = turned(queries, self.parts.rotary), turned(keys, self.parts.rotary)
        scores = jnp.einsum("btkgd,bskd->bkgts", queries, keys) / size**0.5
        if self.causal:
            before = jnp.tril(jnp.ones((length, length), bool))
            scores = jnp.where(before, scores, jnp.finfo(scores.dtype).min)
        mixed = jnp.einsum("bkgts,bskd->btkgd", nn.softmax(scores), values).reshape(batch, length, width)
        return dense(width, mixed, "out", use_bias=self.parts.bias)


class Feedforward(nn.Module):
    """A hidden layer at each position; with SwiGLU each hidden unit times a gate."""

    parts: Parts

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        width, bias = inputs.shape[-1], self.parts.bias
        size, nonlinearity = self.parts.hidden or 4 * width, _NONLINEARITIES[self.parts.activation]
        hidden = dense(size, inputs, "up", use_bias=bias)
        if self.parts.activation == "swiglu":
            hidden = hidden * nonlinearity(dense(size, inputs, "gate", use_bias=bias))
        else:
            hidden = nonlinearity(hidden)
        return dense(width, hidden, "down", use_bias=bias)


class Block(nn.Module):
    """Attention and MLP, each added to what it reads."""

    parts: Parts
    causal: bool

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        norms = [Norm(self.parts.rms, self.parts.epsilon, name=name) for name in ("norm1", "norm2")]
        layers = [Attention(self.parts, self.causal, name="attention"), Feedforward(self.parts, name="mlp")]
        hidden = inputs
        for norm, layer in zip(norms, layers, strict=True):
            hidden = norm(hidden + layer(hidden)) if self.parts.post else hidden + layer(norm(hidden))
        return hidden


class Blocks(nn.Module):
    """Blocks 0, 1, 2, … one after another."""

    parts: Parts
    depth: int
    causal: bool

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        for number in range(self.depth):
            hidden = Block(self.parts, self.causal, name=str(number))(hidden)
        return hidden


class Transformer(nn.Module):
    """What encoder and decoder share: embedded inputs with their positions, blocks, norms.

    Parameters: `tokens` or `patches`, `positions`, `segments`, `classtoken`, `norm` (before the blocks with `post`,
    else after them), `blocks` with one entry a block, and those of the outputs.
    """

    width: int
    num_classes: int
    depth: int
    variant: str

    def read(self, hidden: jax.Array, parts: Parts, *, causal: bool) -> jax.Array:
        """What the blocks make of embedded inputs [b, t, width], same shape."""
        length = hidden.shape[1]
        if not parts.rotary:
            hidden = hidden + Table(parts.positions or length, self.width, name="positions")()[:length]
        if parts.segments:
            hidden = hidden + Table(parts.segments, self.width, name="segments")()[:1]
        norm = Norm(parts.rms, parts.epsilon, name="norm")
        hidden = norm(hidden) if parts.post else hidden
        hidden = Blocks(parts, self.depth, causal, name="blocks")(hidden)
        return hidden if parts.post else norm(hidden)


class Decoder(Transformer):
    """Logits [b, t, tokens] of the token that follows each of tokens[b, t], from it and those before it."""

    @nn.compact
    def __call__(self, inputs: jax.Array, weights: jax.Array | None = None) -> jax.Array:
        parts = parts_of(self.variant)
        table = Table(self.num_classes, self.width, name="tokens")()
        hidden = self.read(jnp.take(table, inputs, axis=0), parts, causal=True)
        return hidden @ table.T if parts.tied else dense(self.num_classes, hidden, "head", use_bias=False)


class Encoder(Transformer):
    """Outputs [b, classes] of tokens[b, t], or of images [b, rows, columns, c] as patches, row after row."""

    @nn.compact
    def __call__(self, inputs: jax.Array, weights: jax.Array | None = None) -> jax.Array:
        parts = parts_of(self.variant)
        if parts.patch:
            hidden = Patches(self.width, parts.patch, name="patches")(inputs)
        else:
            hidden = jnp.take(Table(parts.tokens, self.width, name="tokens")(), inputs, axis=0)
        if parts.pooling == "classtoken":
            token = Table(1, self.width, name="classtoken")()
            hidden = jnp.concatenate([jnp.broadcast_to(token, (len(hidden), *token.shape)), hidden], 1)
        hidden = self.read(hidden, parts, causal=False)
        hidden = jnp.mean(hidden, 1) if parts.pooling == "mean" else hidden[:, 0]
        if parts.pooling == "pooler":
            hidden = nn.tanh(dense(self.width, hidden, "pooler"))
        return dense(self.num_classes, hidden, "head")


class Patches(nn.Module):
    """A linear layer on each patch of images [b, rows, columns, c] → [b, patches, features]."""

    features: int
    size: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        batch, rows, columns, channels = images.shape
        shape = (self.size, self.size, channels, self.features)
        init = fan_in_uniform(self.size**2 * channels)
        kernel, bias = self.param("kernel", init, shape), self.param("bias", init, (self.features,))
        cut = images.reshape(batch, rows // self.size, self.size, columns // self.size, self.size, channels)
        patches = cut.swapaxes(2, 3).reshape(batch, -1, self.size**2 * channels)
        return patches @ kernel.reshape(-1, self.features) + bias
