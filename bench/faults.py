"""What do random kills cost a whole sweep: rows lost, rows twice, rows that differ from an undisturbed run?

    python bench/faults.py [--kills 100] [--cells 100] [--seed 0] [--kinds train,convert,measure,sweep] [--out FILE]

A zoo of tiny networks, two seeds of as many configurations as cells, each of another part of the data, is trained,
its checkpoints are converted, and it is measured by several metrics, each by the command as a user gives it, with two
workers. Meanwhile a process of it is killed (SIGKILL) every few seconds: a worker mostly, now and then the driver,
which is then started again with the same command; of a Ray sweep whatever runs a node, too. At last it runs to its
end, and what it leaves is held to what an undisturbed run left. Last line JSON:

kills       processes killed, by kind and by what they were
units       of work that were to be done in all
lost, duplicates, differing
            rows (models and pairs) of the disturbed runs that are missing, there twice, or other than undisturbed
left_alone  rows that were given up in a run, since too many processes died at them, and came with the next one
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from environment import environment

from mdjax.files import write_file
from mdjax.metrics import select
from mdjax.statuses import StatusCode
from mdjax.sweeps.preparation import prepared
from mdjax.table import read_table
from mdjax.zoo.store import Zoo

_LAYOUT = ("group", "position")
"""Columns that say where a model lies in its zoo: converted ones are written in groups of what was read by then."""

METRICS = "losses,cka,similarity,surface,hessian"
SETTINGS = ("surface.num_points=5", "hessian.max_steps=4", "hessian.max_probes=4", "hessian.trace_tolerance=0.9")
_FILES = 10
"""Of each cell, so many times two checkpoints are converted: two are read in no time."""

PATIENCE = 600
"""Seconds without a kill in which a command must end."""


class Job(NamedTuple):
    """A command, started again until it ends well, and processes of which are killed meanwhile."""

    command: list[str]
    log: Path

    def start(self) -> subprocess.Popen:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *self.command], stdout=log, stderr=log, start_new_session=True
            )


def descendants(process: int) -> list[tuple[int, str]]:
    """The processes below one, with their command lines; those that have ended are left out."""
    parents: dict[int, list[int]] = {}
    commands = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] not in "ZX":
                    parents.setdefault(int(fields[1]), []).append(int(entry.name))
                    commands[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
    found, below = [], parents.get(process, [])
    while below:
        found += below
        below = [child for parent in below for child in parents.get(parent, [])]
    return [(child, commands[child]) for child in found]


def what_it_is(command: str) -> str:
    kinds = {"raylet": "node", "ray::": "worker", "gcs_server": "", "sweeps.worker": "worker", "zoo.trainer": "worker"}
    kinds["converters.reader"] = "worker"
    return next((kind for word, kind in kinds.items() if word in command), "")


def disturbed(job: Job, kills: int, chance: random.Random, progress: Path | None = None) -> Counter:
    """Run a command with so many kills; what was killed.

    progress: a folder whose files change as work is done, which has to go on between two kills (default: time alone).
    """
    done: Counter = Counter()
    seen: set[str] = set()
    starts, process = 1, job.start()
    calm_since = time.monotonic()
    while True:
        time.sleep(0.05)
        if process.poll() is not None:
            if process.returncode == 0:
                return done
            starts += 1  # a command whose node is gone ends with a sentence, and is given again
            if starts > 10 + 2 * sum(done.values()):
                raise RuntimeError(f"{job.command} ended by {process.returncode}: {job.log.read_text()[-600:]}")
            process = job.start()
            continue
        if sum(done.values()) < kills and time.monotonic() - calm_since > chance.uniform(0.5, 4):
            found = {entry.name for entry in progress.iterdir()} if progress and progress.is_dir() else set()
            if progress and found == seen:
                continue
            targets = [(pid, what_it_is(command)) for pid, command in descendants(process.pid)]
            targets = [(pid, kind) for pid, kind in targets if kind]
            if not targets:
                continue  # it has not come that far
            if chance.random() < 0.2:
                targets = [(process.pid, "driver")]
            pid, kind = chance.choice(targets)
            calm_since, seen = time.monotonic(), found
            try:
                os.kill(pid, signal.SIGKILL)
                done[kind] += 1
            except ProcessLookupError:
                continue
        if time.monotonic() - calm_since > PATIENCE:
            raise RuntimeError(f"{job.command} does not end: {job.log.read_text()[-600:]}")


def compared(frame: pd.DataFrame, other: pd.DataFrame, keys: list[str]) -> Counter:
    """Rows that are lost, twice and different, of a frame held to another."""
    names = [tuple(row) for row in frame[keys].to_numpy().tolist()]
    wanted = [tuple(row) for row in other[keys].to_numpy().tolist()]
    found = Counter(lost=len(set(wanted) - set(names)), duplicates=len(names) - len(set(names)))
    both = other[keys].merge(frame.drop_duplicates(keys), on=keys, how="inner")
    own = both[keys].merge(other, on=keys, how="left")
    differs = np.zeros(len(own), bool)
    for column in own:
        if column.endswith("_seconds") or column in (*keys, *_LAYOUT):
            continue
        if own[column].dtype.kind in "fiub":
            first, second = (table[column].to_numpy(float) for table in (both, own))
            differs |= ~np.isclose(first, second, rtol=1e-5, atol=1e-6, equal_nan=True)
        elif not isinstance(own[column].iloc[0], list | np.ndarray):
            differs |= both[column].astype(str).to_numpy() != own[column].astype(str).to_numpy()
    found["differing"] = int(differs.sum()) + len(set(names) - set(wanted))
    return found


def tables(first: Path, second: Path) -> Counter:
    one, other = read_table(first), read_table(second)
    return compared(one.models, other.models, ["model_id"]) + compared(
        one.pairs, other.pairs, ["configuration", "model_a", "model_b"]
    )


def zoos(first: Path, second: Path) -> Counter:
    return compared(Zoo(first).manifest, Zoo(second).manifest, ["model_id"])


def grid(folder: Path, cells: int) -> Path:
    shares = ", ".join(f"{0.2 + 0.8 * k / cells:.4f}" for k in range(cells))
    path = folder / "grid.toml"
    path.write_text(
        f'data = "digits"\narchitecture = "mlp"\nwidth = 2\nbatch_size = 128\ndata_share = [{shares}]\n'
        "epochs = 20\nseeds = 2\n"
    )
    return path


def checkpoints(folder: Path, cells: int) -> Path:
    for number in range(cells):
        for seed in range(2):
            torch.manual_seed(10 * number + seed)
            layers = torch.nn.Sequential(torch.nn.Linear(64, 3), torch.nn.ReLU(), torch.nn.Linear(3, 10))
            path = folder / f"c{number}" / f"seed{seed}.pt"
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(layers.state_dict(), path)
    return folder


def num_units(zoo: Path) -> int:
    metrics = select("default", METRICS, SETTINGS)
    work = prepared(zoo, None, metrics, None, {}, 0)
    return sum(len(work.units(metric)) for metric in metrics)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--cells", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default="train,convert,measure,sweep")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    kinds, chance = options.kinds.split(","), random.Random(options.seed)
    totals: Counter = Counter()
    kills: dict[str, Counter] = {}
    seconds: dict[str, list[float]] = {}
    left_alone = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = checkpoints(folder / "src", _FILES * options.cells)
        toml = grid(folder, options.cells)
        calm = folder / "calm"
        measuring = ["--metrics", METRICS, *(part for text in SETTINGS for part in ("--set", text))]
        commands = {
            "train": lambda place: ["mdjax", "train", str(toml), "--out", str(place / "train"), "--workers", "2"],
            "convert": lambda place: [
                *("converters", str(source), "--out", str(place / "convert"), "--workers", "2"),
                *("--fact", "nonlinearity=relu"),
            ],
            "measure": lambda place: [
                *("mdjax", "measure", str(calm / "train"), "--out", str(place / "measure"), "--workers", "2"),
                *measuring,
            ],
            "sweep": lambda place: [
                *("mdjax", "sweep", str(calm / "train"), "--out", str(place / "sweep"), "--address", "local"),
                *measuring,
            ],
        }
        calm.mkdir()
        wild = folder / "wild"
        wild.mkdir()
        for kind in dict.fromkeys(["train", *kinds]):
            start = time.perf_counter()
            disturbed(Job(commands[kind](calm), folder / f"{kind}-calm.log"), 0, chance)
            seconds[kind] = [time.perf_counter() - start]
            if kind not in kinds:
                continue
            start = time.perf_counter()
            job = Job(commands[kind](wild), folder / f"{kind}-wild.log")
            progress = wild / kind / "shards" if kind == "sweep" else None  # a node takes seconds to start
            kills[kind] = disturbed(job, options.kills // len(kinds), chance, progress)
            seconds[kind].append(time.perf_counter() - start)
            if kind in ("train", "convert"):
                totals += zoos(wild / kind, calm / kind)
                totals["units"] += options.cells * (_FILES if kind == "convert" else 1)
            else:
                table = read_table(wild / kind)
                codes = [frame["status_code"] == StatusCode.DIED for frame in (table.models, table.pairs)]
                given_up = sum(int(code.sum()) for code in codes)
                if given_up:
                    left_alone += given_up
                    disturbed(job, 0, chance)
                totals += tables(wild / kind, calm / kind)
                totals["units"] += num_units(calm / "train")
            print(json.dumps({"kind": kind, "kills": kills[kind], "so_far": totals}), flush=True)
        leftovers = [str(path) for path in wild.rglob(".writing-*")]
    result = {
        "kills": sum(sum(found.values()) for found in kills.values()),
        "units": totals["units"],
        **{name: totals[name] for name in ("lost", "duplicates", "differing")},
        "left_alone": left_alone,
        "leftovers": len(leftovers),
        "by_kind": kills,
        "seconds": seconds,
        **environment(),
    }
    if options.out:
        write_file(options.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
