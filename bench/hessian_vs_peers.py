"""How much faster are the top eigenvalue and the trace of the Hessian than with PyHessian and curvlinops?

    python bench/hessian_vs_peers.py [--models 5] [--widths 2,4,8] [--epochs 3,20] [--large 2x20x2000] [--out FILE]

ResNet-18s on digits at 32 × 32, equal weights and data for all: barely trained ones and ones with less than 5 %
training error, 200 samples each, and one row of more samples (`--large` WIDTHxEPOCHSxSAMPLES). Figures of a row are
medians over its models. Asked for, of all alike: the top eigenvalue within 1e-3, and the trace with a standard error of
2 % of it, or of the Frobenius norm where that is greater, since a trace that nearly cancels has no relative accuracy.
Training and compiling are timed apart. `--budget` is how many seconds each peer may take in a row before it stops at
the model it is at: `peer_models` says how many were measured.

References: `hessian_references.py`. PyHessian: its power iteration runs until it is within 1e-3 of the reference, its
trace takes variance per probe / (2 % of the scale)² probes, replayed on forms computed by mdjax for probes of the same
distribution; its time is seconds per product, measured in the power iteration, × products; `peer_error` is what its own
stopping rules leave. curvlinops: SciPy's eigsh and XTrace at the fewest products whose root mean square error is 2 %;
its time is seconds per product of eigsh × products. Where power iteration or XTrace did not get there within 100
iterations or 96 products, `peer_reached` is short of `peer_models`, and the speedup is a lower bound.

Writes rows with width, epochs, samples, training_error, peer, speedup, our_error, peer_error, our_products,
peer_products, our_seconds, peer_seconds, hvp_per_gradient, hvp_per_gradient_block, form_per_gradient; and
geomean_speedup of each peer.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from environment import environment, large_digits
from hessian_peers import (
    BATCH,
    RESIDUAL,
    TRACE,
    Peer,
    Reference,
    Row,
    curvlinops_peers,
    pyhessian_peers,
)
from hessian_references import exact_trace, probes, single, split, torch_trace, xtrace_need
from jax.flatten_util import ravel_pytree

from mdjax import engine
from mdjax.engine.plan import default_plan
from mdjax.engine.stacks import take
from mdjax.landscape.curvature import curvature_operator
from mdjax.landscape.limits import ProductLimits
from mdjax.landscape.quadratic_forms import quadratic_forms
from mdjax.metrics import Hessian
from mdjax.models import Architecture
from mdjax.zoo.grids import Setting
from mdjax.zoo.training import train_stack

CHECKED = 20
"""Examples whose exact trace PyTorch computes, too."""


def trained(width: int, count: int, epochs: int, dataset, cache: Path) -> tuple[Architecture, dict, dict, float]:
    """Stacked models, from the cache where they are there, and the seconds that training took."""
    fields = {"depth": 0, "batch_size": 64, "data_share": 0.65, "label_noise": 0.0, "learning_rate": 0.05}
    fields |= {"family": "resnet18", "width": width, "momentum": 0.9, "weight_decay": 5e-4, "epochs": epochs}
    architecture = Architecture("resnet18", width, dataset.input_shape)
    params, state = architecture.abstract
    leaves, structure = jax.tree.flatten((params, state))
    path = cache / f"resnet18-w{width}-e{epochs}-{count}-{len(dataset.x_train)}.npz"
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


def ours(row: Row, metric: Hessian, seed: int) -> tuple[list[dict], float]:
    """A row of columns for each model, one call a model; and the seconds of compiling."""
    programs = engine.Programs(dataclasses.replace(default_plan(), chunk_size=1))
    model = row.architecture.model(programs.plan.convolution)
    compiling: list[float] = []

    def listener(event: str, duration: float, **_) -> None:
        if event.endswith("backend_compile_duration"):
            compiling.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listener)
    found = []
    for i in range(len(jax.tree.leaves(row.params)[0])):
        stack = engine.Stack(model, *take((row.params, row.state), [i]), [f"m{i}"])
        found += engine.measure(metric, stack, row.examples(), seed=seed, programs=programs, timed=True)
    return found, sum(compiling)


def training_error(row: Row) -> float:
    """The greatest share of the row's examples that one of its models gets wrong, in percent."""
    model = row.architecture.model(default_plan().convolution)
    wrong = []
    for i in range(len(jax.tree.leaves(row.params)[0])):
        params, state = jax.tree.map(lambda leaf: leaf[i], (row.params, row.state))
        logits = jnp.concatenate([model.apply(params, state, x) for x in np.split(row.x, len(row.x) // BATCH)])
        wrong.append(100 * float(jnp.mean(jnp.argmax(logits, -1) != row.y)))
    return round(max(wrong), 2)


def relative_costs(row: Row, block: int = 8) -> dict[str, float]:
    """Seconds of a gradient, and of a product alone, in a block and as a quadratic form in units of it.

    Each is the slope between a short and a long loop inside one program, so that what is done once does not count;
    over one batch.
    """
    params, state, x, y = single(dataclasses.replace(row, x=row.x[:BATCH], y=row.y[:BATCH]), 0)
    outputs, loss = split(row.architecture, state, x.shape[1])
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


def median(values) -> float:
    return round(float(np.median(list(values))), 5)


def measured(row: Row, costs: dict[str, float], epochs: int, options: argparse.Namespace) -> list[dict]:
    """The rows of one width, training and number of samples, one for each peer."""
    metric = Hessian(num_samples=len(row.x), batch_size=BATCH, tolerance=RESIDUAL, trace_tolerance=TRACE)
    columns, compile_seconds = ours(row, metric, seed=0)
    # The same run with other random numbers, carried on for long.
    longer, _ = ours(row, dataclasses.replace(metric, tolerance=1e-4, min_steps=24, min_probes=16), seed=1)
    # As many models as the peers are given time for, and no fewer than one.
    forms, needs, deviations, begin = [], [], [], time.perf_counter()
    for i, one in enumerate(longer):
        trace = exact_trace(row, i, len(row.x))
        reference = Reference(one["hessian_eigenvalue"], trace, one["hessian_frobenius"])
        row.references.append(reference)
        forms.append(probes(row, i, options.probes))
        deviations.append((forms[-1].mean() - trace) / (forms[-1].std(ddof=1) / len(forms[-1]) ** 0.5))
        needs.append(xtrace_need(row, i, trace, reference.scale))
        if time.perf_counter() - begin > options.models * options.budget / 2:
            break
    pairs = list(zip(columns, row.references))
    by_torch = torch_trace(row.torch_model(0), row.torch_batches()[0][0][:CHECKED])
    common = {
        "width": row.architecture.width,
        "epochs": epochs,
        "samples": len(row.x),
        "training_error": training_error(row),
        "our_error": round(max(abs(one["hessian_trace"] - it.trace) / it.scale for one, it in pairs), 6),
        "our_eigenvalue_error": max(abs(one["hessian_eigenvalue"] / it.eigenvalue - 1) for one, it in pairs),
        "our_products": median(one["hessian_products"] for one in columns),
        "our_seconds": median(one["hessian_seconds"] for one in columns),
        "our_compile_seconds": round(compile_seconds, 2),
        "our_models": len(columns),
        "reached": sum("status" not in one for one in columns),
        "references": [it._asdict() | {"scale": it.scale} for it in row.references],
        "reference_against_torch": abs(by_torch / exact_trace(row, 0, CHECKED) - 1),
        "probe_deviation": [round(float(deviation), 2) for deviation in deviations],
        **costs,
    }
    rows = []
    for name, peers in (("pyhessian", pyhessian_peers(row, forms)), ("curvlinops", curvlinops_peers(row, needs))):
        rows.append(common | _peer_columns(name, peers, columns))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def _peer_columns(name: str, peers: list[Peer], columns: list[dict]) -> dict:
    """Medians over the models; the speedup is the median of each model's own."""
    seconds = [peer.products * peer.seconds_per_product for peer in peers]
    return {
        "peer": name,
        "peer_error": median(peer.trace_error for peer in peers),
        "peer_eigenvalue_error": median(peer.eigenvalue_error for peer in peers),
        "peer_products": median(peer.products for peer in peers),
        "peer_seconds_per_product": median(peer.seconds_per_product for peer in peers),
        "peer_seconds": median(seconds),
        "peer_seconds_are": "measured seconds per product x number of products",
        "peer_models": len(peers),
        "peer_reached": sum(peer.reached for peer in peers),
        "speedup": round(float(np.median([s / one["hessian_seconds"] for s, one in zip(seconds, columns)])), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=5)
    parser.add_argument("--widths", default="2,4,8")
    parser.add_argument("--epochs", default="3,20", help="of the barely trained networks and of the others")
    parser.add_argument("--samples", type=int, default=BATCH)
    parser.add_argument("--large", default="2x20x2000", help="the last row: width x epochs x samples, or none")
    parser.add_argument("--probes", type=int, default=100, help="from which the variance of a probe is estimated")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds for each peer's models in a row")
    parser.add_argument("--cache", type=Path, default=Path("runs/bench"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    widths, epochs = ([int(part) for part in text.split(",")] for text in (options.widths, options.epochs))
    cells = [(width, number, options.samples) for width in widths for number in epochs]
    if options.large != "none":
        cells.append(tuple(int(part) for part in options.large.split("x")))
    dataset = large_digits(max(1400, *(samples for _, _, samples in cells)))
    x_train, x_test = (np.repeat(x, 3, axis=-1) for x in (dataset.x_train, dataset.x_test))
    dataset = dataclasses.replace(dataset, x_train=x_train, x_test=x_test)
    start, training, costs, rows = time.perf_counter(), 0.0, {}, []
    for width, number, samples in cells:
        architecture, params, state, seconds = trained(width, options.models, number, dataset, options.cache)
        training += seconds
        x, y = dataset.x_train[:samples], dataset.y_train[:samples]
        row = Row(architecture, params, state, x, y, options.budget)
        if width not in costs:
            costs[width] = relative_costs(row)
        rows += measured(row, costs[width], number, options)

    def geomean(peer: str) -> float:
        return round(float(np.exp(np.mean([np.log(row["speedup"]) for row in rows if row["peer"] == peer]))), 2)

    result = {
        "rows": rows,
        "geomean_speedup": geomean("pyhessian"),
        "geomean_speedup_curvlinops": geomean("curvlinops"),
        "least_speedup_curvlinops": min(row["speedup"] for row in rows if row["peer"] == "curvlinops"),
        "training_seconds": round(training, 1),
        "seconds": round(time.perf_counter() - start, 1),
        "settings": {name: str(value) for name, value in vars(options).items()},
        **environment("torch", "PyHessian", "curvlinops-for-pytorch", "scipy"),
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
