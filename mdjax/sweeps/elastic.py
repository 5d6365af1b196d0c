"""A zoo × metrics → a table, by as many processes as a Ray cluster has room for, while nodes come and go."""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, Unpack

from mdjax.addresses import located
from mdjax.console import warn
from mdjax.engine import device_shape
from mdjax.errors import InputError, check_options, check_whole, first_line
from mdjax.processes import when_ended
from mdjax.subprocesses import IdleDeaths
from mdjax.sweeps.clusters import joined
from mdjax.sweeps.local import RunOptions, measure
from mdjax.sweeps.ray_worker import Place, RayWorker
from mdjax.sweeps.worker import Assignment
from mdjax.sweeps.working import Sharing
from mdjax.table import Table
from mdjax.zoo.data import Data
from mdjax.zoo.store import Zoo

ACCELERATORS = ("auto", "cpu", "gpu", "tpu")

_PAUSE = 1.0
"""Seconds between two looks at the room that the cluster has."""

_REST = 5.0
"""Seconds in which none is replaced after a worker found nothing left to do."""

_WAIT = 15.0
"""Seconds without any worker after which it is said what is waited for."""

_MOST_WORKERS, _MOST_CPUS = 100_000, 4096

_OWN = {"address", "cpus_per_worker", "accelerator", "distributed"}
"""Options that a measurement is not told."""


class SweepOptions(RunOptions, total=False):
    """How a sweep runs: as a measurement does (`RunOptions`), without `mesh`, and on which workers.

    `address` is that of the cluster (`mdjax.sweeps.clusters.joined`). `workers`, by default "auto", are as many as the
    cluster has room for at any time; a number is how many are asked for: those for which there is no room wait, and a
    cluster that scales itself starts nodes for them. Each takes `cpus_per_worker` (default 1) and `devices` (default 1)
    of an accelerator, "gpu", "tpu", or none, "cpu"; "auto" is what the cluster has.
    """

    address: str | None
    cpus_per_worker: int
    accelerator: str


def sweep(
    source: str | Path | Zoo,
    *,
    out: str | Path,
    data: Data | None = None,
    preset: str = "default",
    metrics: str | Sequence[str] | None = None,
    settings: Sequence[str] = (),
    **options: Unpack[SweepOptions],
) -> Table:
    """Measure every model of a zoo on a Ray cluster: the same table as by `mdjax.sweeps.local.measure`, and resumed so.

    Each worker is a process that shares the table with all others, wherever they run. Where one dies, the others take
    over; a model at which workers die again and again becomes a row that says so. Several sweeps, and `measure`, may
    fill one table at a time.

    source: a zoo, or its path or address, as all nodes see it.
    out: where the table goes, as all nodes see it.
    data, preset, metrics, settings: as for `measure`, by names and paths.
    options: see `SweepOptions`.

    InputError as of `measure`, where there is no such cluster, and where its nodes do not see zoo and table.
    """
    check_options("sweep", options, SweepOptions)
    if options.get("distributed") is not None:
        raise InputError("distributed was given for a sweep, whose processes Ray starts. Leave it out, or use measure.")
    taken = _taken(options)
    rest: Any = {name: value for name, value in options.items() if name not in _OWN}
    # Workers have other working folders.
    places = {"source": _absolute(source.path if isinstance(source, Zoo) else source), "out": _absolute(out)}
    with joined(options.get("address")) as ray:
        needs = _needs(taken, ray)
        rest["workers"] = functools.partial(RayCrew, ray=ray, needs=needs, count=taken.num_workers)
        try:
            return measure(**places, data=data, preset=preset, metrics=metrics, settings=settings, **rest)
        except (ConnectionError, ray.exceptions.RaySystemError) as error:
            raise InputError(
                f"The Ray cluster is not reached any more: {first_line(error)}. Give the same command again to go on "
                "from here."
            ) from error


class _Taken(NamedTuple):
    """What each worker takes of the cluster, and how many there are to be; None: as many as there is room for."""

    cpus: int
    devices: int
    accelerator: str
    num_workers: int | None


