"""How much faster are the top eigenvalue and the trace of the Hessian than with PyHessian and curvlinops?

    python bench/hessian_vs_peers.py [--models 20] [--widths 2,4,8] [--samples 200,2000] [--budget 60] [--out FILE]

ResNet-18s trained for a few epochs on digits at 32 × 32 (copies shifted by pixels beyond the digits there are), equal
weights and data for all. Asked for: the top eigenvalue within 1e-3 of its converged value and the trace with a standard
error of 2 %. Compiling and training are timed apart. `--budget` is how many seconds each part of a row (ours, the
references, each peer) may take before it stops at the model it is at: `*_models` say how many were measured.

How PyHessian is continued until it is as accurate: its power iteration runs until the eigenvalue is within 1e-3 of the
reference; its trace would need variance per probe / (2 % of the trace)² probes. Its time is measured seconds per
product × products, and that product is timed in those runs. `peer_error` is what its own stopping rule left, the worse
of the two; where products take long the rule is replayed on quadratic forms computed by mdjax for probes of the same
distribution ("own_rule": "replayed"). curvlinops: SciPy's eigsh, and the first of 16, 32, 64, 128 products at which
XTrace is within 2 % of the reference, or the last that the budget left time for: `peer_reached` counts the models where
it got there, and where it is short of `peer_models` the speedup is a lower bound (Hutch++ and Hutchinson at that number
are recorded too).

Writes rows with width, samples, peer, speedup, our_error, peer_error, our_products, peer_products, our_seconds,
peer_seconds, hvp_per_gradient, hvp_per_gradient_block, form_per_gradient; and geomean_speedup over PyHessian's rows.
"""

import argparse
import dataclasses
import functools
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from environment import environment, large_digits
from hessian_peers import BATCH, RESIDUAL, TRACE, Row, curvlinops_row, pyhessian_row, worst
from jax.flatten_util import ravel_pytree

from mdjax import engine
from mdjax.engine.plan import default_plan
from mdjax.engine.stacks import take
from mdjax.landscape import losses
from mdjax.landscape.curvature import curvature_operator
from mdjax.landscape.limits import ProductLimits
from mdjax.landscape.quadratic_forms import quadratic_forms
from mdjax.metrics import Hessian
from mdjax.models import Architecture
from mdjax.zoo.grids import Setting
from mdjax.zoo.training import train_stack


def trained(width: int, count: int, epochs: int, dataset, cache: Path) -> tuple[Architecture, dict, dict, float]:
    """Stacked models, from the cache where they are there, and the seconds that training took."""
    fields = {"depth": 0, "batch_size": 64, "data_share": 0.65, "label_noise": 0.0, "learning_rate": 0.05}
    fields |= {"family": "resnet18", "width": width, "momentum": 0.9, "weight_decay": 5e-4, "epochs": epochs}
    architecture = Architecture("resnet18", width, dataset.input_shape)
    params, state = architecture.abstract
    leaves, structure = jax.tree.flatten((params, state))
    path = cache / f"resnet18-w{width}-e{epochs}-{count}.npz"
    seconds = 0.0
    if not path.exists():
        start = time.perf_counter()
        models = train_stack([Setting(**fields, seed=seed) for seed in range(count)], dataset)
        seconds = time.perf_counter() - start
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(path, *jax.tree.leaves(models))
    with np.load(path) as stored:
        arrays = [stored[f"arr_{i}"] for i in range(len(leaves))]
    return architecture, *jax.tree.unflatten(structure, arrays), seconds


def ours(row: Row, metric: Hessian, seed: int, budget: float, limit: int) -> tuple[list[dict], float]:
    """A row of columns for each model, one call a model, until the budget is spent; and the seconds of compiling."""
    programs = engine.Programs(dataclasses.replace(default_plan(), chunk_size=1))
    model = row.architecture.model(programs.plan.convolution)
    compiling: list[float] = []

    def listener(event: str, duration: float, **_) -> None:
        if event.endswith("backend_compile_duration"):
            compiling.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listener)
    found, start = [], time.perf_counter()
    for i in range(limit):
        stack = engine.Stack(model, *take((row.params, row.state), [i]), [f"m{i}"])
        found += engine.measure(metric, stack, row.examples(), seed=seed, programs=programs, timed=True)
        if time.perf_counter() - start - sum(compiling) > budget:
            break
    return found, sum(compiling)


