"""Units that several processes share → all of them settled: each takes what nobody has, the longest first.

What is done is told by the commits, what others do by their claims; a process needs to know nothing else of them.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from mdjax.statuses import Status, StatusCode
from mdjax.sweeps.claims import Claims, Tries
from mdjax.sweeps.commits import KEY, Commits
from mdjax.sweeps.estimates import Estimates
from mdjax.sweeps.running import Outcome, rows_with
from mdjax.sweeps.units import Unit

MOST_DEATHS, MOST_LAPSES = 3, 10
"""How many processes may die at one member, or go away unseen, before it is left alone."""

_SPLITTING_LAPSES = 3
"""After so many processes went away at a unit of several members, each member is tried on its own."""

_LONGEST_PAUSE, _PART = 30.0, 0.02
"""Between two looks at what others do pass at most so many seconds; looking takes at most so much of the time."""

_SHORTEST_PAUSE = 0.2


class Runs(Protocol):
    """What runs a unit: `mdjax.sweeps.running.Runner`."""

    def run(self, unit: Unit) -> Outcome: ...


class Share(NamedTuple):
    """Which part of the units a process begins with: every one of so many, from a number on."""

    number: int
    of: int


class Sharing:
    """The units of a run as one of its processes sees them.

    units: all of them, in an order that all processes agree on.
    commits, claims: of the table.
    share: which of them come first here (default: any).
    """

    def __init__(self, units: Sequence[Unit], commits: Commits, claims: Claims, share: Share | None = None):
        self.units, self.commits, self.claims = units, commits, claims
        self.estimates = Estimates()
        self.total = sum(len(unit.keys) for unit in units)
        self._preferred = {unit.name for unit in units[share.number :: share.of]} if share else set()
        self._open: dict[str, Unit] = {}
        self.num_open = 0
        """Members that are not settled yet."""
        self._avoided: set[str] = set()
        self._num_workers = 1
        self._random = random.Random(claims.worker)
        self._looked = 0.0
        self._told = 0
        self.pause = _SHORTEST_PAUSE
        """Seconds between two looks, as the last one took."""

    def look(self) -> None:
        """Find out what is open, and settle what too many processes died at."""
        start = time.monotonic()
        self.claims.refresh()
        left = [part for unit in self.commits.missing(self.units) for part in self._parts(unit)]
        left.sort(key=lambda unit: (unit.name not in self._preferred, -self.estimates.seconds(unit)))
        self._open = {unit.name: unit for unit in left}
        self.num_open = sum(len(unit.keys) for unit in left)
        self._avoided = set()
        self._num_workers = 1 + len(self.claims.others())
        self._looked = time.monotonic()
        self.pause = min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, (self._looked - start) / _PART))

    def newly_settled(self) -> int:
        """Members that have been settled, here or elsewhere, since it was asked last."""
        settled = self.total - self.num_open
        new, self._told = settled - self._told, settled
        return new

    @property
    def num_units(self) -> int:
        """Units that are not settled yet."""
        return len(self._open)

    def is_due(self) -> bool:
        """Whether it is time to look again."""
        return time.monotonic() - self._looked >= self.pause

    def take(self) -> Unit | None:
        """Claim a unit; None where others have all that is open."""
        while True:
            free = self._free()
            if not free:
                return None
            # Of so many processes, few reach for the same one.
            unit = self._random.choice(free[: 2 * self._num_workers]) if self._num_workers > 1 else free[0]
            self._avoided.add(unit.name)
            if not self.claims.take(unit.name):
                continue
            if not self.commits.has(unit):
                return unit
            self._close(unit)

    def settle(self, unit: Unit, outcome: Outcome) -> None:
        """Keep what came of a unit that was taken, and give it up."""
        rows = outcome.rows
        self.commits.commit(unit, rows)
        finished = self.commits.finished_keys(rows)
        if len(finished) < len(unit.keys):
            part = unit.part([index for index, key in enumerate(unit.keys) if key not in finished])
            unfinished = rows[~rows[KEY].isin(finished)] if len(rows) else rows
            self.claims.fail(part, unfinished, outcome.problems)
        self._close(unit)
        self.commits.pack()

    def _close(self, unit: Unit) -> None:
        self.claims.drop(unit.name)
        if self._open.pop(unit.name, None) is not None:
            self.num_open -= len(unit.keys)

    def _free(self) -> list[Unit]:
        """The first units that this process may take: enough to choose from."""
        free: list[Unit] = []
        for name, unit in self._open.items():
            if name not in self._avoided and not self.claims.is_busy(name):
                free.append(unit)
                if len(free) >= 2 * self._num_workers:
                    break
        return free

    def _parts(self, unit: Unit) -> Iterator[Unit]:
        """What is left of a unit: members each on their own where a process died at it, none that is given up."""
        if unit.name in self.claims.failures:
            return
        tries = self.claims.tries(unit.name)
        if len(unit.keys) > 1:
            if tries.deaths or tries.lapses >= _SPLITTING_LAPSES:
                for index in range(len(unit.keys)):
                    yield from self._parts(unit.part([index]))
                return
        elif len(tries.deaths) >= MOST_DEATHS or tries.lapses >= MOST_LAPSES:
            self.claims.fail(unit, rows_with(unit, _died(tries)), {})
            return
        yield unit


def work_through(runner: Runs, sharing: Sharing, advance: Callable[..., None]) -> None:
    """Run units until all are settled, by this process or by others.

    runner: runs a unit.
    sharing: what there is to do.
    advance: told how many more members are settled, and what is measured.
    """
    while True:
        sharing.look()
        advance(sharing.newly_settled())
        if not sharing.num_open:
            return
        while (unit := sharing.take()) is not None:
            advance(0, title=f"measuring {unit.metric.name}")
            start = time.monotonic()
            outcome = runner.run(unit)
            sharing.estimates.learn(unit, time.monotonic() - start)
            sharing.settle(unit, outcome)
            advance(sharing.newly_settled())
            if sharing.is_due():
                break
        if unit is None and sharing.num_open:
            time.sleep(sharing.pause)


def _died(tries: Tries) -> Status:
    count = len(tries.deaths)
    if count >= MOST_DEATHS:
        return Status(StatusCode.DIED, f"its process ended {count} times while measuring it: {tries.deaths[-1]}")
    return Status(StatusCode.DIED, f"its process went away {tries.lapses} times while measuring it")
