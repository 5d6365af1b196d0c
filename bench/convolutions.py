"""Which form of convolution runs Hessian products of many models fastest on this accelerator?

    python bench/convolutions.py [--widths 2,4,...] [--models 1,2,...] [--batch 128] [--limit 20] [--smoke] [--out FILE]

Products of ResNet-18s at 32 × 32 from one linearisation each, over `--models` stacked models:

vmap lax      batched by vmap, XLA's convolution: models become the groups of one grouped convolution
vmap patches  batched by vmap, patches times a matrix: models become the batch of one matrix product
map lax       one model after another inside the program (`lax.map`), XLA's convolution
map patches   the same with patches

Rows: width, models, form, products_per_second (over all models), share_of_peak (6 forward passes' operations a
product, over the measured float32 matmul rate), compile_seconds, bytes; or a `status` where it failed or was left out
after `--limit` seconds. `best` names the fastest form for each width and number of models. With a CUDA build of torch
and PyHessian, `pyhessian` holds its products per second, model after model on the same device, and `speedup` ours over
it. `--smoke` runs a small convolutional network, to be tested without an accelerator. The last line is JSON.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from environment import environment, matmul_peak
from jax.flatten_util import ravel_pytree

from mdjax.landscape.curvature import curvature_operator
from mdjax.landscape.limits import ProductLimits
from mdjax.models import Architecture
from mdjax.tasks import cross_entropy

FORMS = {
    "vmap lax": ("vmap", "lax"),
    "vmap patches": ("vmap", "patches"),
    "map lax": ("map", "lax"),
    "map patches": ("map", "patches"),
}


def program(architecture: Architecture, form: str):
    """(count, params, state, x, y, vectors[m, p]) → the vectors after `count` products of each of m models."""
    batching, convolution = FORMS[form]
    model = architecture.model(convolution)

    def run(count, params, state, x, y, vectors):
        def one(params, state, vector):
            hessian = curvature_operator(
                lambda params, batch: model.apply(params, state, batch[0]),
                lambda logits, batch: jnp.mean(cross_entropy(logits, batch[1])),
                params,
                (x[None], y[None]),
                limits=ProductLimits(residual_bytes=2**36),
            )

            def step(_, vector):
                # Neither growing nor vanishing: no product runs on infinities or denormals.
                return vector + 1e-6 * hessian.matvec(vector)

            return jax.lax.fori_loop(0, count, step, vector)

        if batching == "vmap":
            return jax.vmap(one)(params, state, vectors)
        return jax.lax.map(lambda member: one(*member), (params, state, vectors))

    return run


def measure(architecture: Architecture, form: str, num_models: int, batch: int, flops: float, peak: float) -> dict:
    """One row: the slope between a short and a long loop, so that the linearisation itself does not count."""
    keys = jax.random.split(jax.random.key(0), num_models)
    params, state = jax.jit(jax.vmap(architecture.init))(keys)
    size = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], params))[0].size
    x = jax.random.normal(jax.random.key(1), (batch, *architecture.input_shape))
    y = jnp.arange(batch) % architecture.num_classes
    vectors = jax.random.normal(jax.random.key(2), (num_models, size))
    arguments = params, state, x, y, vectors
    row = {"width": architecture.width, "models": num_models, "form": form}
    try:
        start = time.perf_counter()
        with jax.default_matmul_precision("highest"):
            compiled = jax.jit(program(architecture, form)).lower(1, *arguments).compile()
        row["compile_seconds"] = round(time.perf_counter() - start, 2)
        row["bytes"] = compiled.memory_analysis().temp_size_in_bytes

        def seconds(count: int) -> float:
            start = time.perf_counter()
            jax.block_until_ready(compiled(count, *arguments))
            return time.perf_counter() - start

        seconds(1)
        single = seconds(1)
        count = max(2, min(50, int(1 / single)))
        each = min((seconds(1 + count) - single) / count for _ in range(3))
    except jax.errors.JaxRuntimeError as error:
        return row | {"status": str(error).splitlines()[0][:120]}
    rate = num_models / max(each, 1e-9)
    return row | {"products_per_second": round(rate, 2), "share_of_peak": round(6 * flops * rate / peak, 4)}


def forward_flops(architecture: Architecture, batch: int) -> float:
    """Floating-point operations of one model's forward pass by the compiler's count (matrix products alone weigh)."""
    inputs = jax.ShapeDtypeStruct((batch, *architecture.input_shape), jnp.float32)
    model = architecture.model("patches")

    def outputs(params, state, inputs):
        # As in a product: where nothing is differentiated, wide layers are computed otherwise.
        return jax.vjp(lambda params: model.apply(params, state, inputs), params)[0]

    return float(jax.jit(outputs).lower(*architecture.abstract, inputs).compile().cost_analysis()["flops"])


def pyhessian_rate(width: int, batch: int) -> float | None:
    """PyHessian's products per second for one model on the GPU; None without a CUDA build of torch or PyHessian."""
    try:
        import torch
        from pyhessian import hessian
        from pyhessian.utils import hessian_vector_product
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from torch_resnet import random_resnet

    data = torch.randn(batch, 3, 32, 32), torch.arange(batch) % 10
    peer = hessian(random_resnet(width, 0).cuda(), torch.nn.functional.cross_entropy, data=data, cuda=True)
    vector = [torch.randn_like(param) for param in peer.params]
    times = []
    for _ in range(4):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(10):
            hessian_vector_product(peer.gradsH, peer.params, vector)
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / 10)
    return round(1 / min(times[1:]), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default="2,4,8,16,32,64,128")
    parser.add_argument("--models", default="1,2,4,8,16,32,64,128")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--limit", type=float, default=20.0, help="a form that took longer gets no more models")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.smoke:
        options.widths, options.models, options.batch, options.limit = "1", "1,2", 4, float("inf")
    widths, counts = ([int(part) for part in text.split(",")] for text in (options.widths, options.models))
    peak = matmul_peak(256 if options.smoke else 8192)
    rows, best, peers, speedup = [], {}, {}, {}
    result = {
        "rows": rows,
        "best": best,
        "pyhessian": peers,
        "speedup": speedup,
        "batch": options.batch,
        "matmul_peak_gigaflops": round(peak / 1e9, 1),
        **environment("torch", "PyHessian"),
    }
    for width in widths:
        architecture = Architecture("cnn", width, (8, 8, 1)) if options.smoke else Architecture("resnet18", width)
        flops = forward_flops(architecture, options.batch)
        for form in options.forms.split(","):
            stopped = False
            for count in counts:
                row = {"width": width, "models": count, "form": form, "status": "left out: fewer took too long"}
                if not stopped:
                    start = time.perf_counter()
                    row = measure(architecture, form, count, options.batch, flops, peak)
                    stopped = "status" in row or time.perf_counter() - start > options.limit
                rows.append(row)
                print(json.dumps(row), flush=True)
        for count in counts:
            rates = {
                row["form"]: row.get("products_per_second", 0)
                for row in rows
                if (row["width"], row["models"]) == (width, count)
            }
            if any(rates.values()):
                best.setdefault(width, {})[count] = max(rates, key=lambda form: rates[form])
        peers[width] = None if options.smoke else pyhessian_rate(width, options.batch)
        if peers[width]:
            most = max(row.get("products_per_second", 0) for row in rows if row["width"] == width)
            speedup[width] = round(most / peers[width], 2)
        if options.out:
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
