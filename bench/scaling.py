"""How do seconds per model and memory grow with the number of models and with the data?

    python bench/scaling.py [--models 1,8,64,256] [--examples 256,512,1024] [--family resnet18] [--width 4] [--out FILE]

Zoos of freshly initialised networks on digits at 32 × 32, every metric of the registry at small settings, each zoo
measured by a process of its own. Last line JSON:

rows              models, examples, seconds (of the whole process's measuring, compiling included), compile_seconds and
                  compilations, seconds_per_model (run time of the metrics by the table's own account), peak_mib
products          one Hessian product: gigaflops by count, seconds, and its fraction of the measured matmul peak
per_model_ratio   seconds per model of the largest zoo over those of the second smallest
memory_ratio      peak memory of the same two
per_example_ratio seconds per model and example of the largest data over those of the smallest
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from environment import environment, large_digits, matmul_peak

import mdjax
from mdjax.files import write_file
from mdjax.memory import process_memory
from mdjax.metrics import METRICS, select
from mdjax.models import Architecture
from mdjax.zoo.store import Zoo

SMALL = (
    "hessian.num_samples=32",
    "hessian.batch_size=32",
    "hessian.tolerance=0.03",
    "hessian.min_steps=2",
    "hessian.max_probes=8",
    "hessian.trace_tolerance=0.2",
    "density.num_samples=32",
    "density.batch_size=32",
    "density.num_steps=8",
    "density.num_runs=2",
    "mode_connectivity.settings.num_steps=10",
    "mode_connectivity.num_points=3",
    "linear_connectivity.num_points=3",
    "cka.num_batches=1",
    "similarity.num_samples=128",
    "surface.num_samples=64",
    "surface.num_points=5",
)
SEEDS = 4


def write_zoo(folder: Path, architecture: Architecture, count: int, dataset) -> None:
    """`count` initialised networks, four to a configuration."""
    zoo = Zoo.create(folder, data="digits32", fingerprint=dataset.fingerprint)
    for first in range(0, count, 64):
        numbers = range(first, min(first + 64, count))
        params, state = jax.vmap(architecture.init)(jax.numpy.stack([jax.random.key(number) for number in numbers]))
        facts = {"data_share": 1.0, "label_noise": 0.0}
        rows = [{"model_id": f"m{n}", "configuration": f"c{n // SEEDS}", "seed": n % SEEDS, **facts} for n in numbers]
        zoo.append(f"g{first}", architecture, rows, params, state)


def measure_here(folder: Path, data: Path, names: str) -> dict:
    """Measure a zoo in this process, with its own account of time and memory."""
    compiling: list[float] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **_: compiling.append(duration) if event.endswith("backend_compile_duration") else None
    )
    chosen = names.split(",")
    settings = [text for text in SMALL if text.split(".")[0] in chosen]
    start = time.perf_counter()
    table = mdjax.measure(folder, data=data, metrics=chosen, settings=settings, show_progress=False)
    seconds = time.perf_counter() - start
    timed = [frame.filter(regex="_seconds$").sum().sum() for frame in (table.models, table.pairs)]
    bad = table.models["status"][table.models["status"] != "ok"]
    return {
        "seconds": round(seconds, 2),
        "compile_seconds": round(sum(compiling), 2),
        "compilations": len(compiling),
        "seconds_per_model": round(float(sum(timed)) / len(table.models), 4),
        "peak_mib": process_memory().most // 2**20,
        "not_ok": len(bad),
    }


def product_cost(folder: Path, data: Path, flops: float) -> dict:
    """Seconds of one Hessian product in the middle of a long run, and its fraction of the matmul peak."""
    seconds = {}
    for probes in (8, 40):
        settings = ["hessian.num_samples=128", f"hessian.max_probes={probes}", "hessian.trace_tolerance=1e-9"]
        settings.append("hessian.trace_method=hutchinson")  # the exact trace takes no products
        table = mdjax.measure(folder, data=data, metrics="hessian", settings=settings, show_progress=False)
        seconds[float(table.models["hessian_products"].sum())] = float(table.models["hessian_seconds"].sum())
    (few, short), (many, long) = sorted(seconds.items())
    each = (long - short) / (many - few)
    peak = matmul_peak()
    return {
        "gigaflops": round(flops / 1e9, 3),
        "seconds": round(each, 5),
        "matmul_peak_gigaflops": round(peak / 1e9, 1),
        "share_of_peak": round(flops / each / peak, 3),
    }


def forward_flops(architecture: Architecture, batch: int) -> float:
    """Floating-point operations of one forward pass by the compiler's count."""
    model = architecture.model("lax")
    inputs = jax.ShapeDtypeStruct((batch, *architecture.input_shape), np.float32)
    return float(jax.jit(model.apply).lower(*architecture.abstract, inputs).compile().cost_analysis()["flops"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="1,8,64,256")
    parser.add_argument("--examples", default="256,512,1024")
    parser.add_argument("--family", default="resnet18")
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--metrics", default=",".join(METRICS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure_here(*options.child, options.metrics)))
        return

    select(names=options.metrics)
    models, examples = ([int(part) for part in text.split(",")] for text in (options.models, options.examples))
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        points = [(count, examples[0]) for count in models] + [(8, count) for count in examples[1:]]
        for count, size in points:
            dataset = large_digits(size)
            architecture = Architecture(options.family, options.width, dataset.input_shape)
            data, zoo = folder / f"{size}.npz", folder / f"{count}-{size}"
            arrays = {name: getattr(dataset, name) for name in ("x_train", "y_train", "x_test", "y_test")}
            np.savez(data, **arrays)
            write_zoo(zoo, architecture, count, dataset)
            command = [sys.executable, __file__, "--child", str(zoo), str(data), "--metrics", options.metrics]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append({"models": count, "examples": size, **json.loads(done.stdout.splitlines()[-1])})
            print(rows[-1], flush=True)
        # A product is the linear part of the gradient's own linearisation: two gradients, six forward passes.
        flops = 6 * forward_flops(architecture, 128)
        products = product_cost(folder / f"{models[0]}-{examples[0]}", folder / f"{examples[0]}.npz", flops)
    by_models = {row["models"]: row for row in rows[: len(models)]}
    large, small = by_models[models[-1]], by_models[models[min(1, len(models) - 1)]]
    by_examples = [row for row in rows if row["models"] == 8] or rows[-1:]
    least, most = by_examples[0], by_examples[-1]
    result = {
        "rows": rows,
        "products": products,
        "per_model_ratio": round(large["seconds_per_model"] / small["seconds_per_model"], 3),
        "memory_ratio": round(large["peak_mib"] / small["peak_mib"], 3),
        "per_example_ratio": round(
            most["seconds_per_model"] / most["examples"] / (least["seconds_per_model"] / least["examples"]), 3
        ),
        "architecture": f"{options.family}-w{options.width}",
        "settings": list(SMALL),
        **environment(),
    }
    if options.out:
        write_file(options.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
