"""Does the plan of a measurement say how much memory the process will take?

    python bench/memory.py [--cases mlp-w512,cnn-w8,resnet18-w4] [--chunks 1,4] [--out FILE]

A zoo of random networks for each case, measured by a process of its own at each chunk size, after another process has
planned it (`mdjax measure --plan`). Last line JSON:

rows    case, metrics, chunk; planned_mib, the largest `process_memory` of the plan; compiler_mib, the largest `memory`
        of a call by the compiler's account alone; peak_mib, the process's peak; ratio of planned to peak
least, most     of the ratios
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from environment import environment

from mdjax.engine import Plan
from mdjax.files import write_file
from mdjax.memory import process_memory
from mdjax.models import Architecture
from mdjax.sweeps import local, preparation, previews
from mdjax.zoo.store import Zoo

SETTINGS = {
    "losses": (),
    "hessian": (
        "hessian.num_samples=256",
        "hessian.batch_size=256",
        "hessian.min_steps=2",
        "hessian.max_probes=8",
        "hessian.trace_tolerance=10",
        "hessian.tolerance=0.5",
    ),
    "mode_connectivity": ("mode_connectivity.settings.num_steps=4", "mode_connectivity.num_points=3"),
}
MODELS = 4


def write_zoo(folder: Path, architecture: Architecture) -> None:
    """Random networks, as loud as initialised ones."""
    random = np.random.default_rng(0)

    def leaf(shape: jax.ShapeDtypeStruct) -> np.ndarray:
        scale = max(1, int(np.prod(shape.shape[:-1]))) ** -0.5
        return (scale * np.abs(random.standard_normal((MODELS, *shape.shape), np.float32))).astype(shape.dtype)

    facts = {"data_share": 1.0, "label_noise": 0.0}
    rows = [{"model_id": f"m{n}", "configuration": f"c{n // 4}", "seed": n % 4, **facts} for n in range(MODELS)]
    Zoo.create(folder, data="random").append("g", architecture, rows, *jax.tree.map(leaf, architecture.abstract))


def here(command: str, folder: Path, data: Path, metrics: str, chunk: int) -> dict:
    """Plan or measure in this process, models of a call one after another: batched they wait for each other on CPUs."""
    preparation.default_plan = lambda mesh, target=None: Plan("map", chunk, "patches", mesh)
    settings = [text for name in metrics.split(",") for text in SETTINGS[name]]
    if command == "plan":
        plan = previews.preview(folder, data=data, metrics=metrics, settings=settings)
        return {"planned": int(plan["process_memory"].max()), "compiler": int(plan["memory"].max())}
    local.measure(folder, data=data, metrics=metrics, settings=settings, show_progress=False)
    return {"peak": process_memory().most}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="mlp-w512,cnn-w8,resnet18-w4")
    parser.add_argument("--metrics", default="losses,hessian")
    parser.add_argument("--chunks", default="1,4")
    parser.add_argument("--side", type=int, default=28)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        command, folder, data, metrics, chunk = options.child
        print(json.dumps(here(command, Path(folder), Path(data), metrics, int(chunk))))
        return
    rows = []
    for case in options.cases.split(","):
        family, width = case.split("-w")
        architecture = Architecture(family, int(width), (options.side, options.side, 1))
        with tempfile.TemporaryDirectory() as folder:
            zoo, data = Path(folder) / "zoo", Path(folder) / "data.npz"
            random = np.random.default_rng(0)
            images = random.standard_normal((2048, options.side, options.side, 1), np.float32)
            labels = (np.arange(2048) % 10).astype(np.int32)
            np.savez(data, x_train=images, y_train=labels, x_test=images[:512], y_test=labels[:512])
            write_zoo(zoo, architecture)
            for chunk in options.chunks.split(","):
                found = {}
                for command in ("plan", "measure"):
                    arguments = [command, str(zoo), str(data), options.metrics, chunk]
                    run = [sys.executable, __file__, "--child", *arguments]
                    done = subprocess.run(run, capture_output=True, text=True, check=False)
                    if done.returncode:
                        raise SystemExit(done.stderr)
                    found |= json.loads(done.stdout.splitlines()[-1])
                row = {"case": case, "metrics": options.metrics, "chunk": int(chunk)}
                row |= {f"{name}_mib": size // 2**20 for name, size in found.items()}
                rows.append(row | {"ratio": round(found["planned"] / found["peak"], 3)})
                print(json.dumps(rows[-1]), flush=True)
    ratios = [row["ratio"] for row in rows]
    result = {"rows": rows, "least": min(ratios), "most": max(ratios), **environment()}
    if options.out:
        write_file(options.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
