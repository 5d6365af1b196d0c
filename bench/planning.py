"""What do planning, claims and commits cost, up to how many units, on how many workers?

    python bench/planning.py [--units 100000] [--workers 512] [--simulate] [--store FOLDER] [--out FILE]

A made-up manifest of as many models as units (a unit is one metric on one model here, the smallest there can be), of
the architectures and configurations of a large sweep; the project's own planner, claims and commits against a local
folder; rows of the size that the Hessian leaves; nothing is computed. With --simulate, workers in simulated time take
the units longest first, each with a duration drawn from those measured (lognormal, median 1 s), and look at what others
do as often as the real ones. Last line JSON:

plan_seconds      manifest → named units; plan_bytes what they take of memory
claim_commit_ms   wall time of claiming, committing and giving up a unit, median, and its share of a unit of 1 s
list_seconds      one look at what is done, with all of them committed
resume_seconds    a fresh process's way from the units to knowing that all are done
collect_seconds   reading all rows, each once
simulated         where asked for: makespan against the ideal, units that two workers took, peak memory
"""

import argparse
import heapq
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from environment import environment

from mdjax.files import write_file
from mdjax.memory import process_memory
from mdjax.metrics.hessian import Hessian
from mdjax.models import Architecture
from mdjax.models.architecture import shape_text
from mdjax.stores import LocalStore
from mdjax.sweeps import commits as commits_module
from mdjax.sweeps.claims import Claims
from mdjax.sweeps.commits import KEY, Commits
from mdjax.sweeps.running import Outcome
from mdjax.sweeps.units import Unit, cells, units
from mdjax.sweeps.working import Sharing
from mdjax.zoo.data import Dataset

SEEDS, ARCHITECTURES = 5, 40
MODELS_OF_A_GROUP = 64


def manifest(count: int) -> pd.DataFrame:
    """Rows as a zoo's: seeds of configurations of a few architectures."""
    number = np.arange(count)
    configuration = number // SEEDS
    width = 2 + configuration % ARCHITECTURES
    sizes = {w: Architecture("mlp", w, (8, 8, 1), 10, 2).num_params for w in set(width.tolist())}
    return pd.DataFrame(
        {
            "model_id": [f"m{k}" for k in number],
            "configuration": [f"c{k}" for k in configuration],
            "seed": number % SEEDS,
            "group": [f"w{w}-g{k // MODELS_OF_A_GROUP}" for w, k in zip(width, number, strict=True)],
            "position": number % MODELS_OF_A_GROUP,
            "family": "mlp",
            "width": width,
            "input_shape": shape_text((8, 8, 1)),
            "num_classes": 10,
            "depth": 2,
            "variant": "",
            "num_params": [sizes[w] for w in width.tolist()],
            "weights_hash": [f"{k:024x}" for k in number],
            "status": "ok",
            "status_code": "ok",
        }
    )


def planned(rows: pd.DataFrame, limit: int) -> list[Unit]:
    random = np.random.RandomState(0)
    x, y = random.randn(20, 8, 8, 1).astype(np.float32), np.arange(20, dtype=np.int32) % 10
    dataset = Dataset("made up", x, y, x, y, 10)
    return [unit for cell in cells(rows, dataset) for unit in units(Hessian(), cell, limit, dataset, 0)]


def rows_of(unit: Unit) -> pd.DataFrame:
    """Rows of the size that the Hessian leaves."""
    ids = [unit.cell.models[member[0]][0] for member in unit.members]
    columns = {f"value_{k}": 1.0 / (k + 1) for k in range(20)}
    frame = pd.DataFrame({"model_id": ids, **columns, "status": "ok", "status_code": "ok", KEY: list(unit.keys)})
    return frame.assign(hessian_eigenvalues=[[1.0] * 10] * len(ids))


def simulated(plan: list[Unit], folder: Path, num_workers: int) -> dict:
    """Workers in simulated time over the real claims and commits of a folder.

    All see the table through one view of it, which is renewed as often as theirs would be.
    """
    random = np.random.RandomState(1)
    seconds = dict(zip((unit.name for unit in plan), random.lognormal(0.0, 0.8, len(plan)), strict=True))
    sharing = Sharing(plan, Commits(LocalStore(folder)), Claims(LocalStore(folder)))
    sharing.estimates.seconds = lambda unit: seconds[unit.name]  # type: ignore[method-assign]
    now, busy, taken, looks = 0.0, [(0.0, number, None) for number in range(num_workers)], 0, 0
    heapq.heapify(busy)
    looked, look_seconds, real = 0.0, [], time.perf_counter()
    with sharing.claims.beating():
        sharing.look()
        while busy:
            now, number, unit = heapq.heappop(busy)
            if unit is not None:
                sharing.settle(unit, Outcome(rows_of(unit), {}))
            if now - looked > 30:
                start = time.perf_counter()
                sharing.look()
                look_seconds.append(time.perf_counter() - start)
                looked, looks = now, looks + 1
            if (unit := sharing.take()) is not None:
                taken += 1
                heapq.heappush(busy, (now + seconds[unit.name], number, unit))
    return {
        "units": len(plan),
        "workers": num_workers,
        "taken": taken,
        "makespan_over_ideal": now / (sum(seconds.values()) / num_workers),
        "simulated_seconds": now,
        "real_ms_a_unit": 1000 * (time.perf_counter() - real) / len(plan),
        "look_seconds": {"median": statistics.median(look_seconds or [0]), "most": max(look_seconds, default=0)},
        "peak_mib": process_memory().most // 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=512)
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--timed", type=int, default=500, help="units whose claims and commits are timed")
    parser.add_argument("--store", type=Path, help="where the folder goes (default: the system's temporary files)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    before, start = process_memory().now, time.perf_counter()
    plan = planned(manifest(options.units), 1)
    result: dict = {
        "units": len(plan),
        "plan_seconds": time.perf_counter() - start,
        "plan_bytes": process_memory().now - before,
    }
    with tempfile.TemporaryDirectory(dir=options.store) as name:
        folder = Path(name)
        store = LocalStore(folder / "timed")
        sharing = Sharing(plan[: options.timed], Commits(store), Claims(store))
        times = []
        with sharing.claims.beating():
            sharing.look()
            for unit in plan[: options.timed]:
                rows, start = rows_of(unit), time.perf_counter()
                taken = sharing.take()
                assert taken is not None
                sharing.settle(taken, Outcome(rows.assign(**{KEY: list(taken.keys)}), {}))
                times.append(time.perf_counter() - start)
        result["claim_commit_ms"] = 1000 * statistics.median(times)
        result["part_of_a_unit_of_1_s"] = statistics.median(times)
        table = folder / "table"
        if options.simulate:
            commits_module.PACK_AGE = 0.0
            result["simulated"] = simulated(plan, table, options.workers)
        else:
            commits = Commits(LocalStore(table))
            for unit in plan:
                commits.commit(unit, rows_of(unit))
                commits.pack(age=0)
        start = time.perf_counter()
        names = LocalStore(table).names("shards")
        result["list_seconds"], result["files"] = time.perf_counter() - start, len(names)
        start = time.perf_counter()
        left = Commits(LocalStore(table)).missing(plan)
        result["resume_seconds"], result["left"] = time.perf_counter() - start, len(left)
        start = time.perf_counter()
        result["rows"] = len(Commits(LocalStore(table)).rows(plan, lambda places, rows: True))
        result["collect_seconds"] = time.perf_counter() - start
    result["peak_mib"] = process_memory().most // 2**20
    result |= environment()
    if options.out:
        write_file(options.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
