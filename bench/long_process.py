"""Does a process that trains and measures one architecture after another stay within its mappings, memory and files?

    python bench/long_process.py [--architectures 1000] [--minutes 15] [--train-every 5] [--limit MAPPINGS] [--out FILE]

Two networks of each of many architectures, no two alike, MLPs and CNNs by turns, measured on random data, every few
architectures also trained and measured by the Hessian; all in one process, one call of `train` and `measure` each. Ends
with the last architecture or after the minutes. A lower `--limit` shows sooner what happens there. Last line JSON:

points        by number of architectures done: maps (mappings of the process), rss_mib, open_files, programs (kept),
              compiled (so far)
limit         mappings above which programs are given back; most_maps is the largest number seen
growth        of mappings, RSS and open files from the first point at the limit to the end
"""

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from environment import environment

import mdjax
from mdjax.engine import program_cache
from mdjax.files import write_file
from mdjax.models import Architecture
from mdjax.zoo.data import Dataset
from mdjax.zoo.grids import Grid

CHEAP = (
    "hessian.num_samples=16",
    "hessian.batch_size=16",
    "hessian.min_steps=2",
    "hessian.max_probes=8",
    "hessian.trace_tolerance=0.5",
)


def architectures() -> Iterator[Architecture]:
    """MLPs and CNNs of ever other widths, inputs and classes."""
    for width in itertools.count(1):
        for side, classes in itertools.product((4, 5, 6, 7, 8), (2, 3, 4)):
            yield Architecture("mlp", width, (side, side, 1), classes)
            yield Architecture("cnn", width, (side, side, 1), classes)


def random_data(architecture: Architecture) -> Dataset:
    random = np.random.RandomState(0)
    x = random.randn(48, *architecture.input_shape).astype(np.float32)
    y = (np.arange(48) % architecture.num_classes).astype(np.int32)
    return Dataset("random", x[:32], y[:32], x[32:], y[32:], architecture.num_classes)


def measured(architecture: Architecture) -> None:
    """Two random networks, their losses."""
    random = np.random.RandomState(0)
    models = [
        jax.tree.map(lambda leaf: random.randn(*leaf.shape).astype(leaf.dtype), architecture.abstract) for _ in range(2)
    ]
    model = architecture.model("patches")
    mdjax.measure(models, model=model, data=random_data(architecture), metrics="losses", show_progress=False)


def trained_and_measured(architecture: Architecture, folder: Path) -> None:
    """Two trained networks, their losses and Hessians, by way of files."""
    data = random_data(architecture)
    fields = {"family": architecture.family, "width": (architecture.width,), "batch_size": (16,), "epochs": 1}
    zoo = mdjax.train(Grid(**fields, seeds=2), folder / "zoo", dataset=data, show_progress=False)
    options = {"metrics": "losses,hessian", "settings": CHEAP, "show_progress": False}
    mdjax.measure(zoo, data=data, out=folder / "table", **options)


def point(done: int) -> dict[str, int]:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "architectures": done,
        "maps": program_cache.room_taken([]).mappings,
        "code_mib": program_cache.room_taken([]).code_bytes // 2**20,
        "rss_mib": pages * os.sysconf("SC_PAGE_SIZE") // 2**20,
        "open_files": len(list(Path("/proc/self/fd").iterdir())),
        "programs": len(program_cache.PROGRAMS),
        "compiled": program_cache.PROGRAMS.num_compiled,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--train-every", type=int, default=5)
    parser.add_argument("--points", type=int, default=25, help="architectures between two points")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--limit", type=int, help="mappings above which programs are given back")
    options = parser.parse_args()
    if options.limit:
        program_cache.PROGRAMS.limits = program_cache.PROGRAMS.limits._replace(mappings=options.limit)
    start, points = time.perf_counter(), [point(0)]
    for number, architecture in enumerate(itertools.islice(architectures(), options.architectures), 1):
        if number % options.train_every:
            measured(architecture)
        else:
            with tempfile.TemporaryDirectory() as folder:
                trained_and_measured(architecture, Path(folder))
        over = time.perf_counter() - start > 60 * options.minutes
        if number % options.points == 0 or over:
            points.append(point(number) | {"seconds": round(time.perf_counter() - start)})
            print(json.dumps(points[-1]), flush=True)
        if over:
            break
    limit = program_cache.PROGRAMS.limits.mappings
    full = next((entry for entry in points if entry["maps"] > 0.9 * limit), points[-1])
    result = {
        "architectures": points[-1]["architectures"],
        "points": points,
        "limit": limit,
        "most_maps": max(entry["maps"] for entry in points),
        "growth": {name: points[-1][name] - full[name] for name in ("maps", "rss_mib", "open_files")},
        **environment(),
    }
    if options.out:
        write_file(options.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
