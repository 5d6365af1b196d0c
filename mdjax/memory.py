"""How much memory the content of files, and what is trained, may take: one limit, told before memory is asked for.

A file of a few kilobytes can stand for gigabytes: archives and tables are compressed, and arrays that were never
written count as zeros. What a file holds is known from its header, and compared with two bounds before it is expanded:
half of the memory that this process may use, and 1 GiB and a hundred times the size of the file (numbers that were
measured or trained shrink by a few times, hardly ever by a hundred). `MDJAX_MEMORY`, as in MDJAX_MEMORY=16GiB, raises
both: a file that needs it is read, and others are as they were. What is trained may take the setting, less too, in
place of half of the memory.
"""

import math
import os
import re
from pathlib import Path
from typing import NamedTuple

from mdjax.errors import InputError

SETTING = "MDJAX_MEMORY"
"""The environment variable that holds the limit, in bytes or with a unit."""

_SLACK = 2**30
_RATIO = 100
_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def limit() -> int:
    """Most bytes of what is trained, at a time: the setting, or else half of the memory that this process may use.

    Raises InputError for a setting that is no size.
    """
    told = told_limit()
    return usable() // 2 if told is None else told


def check_content(what: str, needed: int, size: int) -> None:
    """InputError where the content of a file takes more than it may, as `excess` says."""
    if reason := excess(what, needed, size):
        raise InputError(f"{reason}.")


def excess(what: str, needed: int, size: int) -> str:
    """Why the content of a file takes more than it may, without a full stop; "" where it does not.

    what: the content, as the sentence begins: "The arrays of data.npz".
    needed: its bytes in memory.
    size: bytes of the file.

    Raises InputError for a setting that is no size.
    """
    most = max(min(usable() // 2, _SLACK + _RATIO * size), told_limit() or 0)
    if needed <= most:
        return ""
    return (
        f"{what} would take {readable(needed)} of memory from a file of {readable(size)}, but at most "
        f"{readable(most)} are read. If that is meant, raise the limit: {SETTING}={readable(needed, up=True)}"
    )


def check_needed(what: str, needed: int, remedy: str) -> None:
    """InputError where something takes more bytes than the limit: "{what} would take 40 GiB of memory, …. {remedy}"."""
    if needed > limit():
        raise InputError(
            f"{what} would take {readable(needed)} of memory, but at most {readable(limit())} are used. {remedy}, or "
            f"raise the limit: {SETTING}={readable(needed, up=True)}."
        )


def readable(size: float, *, up: bool = False) -> str:
    """Bytes as people read them, such as "1.5 GiB"; `up`: as the limit takes them, rounded up so that they suffice."""
    units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        units, size = units[1:], size / 1024
    if up:
        return f"{math.ceil(size)}{'B' if units[0] == 'bytes' else units[0]}"
    return f"{size:.3g} {units[0]}" if size < 100 else f"{size:.0f} {units[0]}"


def told_limit() -> int | None:
    """Bytes by the setting alone; None where it is not set. Raises InputError for a setting that is no size."""
    text = os.environ.get(SETTING, "").strip()
    if not text:
        return None
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt]?)(?:i?b)?", text.lower())
    size = 0 if found is None else int(float(found[1]) * _UNITS[found[2]])
    if size <= 0:
        raise InputError(f"{SETTING} is {text[:40]!r}. Give a size such as 8GiB, or leave it out.")
    return size


def usable() -> int:
    """Bytes of the machine's memory, or of what this process is limited to."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if hasattr(os, "sysconf") else [2**33]
    for name in _CGROUPS:
        try:
            found.append(int(Path(name).read_text()))
        except (OSError, ValueError):  # another system, or "max"
            continue
    return min(found)


def free_memory() -> int:
    """Bytes of the host's memory that are free now, at most what this process may use; half of that if nobody tells."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return min(int(line.split()[1]) * 1024, usable())
    except OSError:
        pass
    return usable() // 2


class ProcessMemory(NamedTuple):
    """Bytes of memory that this process holds now, and the most that it has held."""

    now: int
    most: int


def process_memory() -> ProcessMemory:
    """What this process takes of the host's memory, by the system's account (zeros where it gives none)."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return ProcessMemory(*(int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")))
    except (OSError, KeyError):
        return ProcessMemory(0, 0)
