"""How much faster are whole batches of models on one GPU than PyTorch's tools, one model after another on the same GPU?

    python bench/batches_vs_torch.py [--widths 2,8] [--models 32] [--forms batched,lax] [--out FILE]

ResNet-18s on digits at 32 × 32, `--models` of each width, trained for `--epochs`; equal weights and data for all.

hessian     top eigenvalue and trace on 200 samples, to the accuracies of `hessian_vs_peers.py`, whose peers run here on
            the GPU: PyHessian (model after model) and curvlinops, for as many models as `--budget` seconds allow.
curves      the `reference` preset, every second model joined to the next, against the same procedure in PyTorch
            (`connectivity_vs_torch.py`) on `--pairs` pairs; and the default with the fewest steps of a ladder whose
            mean peak is at most PyTorch's. Both by `--scale` of the published 50 epochs.

Every form of convolution (`--forms`) is measured in one call of all models, after a first call; the fastest counts.
PyTorch computes its convolutions as it does by default (on recent GPUs in TF32), mdjax in float32. Rows: width,
metric, models, form, seconds (a model or pair), compile_seconds, bytes and, at the fastest form, the peers' seconds and
speedups; rows that failed have a `status`. The last line is JSON, with `geomean_speedup_…` of each comparison. A CPU
serves to try it: `--device cpu --models 2 --widths 2 --epochs 1`.
"""

import argparse
import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from connectivity_vs_torch import LADDER, POINTS, peaks, torch_curve
from environment import environment, large_digits
from hessian_peers import BATCH, RESIDUAL, TRACE, Reference, Row, curvlinops_peers, pyhessian_peers
from hessian_references import XTraceNeed, exact_trace, probes, xtrace_need
from hessian_vs_peers import trained

from mdjax import engine
from mdjax.engine.plan import default_plan
from mdjax.files import write_file
from mdjax.landscape.curves import CurveSettings
from mdjax.metrics import Hessian, Metric
from mdjax.metrics.connectivity import ModeConnectivity, PublishedModeConnectivity

HESSIAN = Hessian(num_samples=BATCH, batch_size=BATCH, tolerance=RESIDUAL, trace_tolerance=TRACE)


def timed(metric: Metric, row: Row, form: str, members: list | None = None) -> tuple[dict[str, Any], list[dict]]:
    """One call of all models by one form of convolution: what it took, and a dict of columns for each member."""
    num_models = len(jax.tree.leaves(row.params)[0])
    members = [(index,) for index in range(num_models)] if members is None else members
    plan = dataclasses.replace(default_plan(), chunk_size=len(members), convolution=form)
    if plan.platform == "cpu":
        plan = dataclasses.replace(plan, batching="map")  # it compiles long for what CPUs do not use
    programs = engine.Programs(plan)
    model = row.architecture.model(plan.convolution)
    stack = engine.Stack(model, row.params, row.state, [f"m{index}" for index in range(num_models)])
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (row.params, row.state))
    found = {"width": row.architecture.width, "metric": metric.name, "models": len(members), "form": form}
    try:
        begin = time.perf_counter()
        need = programs.need(metric, model, shapes, row.examples(), len(members))
        found |= {"compile_seconds": round(time.perf_counter() - begin, 1), "bytes": need.bytes}
        found["chunk_size"] = need.chunk_size
        for _ in range(2):
            columns = engine.measure(metric, stack, row.examples(), members, programs=programs, timed=True)
    except jax.errors.JaxRuntimeError as error:
        return found | {"status": str(error)[:200]}, []
    seconds = [one[f"{metric.name}_seconds"] for one in columns]
    return found | {"seconds": float(np.mean(seconds)), "not_ok": sum("status" in one for one in columns)}, columns


def fastest(
    metric: Metric, row: Row, forms: list[str], members: list | None = None
) -> tuple[list[dict], dict, list[dict]]:
    """The rows of all forms, the fastest of them, and its columns."""
    rows, best, columns = [], {}, []
    for form in forms:
        found, own = timed(metric, row, form, members)
        rows.append(found)
        print(json.dumps(found), flush=True)
        if own and found["seconds"] < best.get("seconds", math.inf):
            best, columns = found, own
    return rows, best, columns


