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
import math
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from curvlinops import HessianLinearOperator, hutchinson_trace, hutchpp_trace, xtrace
from environment import environment, large_digits
from jax.flatten_util import ravel_pytree
from pyhessian import hessian
from pyhessian.utils import group_product, hessian_vector_product, normalization
from scipy.sparse.linalg import LinearOperator, eigsh

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from torch_resnet import TorchResNet18

from mdjax import engine
from mdjax.engine.plan import default_plan
from mdjax.engine.stacks import take
from mdjax.landscape import losses
from mdjax.landscape.curvature import curvature_products, quadratic_forms
from mdjax.metrics import Examples, Hessian
from mdjax.models import Architecture
from mdjax.zoo.grids import Setting
from mdjax.zoo.training import train_stack

EIGENVALUE, TRACE = 1e-3, 0.02
"""The accuracies asked for."""

RESIDUAL = 1e-2
"""Relative residual at which a Lanczos run stops, ours and SciPy's: the eigenvalue's error is about its square over the
relative gap to the next one, so below 1e-3 for gaps from a tenth on."""

BATCH = 200
"""Examples in one pass: what the published measurements used, for the peers and here."""


@dataclasses.dataclass
class Row:
    """One width and number of samples: the models, their data, and the references of the first few."""

    architecture: Architecture
    params: dict
    state: dict
    x: np.ndarray
    y: np.ndarray
    budget: float
    references: list = dataclasses.field(default_factory=list)

    def examples(self) -> Examples:
        x, y = jnp.asarray(self.x), jnp.asarray(self.y)
        return Examples(x, y, jnp.asarray(len(x)), x[:1], y[:1])

    def torch_model(self, index: int) -> TorchResNet18:
        return as_torch(self.architecture, *take((self.params, self.state), [index]))

    def torch_batches(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        x, y = torch.from_numpy(self.x.transpose(0, 3, 1, 2).copy()), torch.from_numpy(self.y.astype(np.int64))
        return list(zip(x.split(BATCH), y.split(BATCH)))


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


def as_torch(architecture: Architecture, params: dict, state: dict) -> TorchResNet18:
    """One model (stacked alone) with the same weights, checked to give the same outputs."""
    names = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    arrays = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path((params, state)):
        *modules, name = [entry.key for entry in path[1:]]
        module = ".".join(modules).replace("_0", ".0").replace("_1", ".1")
        module = module.replace("shortcut_conv", "shortcut.0").replace("shortcut_bn", "shortcut.1")
        value = np.asarray(leaf)[0]
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        arrays[f"{module}.{names[name]}"] = torch.from_numpy(value.copy())
    network = TorchResNet18(architecture.width)
    network.load_state_dict(arrays | {k: v for k, v in network.state_dict().items() if k.endswith("tracked")})
    images = np.random.default_rng(0).normal(size=(4, *architecture.input_shape)).astype(np.float32)
    with torch.no_grad():
        theirs = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    single = jax.tree.map(lambda leaf: leaf[0], (params, state))
    ours = architecture.model().apply(*single, images)
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-3)
    return network


def ours(row: Row, metric: Hessian, seed: int, budget: float, limit: int) -> tuple[list[dict], float]:
    """A row of columns for each model, one call a model, until the budget is spent; and the seconds of compiling."""
    plan = dataclasses.replace(default_plan(), chunk_size=1)
    model = row.architecture.model(plan.convolution)
    compiling: list[float] = []

    def listener(event: str, duration: float, **_) -> None:
        if event.endswith("backend_compile_duration"):
            compiling.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listener)
    found, start = [], time.perf_counter()
    for i in range(limit):
        params, state = take((row.params, row.state), [i])
        found += engine.measure_models(
            metric, model, params, state, row.examples(), [f"m{i}"], seed=seed, plan=plan, timed=True
        )
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
    given = {"max_bytes": 2**33}

    def gradient(flat, data):
        step = jax.grad(lambda flat: loss(outputs(unravel(flat), (data[0][0], data[1][0])), (data[0][0], data[1][0])))
        return lambda _, flat: flat - 1e-3 * step(flat)

    def product(flat, data):
        matvec = curvature_products(outputs, loss, unravel(flat), data, **given).matvec
        return lambda _, vector: matvec(vector)

    def products(flat, data):
        together = curvature_products(outputs, loss, unravel(flat), data, **given).block
        return lambda _, vectors: together(vectors)

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


def worst(found: list[tuple[float, float]], references: list[tuple[float, float]]) -> float | None:
    """The largest relative error of (eigenvalue, trace) over the models that have references."""
    if not found or not references:
        return None
    pairs = list(zip(found, references))
    return round(float(max(abs(a - b) / abs(b) for one, two in pairs for a, b in zip(one, two))), 5)


