"""The workers of a sweep on a Ray cluster: hired where there is room, heard, and replaced where they die."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from mdjax.console import warn
from mdjax.errors import InputError, first_line
from mdjax.processes import when_ended
from mdjax.subprocesses import IdleDeaths
from mdjax.sweeps.gangs import Gang, Member, Needs, hire, num_ready
from mdjax.sweeps.ray_worker import Place
from mdjax.sweeps.worker import Assignment
from mdjax.sweeps.working import Sharing

_PAUSE = 1.0
"""Seconds between two looks at the room that the cluster has."""

_REST = 5.0
"""Seconds in which none is replaced after a worker found nothing left to do."""

_LAST_WORDS = 2.0
"""Seconds in which others of a gang may die of what its first did."""

_WAIT = 15.0
"""Seconds without any worker after which it is said what is waited for."""


class RayCrew:
    """Actors of a Ray cluster that work at a table (`mdjax.sweeps.workers.Crew`).

    assignment: what each is told.
    sharing: of the table, where deaths are noted.
    ray: the package, connected.
    needs: what each gang takes.
    count: how many gangs there are to be; None: as many as there is room for.
    """

    def __init__(self, assignment: Assignment, sharing: Sharing, *, ray: Any, needs: Needs, count: int | None):
        self._assignment, self._sharing = assignment, sharing
        self._ray, self._needs, self._count = ray, needs, count
        self._gangs: list[Gang] = []
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
        return sum(member.place is not None for member in self._members())

    def tend(self) -> None:
        """Hear what workers answer, note who died and at what, and hire where there is room; InputError where a worker
        says what is wrong."""
        answers = {
            member.answer: (gang, member)
            for gang in self._gangs
            for member in gang.members
            if member.answer is not None  # it waits for the others of its gang, or is done
        }
        if answers:
            heard, _ = self._ray.wait(list(answers), num_returns=len(answers), timeout=0)
            for gang, member in map(answers.__getitem__, heard):
                if gang in self._gangs:  # it goes with the first of its members that does
                    self._hear(gang, member)
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
            warn(f"The cluster has no room for a worker, which takes {self._needs}. It is waited for.")

    def _members(self) -> Iterator[Member]:
        return (member for gang in self._gangs for member in gang.members)

    def _room(self) -> int:
        """How many gangs to hire now."""
        units = max(0, self._sharing.num_units - sum(len(gang.members) for gang in self._gangs))
        most = -(-units // self._needs.num_processes)
        if self._count is not None:
            most = min(most, self._count - len(self._gangs))
        # What waits tells that there is no room for more, and takes what comes; for slices it cannot wait.
        has_to_be_there = self._count is None or self._needs.slice is not None
        if most <= 0 or not has_to_be_there:
            return max(0, most)
        if not all(gang.is_placed for gang in self._gangs):
            return 0
        room = num_ready(self._ray, self._needs)
        return min(most, room if self._gangs or self._needs.slice is not None else max(1, room))

    def _hire(self) -> None:
        environment = {"JAX_PLATFORMS": "cpu"} if self._needs.platform == "cpu" else {}
        gang = hire(self._ray, self._needs, lambda actor: actor.begin.remote(environment, str(Path.cwd())))
        if gang is not None:
            self._gangs.append(gang)

    def _hear(self, gang: Gang, member: Member) -> None:
        try:
            answer = self._ray.get(member.answer)
        except self._ray.exceptions.RayError:
            self._lose(gang)
            return
        if isinstance(answer, Place):
            member.place, member.cores = answer, self._cores(answer)
            member.answer = None
            if gang.is_placed:
                self._start(gang)
        elif answer is None:
            member.answer, member.is_done = None, True
            if gang.is_done:
                self._drop(gang)
                self._due = time.monotonic() + _REST
        else:
            assert member.place is not None
            raise InputError(f"A worker on the node {member.place.address} says: {answer}")

    def _start(self, gang: Gang) -> None:
        driver, platform = self._sharing.claims.worker, self._needs.platform
        for joined, member in zip(gang.joined(), gang.members, strict=True):
            told = self._assignment._replace(cores=member.cores)
            member.answer = member.actor.work.remote(told, driver, platform, joined)

    def _lose(self, gang: Gang) -> None:
        """A gang whose member died goes, and whose own death that may have been is noted.

        What ends one process may end those that are joined to it, and these may be heard first.
        """
        waited = [member.answer for member in gang.members if member.answer is not None]
        self._ray.wait(waited, num_returns=len(waited), timeout=_LAST_WORDS if len(waited) > 1 else 0)
        for member in gang.members:
            if (how := self._own_death(member)) is not None:
                self._note_death(member, how)
        self._drop(gang)

    def _own_death(self, member: Member) -> str | None:
        """How a member died, unless it lives or its node went, which says nothing of what it measured."""
        if member.answer is None or not self._ray.wait([member.answer], timeout=0)[0]:
            return None
        exceptions = self._ray.exceptions
        try:
            self._ray.get(member.answer)
        except exceptions.RayActorError as error:
            is_its_own = isinstance(error, exceptions.ActorDiedError) and not getattr(error, "preempted", False)
            is_its_own &= member.place is None or self._is_there(member.place.node)
            return _how(error) if is_its_own else None
        except exceptions.RayError as error:  # raised in the worker
            return _how(error)
        return None

    def _note_death(self, member: Member, how: str) -> None:
        hit = self._sharing.claims.tell_death(member.place.process, how) if member.place else []
        if hit:
            self._idle.end()
        else:
            self._idle.add(how)

    def _cores(self, place: Place) -> tuple[int, ...]:
        """Cores of its machine that no other worker has: JAX would start threads for all of them."""
        number = int(self._needs.resources["CPU"])
        if self._needs.platform != "cpu" or number >= len(place.cores):
            return ()
        on_it = (one for one in self._members() if one.place is not None and one.place.machine == place.machine)
        taken = {core for one in on_it for core in one.cores}
        free = [core for core in place.cores if core not in taken]
        return tuple(free[:number]) if len(free) >= number else ()

    def _is_there(self, node: str) -> bool:
        return any(one["NodeID"] == node and one["Alive"] for one in self._ray.nodes())

    def _drop(self, gang: Gang) -> None:
        self._gangs.remove(gang)
        self._dismiss([gang])

    def _end(self) -> None:
        """End them now: what they have not committed, the next run does."""
        gangs, self._gangs = self._gangs, []
        self._dismiss(gangs)

    def _dismiss(self, gangs: Sequence[Gang]) -> None:
        """End their processes, give back their room, and tell that what they had taken is free."""
        members = [member for gang in gangs for member in gang.members]
        for member in members:
            with contextlib.suppress(Exception):  # it, or its node, is gone
                self._ray.kill(member.actor)
        for gang in gangs:
            with contextlib.suppress(Exception):
                gang.release()
        for member in members:
            if member.place is not None:
                with contextlib.suppress(OSError, InputError):
                    self._sharing.claims.tell_gone(member.place.process)


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