def referred(row: Row, options: argparse.Namespace) -> tuple[list[Reference], list[np.ndarray], list[XTraceNeed]]:
    """What the peers are compared with on their models, as in `hessian_vs_peers.py`; from the cache where it is there.

    They do not depend on the device, and take longer to compile for a GPU than all the rest.
    """
    path = options.cache / f"references-w{row.architecture.width}-e{options.epochs}-{options.peers}.json"
    if path.exists():
        stored = json.loads(path.read_text())
        needs = [XTraceNeed(*need) for need in stored["needs"]]
        return [Reference(*one) for one in stored["references"]], [np.array(p) for p in stored["probes"]], needs
    few = dataclasses.replace(row, params=first(row.params, options.peers), state=first(row.state, options.peers))
    longer = dataclasses.replace(HESSIAN, tolerance=1e-4, min_steps=24, min_probes=16)
    references, forms, needs = [], [], []
    for index, one in enumerate(timed(longer, few, default_plan().convolution)[1]):
        trace = exact_trace(row, index, len(row.x))
        references.append(Reference(one["hessian_eigenvalue"], trace, one["hessian_frobenius"]))
        forms.append(probes(row, index, options.probes))
        needs.append(xtrace_need(row, index, trace, references[-1].scale))
    stored = {"references": references, "probes": [list(map(float, one)) for one in forms], "needs": needs}
    write_file(path, json.dumps(stored) + "\n")
    return references, forms, needs


def hessians(row: Row, options: argparse.Namespace) -> list[dict]:
    """The rows of the Hessian's comparison; the fastest one has the peers' columns."""
    rows, best, columns = fastest(HESSIAN, row, options.forms)
    row.references, forms, needs = referred(row, options)
    pairs = list(zip(columns, row.references))
    best["error"] = max(abs(one["hessian_trace"] - it.trace) / it.scale for one, it in pairs)
    best["eigenvalue_error"] = max(abs(one["hessian_eigenvalue"] / it.eigenvalue - 1) for one, it in pairs)
    best["products"] = float(np.median([one["hessian_products"] for one in columns]))
    for name, peers in (("pyhessian", pyhessian_peers(row, forms)), ("curvlinops", curvlinops_peers(row, needs))):
        seconds = [peer.products * peer.seconds_per_product for peer in peers]
        best |= {
            f"{name}_seconds": float(np.median(seconds)),
            f"{name}_products": float(np.median([peer.products for peer in peers])),
            f"{name}_models": len(peers),
            f"{name}_reached": sum(peer.reached for peer in peers),
            f"{name}_speedup": round(float(np.median(seconds)) / best["seconds"], 1),
        }
    print(json.dumps(best), flush=True)
    return rows