def stopped(samples: np.ndarray, tolerance: float = 1e-3) -> np.ndarray:
    """The samples PyHessian's trace takes before it stops."""
    mean = 0.0
    for i in range(len(samples)):
        new = samples[: i + 1].mean()
        if abs(new - mean) / (mean + 1e-6) < tolerance:
            return samples[: i + 1]
        mean = new
    return samples


def pyhessian_row(row: Row, samples_of_trace: list[np.ndarray], own_rule: bool) -> dict:
    """PyHessian at its defaults, and continued until it is as accurate as asked."""
    batches = row.torch_batches()
    found, counts, seconds = [], [], []
    start = time.perf_counter()
    for i, (eigenvalue, trace) in enumerate(row.references):
        torch.manual_seed(i)
        data = {"data": batches[0]} if len(batches) == 1 else {"dataloader": batches}
        peer = hessian(row.torch_model(i), torch.nn.functional.cross_entropy, cuda=False, **data)
        vector = normalization([torch.randn(p.size()) for p in peer.params])
        # Its own steps, run past its own stopping rule: the value that the rule would return is noted on the way.
        value, own, iterations, begin = None, None, 0, time.perf_counter()
        while iterations < 100:
            if peer.full_dataset:
                new, product = peer.dataloader_hv_product(vector)
            else:
                product = hessian_vector_product(peer.gradsH, peer.params, vector)
                new = group_product(product, vector).item()
            vector, iterations = normalization(product), iterations + 1
            if own is None and value is not None and abs(value - new) / (abs(value) + 1e-6) < 1e-3:
                own = value
            value = new
            if abs(value - eigenvalue) <= EIGENVALUE * abs(eigenvalue) and own is not None:
                break
            if iterations >= 3 and time.perf_counter() - begin > 2 * row.budget:
                break
        seconds.append((time.perf_counter() - begin) / iterations)
        samples = np.asarray(peer.trace()) if own_rule else stopped(samples_of_trace[i])
        found.append((value if own is None else own, float(samples.mean())))
        counts.append(iterations + math.ceil(np.var(samples_of_trace[i], ddof=1) / (TRACE * trace) ** 2))
        if time.perf_counter() - start > row.budget:
            break
    return {
        "peer": "pyhessian",
        "peer_error": worst(found, row.references),
        "own_rule": "run" if own_rule else "replayed",
        "peer_products": round(float(np.mean(counts)), 1),
        "peer_seconds_per_product": round(float(np.mean(seconds)), 4),
        "peer_seconds": round(float(np.mean(np.multiply(counts, seconds))), 2),
        "peer_seconds_are": "measured seconds per product x number of products",
        "peer_models": len(found),
    }


def curvlinops_row(row: Row) -> dict:
    """SciPy's eigsh and XTrace over curvlinops' Hessian."""
    batches = row.torch_batches()
    found, counts, seconds, others = [], [], [], []
    start = time.perf_counter()
    for i, (_, trace) in enumerate(row.references):
        torch.manual_seed(i)
        network = row.torch_model(i)
        loss = torch.nn.CrossEntropyLoss()
        matrix = HessianLinearOperator(network, loss, list(network.parameters()), batches, check_deterministic=False)
        flat, number = matrix.to_scipy(), 0

        def counted(vector, flat=flat):
            nonlocal number
            number += 1
            return flat @ vector.astype(flat.dtype)

        flat @ np.ones(flat.shape[1], np.float32)  # traces and compiles: not part of a product's time
        begin = time.perf_counter()
        operator = LinearOperator(flat.shape, matvec=counted, dtype=np.float64)
        top = eigsh(operator, k=1, which="LA", tol=RESIDUAL, ncv=8, return_eigenvectors=False)[0]
        each = (time.perf_counter() - begin) / number
        begin = time.perf_counter()
        for products in (16, 32, 64, 128):
            value = float(xtrace(matrix, products))
            if abs(value - trace) <= TRACE * abs(trace) or time.perf_counter() - begin > row.budget:
                break
        estimate = {"products": products, "xtrace": abs(value - trace) / abs(trace)}
        if time.perf_counter() - begin < row.budget / 2:
            for name, method in (("hutch++", hutchpp_trace), ("hutchinson", hutchinson_trace)):
                estimate[name] = abs(float(method(matrix, products - products % 3)) - trace) / abs(trace)
        others.append({name: round(error, 4) for name, error in estimate.items()})
        found.append((top, value))
        counts.append(number + products)
        seconds.append(each)
        if time.perf_counter() - start > row.budget:
            break
    return {
        "peer": "curvlinops",
        "peer_error": worst(found, row.references),
        "peer_products": round(float(np.mean(counts)), 1),
        "peer_seconds_per_product": round(float(np.mean(seconds)), 4),
        "peer_seconds": round(float(np.mean(np.multiply(counts, seconds))), 2),
        "peer_seconds_are": "measured seconds per product of eigsh x number of products",
        "peer_reached": sum(one["xtrace"] <= TRACE for one in others),
        "peer_trace_errors": others,
        "peer_models": len(found),
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