def _taken(options: SweepOptions) -> _Taken:
    cpus, accelerator = options.get("cpus_per_worker", 1), options.get("accelerator", "auto")
    check_whole("cpus_per_worker", cpus, 1, _MOST_CPUS)
    if accelerator not in ACCELERATORS:
        raise InputError(f"Unknown accelerator {accelerator!r}. Choose from {', '.join(ACCELERATORS)}.")
    asked = options.get("workers", "auto")
    count = None
    if asked != "auto":
        with contextlib.suppress(TypeError, ValueError):
            count = int(asked)  # pyright: ignore[reportArgumentType]
        check_whole("workers", asked if count is None else count, 1, _MOST_WORKERS)
    return _Taken(cpus, math.prod(device_shape(options.get("devices", "1"))), accelerator, count)


def _needs(taken: _Taken, ray: Any) -> dict[str, float]:
    """Ray's resources that a worker takes, by name."""
    kind = taken.accelerator
    if kind == "auto":
        there = ray.cluster_resources()
        kind = next((name for name in ("tpu", "gpu") if there.get(name.upper(), 0) >= 1), "cpu")
    needs: dict[str, float] = {"CPU": taken.cpus}
    return needs if kind == "cpu" else needs | {kind.upper(): taken.devices}


def _absolute(place: Any) -> Any:
    found = located(place)
    return found.absolute() if isinstance(found, Path) else str(found)


@dataclasses.dataclass(eq=False)
class _Hired:
    """A worker as seen from here: nothing is known of its place before it has answered once."""

    actor: Any
    answer: Any
    place: Place | None = None
    cores: tuple[int, ...] = ()