def curve_rows(row: Row, options: argparse.Namespace) -> list[dict]:
    """The rows of the curves' comparison, the same procedure and the default to the same peak."""
    num_models = len(jax.tree.leaves(row.params)[0])
    members = [(index, index + 1) for index in range(0, num_models - 1, 2)]
    factor = max(1, round(5 * options.scale))
    x = torch.tensor(np.ascontiguousarray(row.x.transpose(0, 3, 1, 2)), device=row.device)
    y = torch.tensor(row.y, device=row.device).long()
    torch_curve(row.torch_model(0), row.torch_model(1), x[:256], y[:256], num_epochs=1, seed=0)
    seconds, theirs = [], []
    for pair in range(min(options.pairs, len(members))):
        ends = [row.torch_model(index) for index in members[pair]]
        begin = time.perf_counter()
        theirs.append(torch_curve(*ends, x, y, num_epochs=10 * factor, seed=pair))
        seconds.append(time.perf_counter() - begin)
    peak = float(np.mean(peaks(theirs)))

    def compared(found: dict, own: list[dict]) -> None:
        found["peer_seconds"], found["peer_peak"] = float(np.median(seconds)), peak
        found["peak"] = float(np.mean(peaks([one["curve_error"] for one in own])))
        found[f"{found['preset']}_speedup"] = round(found["peer_seconds"] / found["seconds"], 1)
        print(json.dumps(found), flush=True)

    published = PublishedModeConnectivity(CurveSettings.published(epoch_factor=factor))
    rows, best, columns = fastest(published, row, options.forms, members)
    best["preset"] = "reference"
    compared(best, columns)
    if not options.ladder:
        return rows
    for num_steps in options.ladder:
        metric = ModeConnectivity(CurveSettings(num_steps=num_steps), num_points=len(POINTS))
        found, columns = timed(metric, row, best["form"], members)
        if columns and float(np.mean(peaks([one["curve_error"] for one in columns]))) <= peak:
            break
    found |= {"preset": "default_same_peak", "steps": num_steps}
    compared(found, columns)
    found["reached"] = found["peak"] <= peak
    return [*rows, found]


def first(stacked: Any, count: int) -> Any:
    """The first models of a stack."""
    return jax.tree.map(lambda leaf: leaf[:count], stacked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default="2,8")
    parser.add_argument("--models", type=int, default=32)
    parser.add_argument("--forms", default="batched,lax", help="forms of convolution")
    parser.add_argument("--metrics", default="hessian,curves")
    parser.add_argument("--epochs", type=int, default=3, help="of training the networks")
    parser.add_argument("--probes", type=int, default=100, help="from which the variance of a probe is estimated")
    parser.add_argument("--peers", type=int, default=3, help="models that the Hessian's peers measure at most")
    parser.add_argument("--pairs", type=int, default=2, help="curves that PyTorch fits")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the published 50 epochs, in fifths")
    parser.add_argument(
        "--ladder", default=",".join(map(str, LADDER)), help="steps of the default that are tried, or none"
    )
    parser.add_argument("--budget", type=float, default=20.0, help="seconds for each of the Hessian's peers in a row")
    parser.add_argument("--device", default="cuda", help="PyTorch's")
    parser.add_argument("--cache", type=Path, default=Path("runs/bench"))
    parser.add_argument("--out", type=Path, metavar="FILE")
    options = parser.parse_args()
    options.forms = options.forms.split(",")
    options.ladder = [int(number) for number in options.ladder.split(",") if options.ladder != "none"]
    dataset = large_digits(1400)
    x_train, x_test = (np.repeat(x, 3, axis=-1) for x in (dataset.x_train, dataset.x_test))
    dataset = dataclasses.replace(dataset, x_train=x_train, x_test=x_test)
    rows: list[dict] = []
    result = {"settings": {name: str(value) for name, value in vars(options).items()}, "rows": rows}
    result |= environment("torch", "PyHessian", "curvlinops-for-pytorch")
    for width in map(int, options.widths.split(",")):
        model = trained(width, options.models, options.epochs, dataset, options.cache)
        given = *(jax.tree.map(jnp.asarray, part) for part in model[1:3]), dataset.x_train, dataset.y_train
        row = Row(model[0], *given, options.budget, device=options.device)
        if "hessian" in options.metrics:
            rows += hessians(dataclasses.replace(row, x=row.x[:BATCH], y=row.y[:BATCH], references=[]), options)
        if "curves" in options.metrics:
            rows += curve_rows(row, options)
        comparisons = {"pyhessian": "pyhessian_speedup", "curvlinops": "curvlinops_speedup"}
        comparisons |= {preset: f"{preset}_speedup" for preset in ("reference", "default_same_peak")}
        for name, column in comparisons.items():
            speedups = [one[column] for one in rows if column in one]
            if speedups:
                result[f"geomean_speedup_{name}"] = round(float(np.exp(np.mean(np.log(speedups)))), 1)
        if options.out:
            write_file(options.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
