"""Networks for tasks other than classes, their data, and each task's loss written out by hand in float64."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mdjax.metrics import Examples
from mdjax.models import FunctionModel
from mdjax.tasks import TASKS, Task

NUM_TRAIN, NUM_TEST, LENGTH, VOCABULARY = 120, 30, 6, 9


@dataclasses.dataclass(frozen=True)
class PseudoHuber(Task):
    """√(1 + (d/δ)²) − 1 of the difference d, the mean over outputs: a task of somebody's own."""

    delta: float = 0.5

    def loss(self, outputs, targets):
        return jnp.mean(jnp.sqrt(1 + jnp.square((outputs["y"] - targets["y"]) / self.delta)) - 1, axis=1)


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def mlp(p, state, x):
    return dense(p["last"], jnp.tanh(dense(p["first"], x)))


def transformer(p, state, tokens):
    """A causal one of a single block, pre-normalised; logits of the next token at each position."""

    def norm(x):
        return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)

    h = p["embedding"]["kernel"][tokens] + p["positions"]["kernel"]
    q, k, v = (dense(p[name], norm(h)) for name in "qkv")
    scores = q @ jnp.swapaxes(k, 1, 2) / jnp.sqrt(q.shape[-1])
    causal = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))
    h = h + dense(p["o"], jax.nn.softmax(jnp.where(causal, scores, -1e9)) @ v)
    return dense(p["logits"], norm(h + dense(p["down"], jax.nn.gelu(dense(p["up"], norm(h))))))


def masked_mlp(p, state, inputs):
    """Of dictionaries: floats, some of which a mask of whole numbers takes out, and a token."""
    x = inputs["x"] * inputs["mask"]
    return {"y": dense(p["last"], jnp.tanh(dense(p["first"], x) + p["embedding"]["kernel"][inputs["token"]]))}


_WIDTHS = {
    "mlp": lambda d: {"first": (5, 8), "last": (8, d)},
    "masked": lambda d: {"first": (5, 8), "last": (8, d), "embedding": (VOCABULARY, 8)},
    "transformer": lambda d: {
        "embedding": (VOCABULARY, 8),
        "positions": (LENGTH, 8),
        **dict.fromkeys("qkvo", (8, 8)),
        "up": (8, 12),
        "down": (12, 8),
        "logits": (8, VOCABULARY),
    },
}


class Problem(NamedTuple):
    """Three models stacked, what they are measured on, and the loss of one raveled output each in float64."""

    model: FunctionModel
    params: dict
    examples: Examples
    loss: object  # (outputs, targets) of all examples → the mean loss, by jnp in whatever precision it is given


def _squares(outputs, targets):
    return jnp.mean((outputs.reshape(targets.shape) - targets) ** 2)


def _binary(outputs, targets):
    outputs = outputs.reshape(targets.shape)
    p = 1 / (1 + jnp.exp(-outputs))
    return -jnp.mean(targets * jnp.log(p) + (1 - targets) * jnp.log(1 - p))


def _tokens(outputs, targets):
    logs = jax.nn.log_softmax(outputs)
    own = jnp.take_along_axis(logs, jnp.maximum(targets, 0)[..., None], -1)[..., 0]
    return -jnp.sum(jnp.where(targets >= 0, own, 0)) / jnp.sum(targets >= 0)


def _huber(outputs, targets):
    return jnp.mean(jnp.sqrt(1 + ((outputs["y"] - targets["y"]) / 0.5) ** 2) - 1)


MODELS = {name: FunctionModel(apply) for name, apply in (("mlp", mlp), ("transformer", transformer))}
MODELS["masked"] = FunctionModel(masked_mlp)


@functools.cache
def problem(name: str) -> Problem:
    """The problem of one of NAMES; 20 of its training examples do not count."""
    random = np.random.default_rng(0)
    total = NUM_TRAIN + NUM_TEST
    x = random.normal(size=(total, 5)).astype(np.float32)
    signal = np.tanh(x @ random.normal(size=(5, 3))) + 0.3 * random.normal(size=(total, 3))
    tokens = random.integers(0, VOCABULARY, (total, LENGTH + 1))
    kind, task, inputs, targets, loss = {
        "regression": ("mlp", TASKS["regression"], x, signal.astype(np.float32), _squares),
        "regression of one": ("mlp", TASKS["regression"], x, signal[:, 0].astype(np.float32), _squares),
        "multi-label": ("mlp", TASKS["multi-label"], x, (signal > 0).astype(np.float32), _binary),
        "yes or no": ("mlp", TASKS["multi-label"], x, (signal[:, 0] > 0).astype(np.float32), _binary),
        "next-token": (
            "transformer",
            TASKS["next-token"],
            tokens[:, :-1].astype(np.int32),
            np.where(random.random((total, LENGTH)) < 0.2, -1, tokens[:, 1:]).astype(np.int32),
            _tokens,
        ),
        "own": (
            "masked",
            PseudoHuber(),
            {"x": x, "mask": random.integers(0, 2, (total, 5)).astype(np.int32), "token": tokens[:, 0].astype("i4")},
            {"y": signal.astype(np.float32)},
            _huber,
        ),
    }[name]
    first, last = (
        jax.tree.map(lambda leaf, part=part: leaf[part], (inputs, targets))
        for part in (slice(NUM_TRAIN), slice(NUM_TRAIN, None))
    )
    task = task.fitted(first[1])
    examples = Examples(*jax.tree.map(jnp.asarray, (*first, NUM_TRAIN - 20, *last)), task)
    outputs = targets["y"].shape[1] if isinstance(targets, dict) else 1 if targets.ndim == 1 else targets.shape[1]
    params = {
        layer: {
            "kernel": jnp.asarray(random.normal(size=(3, *shape)) / np.sqrt(shape[0]), jnp.float32),
            **({} if layer in ("embedding", "positions") else {"bias": jnp.zeros((3, shape[1]))}),
        }
        for layer, shape in _WIDTHS[kind](outputs).items()
    }
    return Problem(MODELS[kind], params, examples, loss)


NAMES = ("regression", "regression of one", "multi-label", "yes or no", "next-token", "own")
