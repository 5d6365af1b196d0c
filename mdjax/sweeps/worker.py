"""A process of its own that measures units until all are settled: `python -m mdjax.sweeps.worker`, started by
`mdjax.sweeps.workers`.

What to do is one line of JSON on standard input (`Assignment`). It ends with who started it, when standard input does;
the line of JSON that it writes says what went wrong, if anything. Whatever else ends it costs the unit at hand alone.
"""

import contextlib
import os
import sys
from typing import Any, NamedTuple

from mdjax.subprocesses import answer, messages


class Assignment(NamedTuple):
    """What a worker is told: where the zoo and the table are, the arguments of `mdjax.sweeps.local.measure`, by names,
    and how many devices it measures on, as the command line calls them.

    `cores` are those of the CPU that it may use, if others use some. `kinds` are those of the units
    (`mdjax.sweeps.units.kinds`) that it has to find there, if anything is told of them.
    """

    zoo: str
    table: str
    data: str | None = None
    preset: str = "default"
    metrics: str | tuple[str, ...] | None = None
    settings: tuple[str, ...] = ()
    seed: int = 0
    layout: str | None = None
    task: str | None = None
    label_noise: Any = None
    num_examples: int | None = None
    devices: str = "1"
    cores: tuple[int, ...] = ()
    kinds: tuple[str, ...] = ()


def main() -> None:
    """Do what the line on standard input says."""
    assignment = Assignment(**next(messages()))
    from mdjax.errors import InputError

    try:
        work(assignment)
    except InputError as error:
        answer({"error": str(error)})
        sys.exit(2)


def work(assignment: Assignment) -> None:
    """Measure, in this process, until all units are settled; InputError for what is wrong with the assignment."""
    if assignment.cores and hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, assignment.cores)
    from mdjax.engine import device_mesh
    from mdjax.engine.compilation import keep_compiled_programs
    from mdjax.errors import InputError
    from mdjax.metrics import select
    from mdjax.stores import store_of
    from mdjax.sweeps.claims import Claims
    from mdjax.sweeps.commits import Commits
    from mdjax.sweeps.preparation import prepared
    from mdjax.sweeps.running import Runner
    from mdjax.sweeps.units import kinds
    from mdjax.sweeps.working import Sharing, work_through

    mesh = device_mesh(assignment.devices)
    keep_compiled_programs()
    metrics = select(assignment.preset, assignment.metrics, assignment.settings)
    options: Any = {"mesh": mesh, "label_noise": assignment.label_noise}
    options |= {"layout": assignment.layout, "task": assignment.task, "num_examples": assignment.num_examples}
    todo = prepared(assignment.zoo, assignment.data, metrics, None, options, assignment.seed)
    units = [unit for metric in metrics for unit in todo.units(metric)]
    if assignment.kinds and set(assignment.kinds) != kinds(units):
        raise InputError(
            "What this worker finds to measure is not what it was told. Give it the same version of mdjax and the same "
            "files of data and metrics as the process that started it."
        )
    commits = Commits(store_of(assignment.table))
    claims = Claims(commits.store)
    with claims.beating():
        work_through(Runner(todo), Sharing(units, commits, claims), lambda units=1, title=None: None)


if __name__ == "__main__":
    main()
