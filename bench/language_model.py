"""What memory and time does a language model take: losses and the Hessian, its logits far larger than a memory at once?

    python bench/language_model.py [--width 384] [--layers 4] [--tokens 8192] [--length 128] [--out FILE]

A decoder with random weights and a head of its own embedding, on random tokens. Last line JSON: parameters,
logits_gib (of all examples at once), losses_seconds, hessian_seconds, hessian_eigenvalue, hessian_trace and its
standard error, hessian_products, peak_mib of the process, of which start_mib before anything was measured.
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from environment import environment

import mdjax
from mdjax.files import write_file
from mdjax.memory import process_memory


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def normalised(p, x):
    x = x - jnp.mean(x, -1, keepdims=True)
    return p["scale"] * x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5) + p["bias"]


def decoder(params, tokens):
    """Logits [b, t, tokens] of the next token at each position; four heads a block."""
    h = params["embedding"][tokens] + params["positions"]
    length, width = h.shape[1:]
    causal = jnp.tril(jnp.ones((length, length), bool))
    for p in params["blocks"]:
        q, k, v = jnp.split(dense(p["qkv"], normalised(p["norm1"], h)).reshape(len(h), length, 4, -1), 3, axis=-1)
        scores = jnp.einsum("bqhc,bkhc->bhqk", q, k) / jnp.sqrt(width / 4)
        weights = jax.nn.softmax(jnp.where(causal, scores, -1e9))
        h = h + dense(p["out"], jnp.einsum("bhqk,bkhc->bqhc", weights, v).reshape(h.shape))
        h = h + dense(p["down"], jax.nn.gelu(dense(p["up"], normalised(p["norm2"], h))))
    return normalised(params["norm"], h) @ params["embedding"].T


def initial(width, layers, tokens, length):
    """Weights of the usual size."""
    random = np.random.default_rng(0)

    def matrix(*shape):
        return random.normal(0, 0.02, shape).astype(np.float32)

    def affine(*shape):
        return {"kernel": matrix(*shape), "bias": np.zeros(shape[1], np.float32)}

    def norm():
        return {"scale": np.ones(width, np.float32), "bias": np.zeros(width, np.float32)}

    blocks = [
        {
            "qkv": affine(width, 3 * width),
            "out": affine(width, width),
            "up": affine(width, 4 * width),
            "down": affine(4 * width, width),
            "norm1": norm(),
            "norm2": norm(),
        }
        for _ in range(layers)
    ]
    return {
        "embedding": matrix(tokens, width),
        "positions": matrix(length, width),
        "blocks": blocks,
        "norm": norm(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("width", 384), ("layers", 4), ("tokens", 8192), ("length", 128), ("examples", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--samples", type=int, default=16, help="of the Hessian")
    parser.add_argument("--out", type=Path, metavar="FILE")
    options = parser.parse_args()
    params = initial(options.width, options.layers, options.tokens, options.length)
    words = np.random.default_rng(1).integers(0, options.tokens, (options.examples, options.length + 1))
    jnp.zeros(1).block_until_ready()
    start = process_memory().most // 2**20
    settings = [f"hessian.num_samples={options.samples}", "hessian.batch_size=4", "hessian.max_steps=16"]
    settings += ["hessian.min_steps=8", "hessian.max_probes=8", "hessian.tolerance=0.01", "hessian.trace_tolerance=0.2"]
    table = mdjax.measure(
        decoder,
        params,
        (words[:, :-1], words[:, 1:]),
        task="next-token",
        metrics="losses,hessian",
        settings=settings,
        show_progress=False,
    )
    row = table.models.iloc[0]
    result = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "logits_gib": round(options.examples * options.length * options.tokens * 4 / 2**30, 2),
        "status": row["status"],
        "train_loss": row["train_loss"],
        "chance_loss": row["chance_loss"],
        "losses_seconds": round(row["losses_seconds"], 1),
        "hessian_seconds": round(row["hessian_seconds"], 1),
        "hessian_eigenvalue": row["hessian_eigenvalue"],
        "hessian_trace": row["hessian_trace"],
        "hessian_trace_se": row["hessian_trace_se"],
        "hessian_products": int(row["hessian_products"]),
        "start_mib": start,
        "peak_mib": process_memory().most // 2**20,
        "settings": {name: str(value) for name, value in vars(options).items()},
        **environment(),
    }
    if options.out:
        write_file(options.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
