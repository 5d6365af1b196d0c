"""Cases run one after another in forked children with limits of memory and time: what became of each.

A child runs cases until it dies, hangs or takes too much memory; the next one goes on after the case that did it.
Nothing but imports may have happened in the parent: threads do not survive a fork.
"""

import json
import os
import resource
import select
import signal
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mdjax.memory import process_memory

MEMORY = 3 * 2**30
"""Bytes of private memory that a child may take beyond what its parent holds."""

GROWTH = 2**30
"""A case by which a child's peak memory grows by more is a bomb that was let through."""

SECONDS = 60.0
"""A case that takes longer hangs; on a machine that is busy the slowest takes some seconds."""

PROJECT = ("InputError", "DamagedGroupError", "RefusedError", "UnknownFamilyError", "AlignmentError")
"""The project's own errors: one sentence each."""


class Result(NamedTuple):
    """What became of a case: an outcome of `OUTCOMES`, and what there is to say of it."""

    case: int
    outcome: str
    detail: str


OUTCOMES = ("same", "told", "unseen", "silent", "traceback", "crash", "hang", "memory")
"""Read as before; refused or told; read as something else, which nobody could know; faults."""

FAULTS = ("silent", "traceback", "crash", "hang", "memory")


def run(cases: Sequence[int], work: Callable[[int], tuple[str, str]], seconds: float = SECONDS) -> list[Result]:
    """The results of all cases, in order; `work` runs in a child and returns a case's outcome and detail."""
    results: list[Result] = []
    while len(results) < len(cases):
        results += _child(cases[len(results) :], work, seconds)
    return results


def _child(cases: Sequence[int], work: Callable[[int], tuple[str, str]], seconds: float) -> list[Result]:
    """The results of one child: of all cases, or of those up to the one at which it ended."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _work_off(cases, work, writing)
    os.close(writing)
    results: list[Result] = []
    with os.fdopen(reading, "rb") as pipe:
        for case in cases:
            ready, _, _ = select.select([pipe], [], [], seconds)
            line = pipe.readline() if ready else b""
            if not line:
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                outcome = "crash" if ready else "hang"
                return [*results, Result(case, outcome, f"wait status {status}" if ready else f"over {seconds:g} s")]
            results.append(Result(case, *json.loads(line)))
            if results[-1].outcome == "memory":
                break
    os.waitpid(pid, 0)
    return results


def _work_off(cases: Sequence[int], work: Callable[[int], tuple[str, str]], pipe: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    limit = _private_bytes() + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for case in cases:
        before = _peak()
        outcome, detail = outcome_of(lambda: work(case))
        grown = _peak() - before
        if outcome not in ("crash", "traceback") and grown > GROWTH:
            outcome, detail = "memory", f"{grown / 2**30:.1f} GiB; {outcome}: {detail}"
        os.write(pipe, json.dumps([outcome, detail[:600]]).encode() + b"\n")
        if outcome == "memory":
            break
    os._exit(0)


def outcome_of(work: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    """What becomes of a case in this process."""
    try:
        return work()
    except (SystemExit, KeyboardInterrupt) as error:
        return "traceback", type(error).__name__
    except BaseException as error:
        if type(error).__name__ in PROJECT and "\n" not in str(error).strip():
            return "told", str(error)
        if isinstance(error, MemoryError):
            return "memory", f"MemoryError {_place(error)}"
        return "traceback", f"{type(error).__name__}: {str(error)[:200]} {_place(error)}"


def _place(error: BaseException) -> str:
    """The innermost line of the project's own code."""
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "/mdjax/" in frame.filename or "/converters/" in frame.filename
    ]
    return f"at {Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name}" if own else ""


def _private_bytes() -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmData"].split()[0]) * 1024


def _peak() -> int:
    return process_memory().most


def fingerprint(value: Any) -> str:
    """A text that tells the content of nested containers, frames and arrays from every other."""
    import hashlib

    import numpy as np
    import pandas as pd

    digest = hashlib.blake2b(digest_size=12)

    def add(part: Any) -> None:
        if isinstance(part, pd.DataFrame):
            for name in part:
                digest.update(f"column {name} {part[name].dtype}".encode())
                add(part[name].tolist())
        elif isinstance(part, dict):
            for key in sorted(part, key=str):
                digest.update(f"key {key!r}".encode())
                add(part[key])
        elif isinstance(part, list | tuple):
            digest.update(f"items {len(part)}".encode())
            for item in part:
                add(item)
        elif hasattr(part, "dtype") and hasattr(part, "shape"):
            array = part.detach().numpy() if hasattr(part, "detach") else np.asarray(part)
            digest.update(f"array {array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        else:
            digest.update(repr(part).encode())

    add(value)
    return digest.hexdigest()
