"""Compiled programs, kept for their next call and given back before the process runs out of room for code.

XLA maps every kernel of a program into memory by itself: some hundred mappings a program on a CPU, of the 65,530 that
Linux grants a process. Where they run out, the next allocation of whatever library fails.
"""

import gc
import threading
from collections.abc import Callable, Collection, Hashable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from mdjax.console import warn

_MAPPINGS = Path("/proc/self/maps")
_MOST_MAPPINGS = Path("/proc/sys/vm/max_map_count")
_USUAL_MOST = 65_530
_FRACTION = 4
"""One in so many mappings may be taken before programs are given back: others need theirs, and the next program its."""

_MOST_BYTES = 2**30
_MOST_PROGRAMS = 256
"""Kept at a time where the system does not tell a process's mappings."""


class Room(NamedTuple):
    """Mappings of a process (0 where the system does not tell), and bytes of compiled code."""

    mappings: int
    code_bytes: int


class ProgramCache:
    """Compiled programs by what they were compiled for; the longest unused are given back where room gets short.

    limits: what the process may take before that; by default a quarter of the mappings that the system grants, and
        1 GiB of code.
    """

    def __init__(self, limits: Room | None = None):
        self._usual = self.limits = limits or Room(_most_mappings() // _FRACTION, _MOST_BYTES)
        self.num_compiled = 0
        self._programs: dict[Hashable, Any] = {}
        self._code_bytes: dict[Hashable, int] = {}  # found out once: XLA takes its time
        self._has_warned = False
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._programs)

    def get(self, key: Hashable, compile: Callable[[], Any]) -> Any:
        """The program of a key, compiled if it is not kept.

        key: all that decides the program.
        compile: makes it, a `jax.stages.Compiled`.
        """
        with self._lock:
            program = self._programs.pop(key, None)
            if program is None:
                self.make_room()
                program = compile()
                self.num_compiled += 1
                self._code_bytes[key] = _generated_bytes(program)
            # The last one in the order of insertion is the last one used.
            self._programs[key] = program
            return program

    def make_room(self) -> None:
        """Give programs back until the process is within its limits; at last those that JAX itself keeps.

        What is taken then is others', and stays: the limits count from there on.
        """
        with self._lock:
            while self._is_short():
                if not self._programs:
                    jax.clear_caches()
                    gc.collect()
                    self._count_from_here()
                    return
                self._give_back(next(iter(self._programs)))

    def _give_back(self, key: Hashable) -> None:
        del self._programs[key], self._code_bytes[key]

    def _count_from_here(self) -> None:
        if not self._is_short():
            return
        taken = room_taken(())
        self.limits = Room(
            max(self.limits.mappings, taken.mappings + self._usual.mappings),
            max(self.limits.code_bytes, taken.code_bytes + self._usual.code_bytes),
        )
        if not self._has_warned:
            self._has_warned = True
            warn(
                f"What else runs in this process holds {taken.mappings:,} mappings of memory and "
                f"{taken.code_bytes / 2**20:,.0f} MiB of code, which leaves little room for compiled programs. Where "
                "allocations fail, measure in a process of its own."
            )

    def clear(self) -> None:
        """Give all programs back."""
        with self._lock:
            self._programs.clear()
            self._code_bytes.clear()

    def _is_short(self) -> bool:
        taken = room_taken(self._code_bytes.values())
        if taken.mappings == 0 and len(self._programs) >= _MOST_PROGRAMS:
            return True
        return taken.mappings > self.limits.mappings or taken.code_bytes > self.limits.code_bytes


def room_taken(code_bytes_elsewhere: Collection[int]) -> Room:
    """What this process takes for all its mappings and all compiled code, programs of these sizes on other devices too.

    Code of the host counts by the system's account of mappings that are executable and of no file, since XLA says 0
    bytes for it; code of other devices by XLA's.
    """
    mappings = code_bytes = 0
    try:
        with _MAPPINGS.open() as lines:
            for line in lines:
                mappings += 1
                addresses, access, _, _, file = line.split(maxsplit=4)
                if "x" in access and file.strip() == "0":
                    first, last = addresses.split("-")
                    code_bytes += int(last, 16) - int(first, 16)
    except OSError:
        pass  # not Linux
    return Room(mappings, code_bytes + sum(code_bytes_elsewhere))


def _generated_bytes(program: Any) -> int:
    """The code of a program by XLA's account: 0 on a host."""
    return program.memory_analysis().generated_code_size_in_bytes


def _most_mappings() -> int:
    try:
        # Where the system grants millions, as many as others do are enough.
        return min(int(_MOST_MAPPINGS.read_text()), 4 * _USUAL_MOST)
    except (OSError, ValueError):
        return _USUAL_MOST


PROGRAMS = ProgramCache()
"""Those of this process: of every metric, and of training."""
