"""What do several writers at a time, and kills at random moments, cost a zoo or a table?

    python bench/kills.py [--rounds 200] [--kills 100] [--seed 0] [--out FILE]

A round is two or three processes at a time on one new zoo (all train one grid, all convert one folder, or each appends
the same groups in its own order), and as many on one new table (all measure one zoo, or each writes tables of its own
while a reader looks). Whoever was told that another is writing goes on afterwards. A kill is a SIGKILL at a random
moment of the work of one process, which has done the same before and so compiles nothing, and after it the same is run
again. What is there in the end is compared with an undisturbed run. Last line JSON:

rounds, kills     how many there were, by action
refused           orders of the rounds that were refused since another process was writing
met               kills that came before the end of the work
lost, doubled     models, rows and finished units that are missing, or there more than once
mixed             models and tables that are another's, or of several writings, also for a moment to a reader
leftovers         unfinished files and folders that the next run left where they were
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from writers import (
    APPENDED,
    REFUSED,
    Trouble,
    appended,
    is_mixed,
    serve,
    trouble_of_table,
    trouble_of_written,
    trouble_of_zoo,
    write_checkpoints,
)

from mdjax.files import write_file
from mdjax.table import read_table
from mdjax.zoo.store import Zoo
from mdjax.zoo.weights import weights_hash

ZOO_ACTIONS, TABLE_ACTIONS = ("append", "convert", "train"), ("write", "write", "measure")
KILLED = ("convert", "train", "measure")
_LIMIT = 600


class Worker:
    """A process that takes orders."""

    def __init__(self, context: Any, source: Path):
        self._orders, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, source), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, action: str, out: Path, number: int = 0) -> None:
        self._orders.send((action, out, number))

    def has_answered(self, seconds: float = 0.0) -> bool:
        """Whether the order is done, or gets done within so many seconds."""
        return self._orders.poll(seconds)

    def was_refused(self) -> bool:
        """Waits for the end of the order: whether it was refused."""
        if not self.has_answered(_LIMIT):
            raise RuntimeError(f"a process has not answered for {_LIMIT} s")
        answer = self._orders.recv()
        if answer not in ("", REFUSED):
            raise RuntimeError(answer)
        return answer == REFUSED

    def do(self, action: str, out: Path, number: int = 0) -> None:
        self.send(action, out, number)
        if self.was_refused():
            raise RuntimeError("a process was refused with no other at work")

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


class Bench:
    """A folder with what undisturbed runs make, and processes that work beside it."""

    def __init__(self, folder: Path):
        self._source, self._scratch = folder / "source", folder / "scratch"
        write_checkpoints(self._source / "checkpoints")
        # Imports take seconds: made once, by the server that all processes are forks of.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["writers"])
        self._workers: list[Worker] = []
        self._undisturbed: dict[str, Any] = {}
        self._seconds: dict[str, float] = {}

    def _team(self, count: int) -> list[Worker]:
        while len(self._workers) < count:
            self._workers.append(Worker(self._context, self._source))
        return self._workers[:count]

    def _prepare(self, action: str) -> None:
        """Have at hand what an undisturbed run leaves, and what runs of this action need."""
        if action in ("write", *self._undisturbed):
            return
        if action == "append":
            made = [(rows, weights_hash(*tree)) for rows, *tree in map(appended, range(APPENDED))]
            self._undisturbed[action] = {
                row["model_id"]: digest for rows, digests in made for row, digest in zip(rows, digests)
            }
            return
        if action == "measure":
            self._prepare("train")  # which leaves the zoo
        (worker,), out = self._team(1), self._source / action
        for _ in range(2):  # the second compiles nothing
            shutil.rmtree(out, ignore_errors=True)
            start = time.monotonic()
            worker.do(action, out)
            self._seconds[action] = time.monotonic() - start
        if action == "measure":
            self._undisturbed[action] = read_table(out)
        else:
            manifest = Zoo(out).manifest
            self._undisturbed[action] = dict(zip(manifest["model_id"], manifest["weights_hash"]))

    def _trouble(self, action: str, out: Path) -> Trouble:
        if action == "write":
            return trouble_of_written(out)
        check = trouble_of_table if action == "measure" else trouble_of_zoo
        return check(out, self._undisturbed[action])

    def round(self, action: str, out: Path, count: int) -> tuple[Trouble, int]:
        """Several processes at a time, then those again that were refused: what is wrong, and how many were."""
        self._prepare(action)
        workers, seen = self._team(count), Trouble()
        for number, worker in enumerate(workers):
            worker.send(action, out, number)
        while action == "write" and not all(worker.has_answered() for worker in workers):
            seen += Trouble(mixed=is_mixed(out))
            time.sleep(0.005)
        refused = [number for number, worker in enumerate(workers) if worker.was_refused()]
        for number in refused:
            workers[number].do(action, out, number)
        return seen + self._trouble(action, out), len(refused)

    def kill(self, action: str, out: Path, moment: float) -> tuple[Trouble, bool]:
        """A process killed at a moment, from 0 to 1, of its work, then the same again: what is wrong, and if it met."""
        self._prepare(action)
        victim = self._victim_of(action)
        victim.send(action, out)
        met = not victim.has_answered(moment * self._seconds[action])
        victim.kill()
        self._team(1)[0].do(action, out)
        return self._trouble(action, out), met

    def _victim_of(self, action: str) -> Worker:
        """A process that has done the same before."""
        victim = Worker(self._context, self._source)
        victim.do(action, self._scratch)
        shutil.rmtree(self._scratch)
        return victim


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    moments, total, refused, met = random.Random(options.seed), Trouble(), 0, 0
    rounds, kills = Counter(), Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # Most of the time would be compilation.
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        bench = Bench(folder)

        def tell(what: str, trouble: Trouble) -> None:
            nonlocal total
            total += trouble
            print(what, *[f"{name} {count}" for name, count in trouble._asdict().items() if count], flush=True)

        for number in range(options.rounds):
            for actions in (ZOO_ACTIONS, TABLE_ACTIONS):
                action, out = actions[number % len(actions)], folder / "round"
                trouble, count = bench.round(action, out, 2 + number // 3 % 2)
                rounds[action] += 1
                refused += count
                tell(f"round {number}, {action}", trouble)
                shutil.rmtree(out)
        for number in range(options.kills):
            action, out = KILLED[number % len(KILLED)], folder / "killed"
            trouble, hit = bench.kill(action, out, moments.random())
            kills[action] += 1
            met += hit
            tell(f"kill {number}, {action}", trouble)
            shutil.rmtree(out)
    from environment import environment

    counts = {"rounds": dict(rounds), "kills": dict(kills), "refused": refused, "met": met, **total._asdict()}
    result = {**counts, "seed": options.seed, **environment("torch")}
    if options.out:
        write_file(options.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