class RayCrew:
    """Actors of a Ray cluster that work at a table (`mdjax.sweeps.workers.Crew`).

    assignment: what each is told.
    sharing: of the table, where deaths are noted.
    ray: the package, connected.
    needs: what each takes, by Ray's names.
    count: how many there are to be; None: as many as there is room for.
    """

    def __init__(
        self, assignment: Assignment, sharing: Sharing, *, ray: Any, needs: Mapping[str, float], count: int | None
    ):
        self._assignment, self._sharing = assignment, sharing
        self._ray, self._needs, self._count = ray, needs, count
        self._platform = next((name.lower() for name in needs if name != "CPU"), "cpu")
        self._hired: list[_Hired] = []
        self._idle = IdleDeaths(
            "Every node needs mdjax of this version, with what the metrics and the zoo need; 'mdjax measure' there "
            "tells more."
        )
        self._node: str | None = None  # this process's own, where Ray tells it
        with contextlib.suppress(Exception):
            self._node = ray.get_runtime_context().get_node_id()
        self._due = 0.0
        self._since: float | None = time.monotonic()  # without any worker
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(when_ended(self._end))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._end()

    @property
    def num_alive(self) -> int:
        """How many are at work."""
        return sum(worker.place is not None for worker in self._hired)

    def tend(self) -> None:
        """Hear what workers answer, note who died and at what, and hire where there is room; InputError where a worker
        says what is wrong."""
        answers = {worker.answer: worker for worker in self._hired}
        if answers:
            heard, _ = self._ray.wait(list(answers), num_returns=len(answers), timeout=0)
            for answer in heard:
                self._hear(answers[answer])
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + _PAUSE
        if self._node is not None and not self._is_there(self._node):
            raise InputError(
                "The Ray node that this command runs on has ended, and no worker can be asked for without it. Give the "
                "same command again to go on from here."
            )
        for _ in range(self._room()):
            self._hire()
        if self.num_alive:
            self._since = None
        elif self._since is not None and now - self._since > _WAIT:
            self._since = None
            needs = ", ".join(f"{amount:g} {name}" for name, amount in self._needs.items())
            warn(f"No node of the cluster has room for a worker, which takes {needs}. It is waited for.")

    def _room(self) -> int:
        """How many workers to hire now."""
        most = self._sharing.num_units - len(self._hired)
        if self._count is not None:
            return max(0, min(most, self._count - len(self._hired)))
        if self.num_alive < len(self._hired):
            return 0  # one that waits tells that there is none, and takes what comes
        free = self._ray.available_resources()
        room = min(int(free.get(name, 0) // amount) for name, amount in self._needs.items())
        return max(0, min(most, room if self._hired else max(1, room)))

    def _hire(self) -> None:
        needs = dict(self._needs)
        options: dict[str, Any] = {"num_cpus": needs.pop("CPU"), "num_gpus": needs.pop("GPU", 0), "max_restarts": 0}
        actor = self._ray.remote(RayWorker).options(**options, resources=needs).remote()
        environment = {"JAX_PLATFORMS": "cpu"} if self._platform == "cpu" else {}
        self._hired.append(_Hired(actor, actor.begin.remote(environment, str(Path.cwd()))))

    def _hear(self, worker: _Hired) -> None:
        exceptions = self._ray.exceptions
        try:
            answer = self._ray.get(worker.answer)
        except exceptions.RayActorError as error:
            self._drop(worker)
            is_its_own = isinstance(error, exceptions.ActorDiedError) and not getattr(error, "preempted", False)
            if is_its_own and (worker.place is None or self._is_there(worker.place.node)):
                self._note_death(worker, _how(error))
            elif worker.place is not None:  # its node went, which says nothing of what it measured
                self._sharing.claims.tell_gone(worker.place.process)
            return
        except exceptions.RayError as error:  # raised in the worker
            self._drop(worker)
            self._note_death(worker, _how(error))
            return
        if isinstance(answer, Place):
            worker.place, worker.cores = answer, self._cores(answer)
            told = self._assignment._replace(cores=worker.cores)
            worker.answer = worker.actor.work.remote(told, self._sharing.claims.worker, self._platform)
        elif answer is None:
            self._drop(worker)
            self._due = time.monotonic() + _REST
        else:
            assert worker.place is not None
            raise InputError(f"A worker on the node {worker.place.address} says: {answer}")

    def _note_death(self, worker: _Hired, how: str) -> None:
        hit = self._sharing.claims.tell_death(worker.place.process, how) if worker.place else []
        if hit:
            self._idle.end()
        else:
            self._idle.add(how)

    def _cores(self, place: Place) -> tuple[int, ...]:
        """Cores of its machine that no other worker has: JAX would start threads for all of them."""
        number = int(self._needs["CPU"])
        if self._platform != "cpu" or number >= len(place.cores):
            return ()
        on_it = [other for other in self._hired if other.place is not None and other.place.machine == place.machine]
        taken = {core for other in on_it for core in other.cores}
        free = [core for core in place.cores if core not in taken]
        return tuple(free[:number]) if len(free) >= number else ()

    def _is_there(self, node: str) -> bool:
        return any(one["NodeID"] == node and one["Alive"] for one in self._ray.nodes())

    def _drop(self, worker: _Hired) -> None:
        self._hired.remove(worker)
        with contextlib.suppress(Exception):  # it, or its node, is gone
            self._ray.kill(worker.actor)

    def _end(self) -> None:
        """End them now: what they have not committed, the next run does."""
        hired, self._hired = self._hired, []
        for worker in hired:
            with contextlib.suppress(Exception):
                self._ray.kill(worker.actor)
        for process in _processes(hired):
            with contextlib.suppress(OSError, InputError):
                self._sharing.claims.tell_gone(process)


def _processes(hired: Sequence[_Hired]) -> Iterator[str]:
    return (worker.place.process for worker in hired if worker.place is not None)


def _how(error: Exception) -> str:
    """How a worker ended, in one line, of what Ray tells in many."""
    text = str(error)
    if "low on memory" in text:
        return "Ray ended it as its node ran low on memory"
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return f"{type(cause).__name__}: {first_line(cause)}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any("Worker exit type: SYSTEM_ERROR" in line for line in lines):
        return "it was killed or crashed, as where memory runs out"
    return first_line(ValueError(lines[-1] if lines else type(error).__name__))
