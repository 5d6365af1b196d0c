"""How many units a minute do two workers finish, against one on one core, and one that has the whole machine?

    python bench/workers.py [--cells 60] [--width 16] [--metrics hessian] [--rounds 2] [--out FILE]

A zoo of small networks, a unit for each cell; `mdjax measure --workers N` into a new table each time, in turns. The
rate is that of the units between the first tenth and the last: neither the start of processes nor the last unit counts.
Last line JSON:

units_a_minute   by setting, of each round: "1 on one core", "1", "2"
two_over_one     two workers, each on a core of its own, over one worker on one core, and over one on all cores
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from environment import environment

import mdjax
from mdjax.files import write_file
from mdjax.zoo.grids import Grid


def rate(zoo: Path, table: Path, metrics: str, workers: int, cores: set[int]) -> float:
    """Units a minute."""
    command = [sys.executable, "-m", "mdjax", "measure", str(zoo), "--out", str(table), "--metrics", metrics]
    command += ["--workers", str(workers), "--set", "hessian.num_samples=256"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=lambda: os.sched_setaffinity(0, cores)
    )
    times: list[float] = []
    while process.poll() is None:
        count = len(list((table / "shards").glob("*.parquet")))
        times += [time.monotonic()] * (count - len(times))
        time.sleep(0.01)
    if process.returncode:
        raise RuntimeError(f"{command} ended by {process.returncode}")
    first, last = len(times) // 10, len(times) - len(times) // 10 - 1
    return 60 * (last - first) / (times[last] - times[first])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=60)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--metrics", default="hessian")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cores = os.sched_getaffinity(0)
    settings = {"1 on one core": (1, {min(cores)}), "1": (1, cores), "2": (2, cores)}
    rates: dict[str, list[float]] = {name: [] for name in settings}
    with tempfile.TemporaryDirectory() as folder:
        shares = tuple(0.5 + 0.5 * k / options.cells for k in range(options.cells))
        grid = Grid(width=(options.width,), batch_size=(64,), data_share=shares, epochs=2, seeds=2)
        zoo = mdjax.train(grid, Path(folder) / "zoo", show_progress=False)
        for turn in range(options.rounds):
            for name, (workers, own) in settings.items():
                table = Path(folder) / f"table-{turn}-{name}"
                rates[name].append(rate(Path(str(zoo.path)), table, options.metrics, workers, set(own)))
                print(json.dumps({name: rates[name][-1]}), flush=True)
    middle = {name: statistics.median(found) for name, found in rates.items()}
    result = {
        "units_a_minute": rates,
        "two_over_one": {name: middle["2"] / middle[name] for name in ("1 on one core", "1")},
        **environment(),
    }
    if options.out:
        write_file(options.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