def probes(row: Row, index: int, count: int) -> np.ndarray:
    """Quadratic forms of Rademacher probes: the samples of Hutchinson's estimator."""
    return np.asarray(_forms(row.architecture, *_single(row, index), jax.random.key(index), count))


def _single(row: Row, index: int):
    x, y = (jnp.asarray(a).reshape(-1, min(BATCH, len(a)), *a.shape[1:]) for a in (row.x, row.y))
    return *jax.tree.map(lambda leaf: leaf[index], (row.params, row.state)), x, y


def _split(architecture: Architecture, state, count: int):
    model = architecture.model(default_plan().convolution)
    return (
        lambda params, batch: model.apply(params, state, batch[0]),
        lambda logits, batch: jnp.sum(losses.cross_entropy(logits, batch[1])) / count,
    )


@functools.partial(jax.jit, static_argnums=(0, 6))
def _forms(architecture, params, state, x, y, key, count):
    size = ravel_pytree(params)[0].size
    forms = quadratic_forms(*_split(architecture, state, x.shape[0] * x.shape[1]), params, (x, y))
    return forms(jax.random.rademacher(key, (count, size), jnp.float32))


def relative_costs(row: Row, block: int = 8) -> dict[str, float]:
    """Seconds of a gradient, and of a product alone, in a block and as a quadratic form in units of it.

    Each is the slope between a short and a long loop inside one program, so that what is done once does not count;
    over one batch.
    """
    params, state, x, y = _single(dataclasses.replace(row, x=row.x[:BATCH], y=row.y[:BATCH]), 0)
    outputs, loss = _split(row.architecture, state, x.shape[1])
    flat, unravel = ravel_pytree(params)
    given = {"limits": ProductLimits(residual_bytes=2**33)}

    def gradient(flat, data):
        step = jax.grad(lambda flat: loss(outputs(unravel(flat), (data[0][0], data[1][0])), (data[0][0], data[1][0])))
        return lambda _, flat: flat - 1e-3 * step(flat)

    def product(flat, data):
        matvec = curvature_operator(outputs, loss, unravel(flat), data, **given).matvec
        return lambda _, vector: matvec(vector)

    def products(flat, data):
        matmat = curvature_operator(outputs, loss, unravel(flat), data, **given).matmat
        return lambda _, vectors: matmat(vectors)

    def form(flat, data):
        forms = quadratic_forms(outputs, loss, unravel(flat), data, **given)
        return lambda _, vectors: vectors * (1 + 1e-9 * forms(vectors)[:, None])

    def slope(build, start, each: int) -> float:
        def program(count, flat, data, start):
            return jax.lax.fori_loop(0, count, build(flat, data), start)

        run = jax.jit(program)
        jax.block_until_ready(run(1, flat, (x, y), start))
        short, long = 1, 1 + -(-8 // each)
        differences = []
        for _ in range(3):
            times = []
            for count in (short, long):
                begin = time.perf_counter()
                jax.block_until_ready(run(count, flat, (x, y), start))
                times.append(time.perf_counter() - begin)
            differences.append((times[1] - times[0]) / (long - short) / each)
        return float(np.median(differences))

    many = jax.random.normal(jax.random.key(0), (block, flat.size))
    with jax.default_matmul_precision("highest"):
        seconds = slope(gradient, flat, 1)
        alone, blocked, forms = slope(product, many[0], 1), slope(products, many, block), slope(form, many, block)
    network, (images, labels) = row.torch_model(0), row.torch_batches()[0]
    times = []
    for _ in range(4):
        begin = time.perf_counter()
        torch.autograd.grad(torch.nn.functional.cross_entropy(network(images), labels), list(network.parameters()))
        times.append(time.perf_counter() - begin)
    return {
        "gradient_seconds": round(seconds, 4),
        "torch_gradient_seconds": round(min(times), 4),
        "hvp_per_gradient": round(alone / seconds, 3),
        "hvp_per_gradient_block": round(blocked / seconds, 3),
        "form_per_gradient": round(forms / seconds, 3),
    }


def measured(row: Row, options: argparse.Namespace) -> list[dict]:
    """The rows of one width and number of samples, one for each peer."""
    samples = len(row.x)
    metric = Hessian(num_samples=samples, batch_size=BATCH, tolerance=RESIDUAL, trace_tolerance=TRACE)
    columns, compile_seconds = ours(row, metric, 0, row.budget, options.models)
    pair = [(one["hessian_eigenvalue"], one["hessian_trace"]) for one in columns]
    # The same run with other random numbers, carried on for long.
    own_rule = samples <= BATCH
    limit = min(len(columns), options.references if own_rule else 1)
    exact = dataclasses.replace(metric, tolerance=1e-3, trace_tolerance=TRACE / 4, max_probes=options.most_probes)
    longer, _ = ours(row, exact, 1, row.budget, limit)
    row.references = [(one["hessian_eigenvalue"], one["hessian_trace"]) for one in longer]
    # PyHessian stops after 100 probes at the latest.
    count = options.probes if own_rule else 100
    samples_of_trace = [probes(row, i, count) for i in range(len(row.references))]
    common = {
        "width": row.architecture.width,
        "samples": samples,
        "our_error": worst(pair, row.references),
        "our_products": round(float(np.mean([one["hessian_products"] for one in columns])), 1),
        "our_seconds": round(float(np.mean([one["hessian_seconds"] for one in columns])), 3),
        "our_compile_seconds": round(compile_seconds, 2),
        "our_models": len(columns),
        "references": [
            {"eigenvalue": a, "trace": b, "trace_se": one["hessian_trace_se"]}
            for (a, b), one in zip(row.references, longer)
        ],
        "reached": sum("status" not in one for one in columns),
        **relative_costs(row),
    }
    found = [pyhessian_row(row, samples_of_trace, own_rule), curvlinops_row(row)]
    rows = [common | peer | {"speedup": round(peer["peer_seconds"] / common["our_seconds"], 2)} for peer in found]
    for one in rows:
        print(json.dumps(one), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--widths", default="2,4,8")
    parser.add_argument("--samples", default="200,2000")
    parser.add_argument("--skip", default="", help="rows left out, as in 8x2000")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument(
        "--references",
        type=int,
        default=2,
        help="models compared with references and peers, at most (one where samples exceed a batch)",
    )
    parser.add_argument("--probes", type=int, default=32, help="from which the variance of a probe is estimated")
    parser.add_argument("--most-probes", type=int, default=400, help="that a reference's trace may take")
    parser.add_argument("--budget", type=float, default=40.0, help="seconds for each part of a row")
    parser.add_argument("--cache", type=Path, default=Path("runs/bench"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    widths, samples = ([int(part) for part in text.split(",")] for text in (options.widths, options.samples))
    dataset = large_digits(max(*samples, 1400))
    x_train, x_test = (np.repeat(x, 3, axis=-1) for x in (dataset.x_train, dataset.x_test))
    dataset = dataclasses.replace(dataset, x_train=x_train, x_test=x_test)
    start, training, rows = time.perf_counter(), {}, []
    for width in widths:
        architecture, params, state, training[width] = trained(
            width, options.models, options.epochs, dataset, options.cache
        )
        for count in samples:
            if f"{width}x{count}" in options.skip.split(","):
                continue
            x, y = dataset.x_train[:count], dataset.y_train[:count]
            rows += measured(Row(architecture, params, state, x, y, options.budget), options)
    speedups = [row["speedup"] for row in rows if row["peer"] == "pyhessian"]
    others = [row["speedup"] for row in rows if row["peer"] == "curvlinops"]
    result = {
        "rows": rows,
        "geomean_speedup": round(float(np.exp(np.mean(np.log(speedups)))), 2),
        "geomean_speedup_curvlinops": round(float(np.exp(np.mean(np.log(others)))), 2),
        "training_seconds": {width: round(seconds, 1) for width, seconds in training.items()},
        "seconds": round(time.perf_counter() - start, 1),
        "settings": {name: str(value) for name, value in vars(options).items()},
        **environment("torch", "PyHessian", "curvlinops-for-pytorch", "scipy"),
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
