"""Converted models that wait to be written, in bounded memory and for a bounded time."""

import itertools
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from converters.recognition import label
from mdjax.models import Architecture
from mdjax.zoo.store import Zoo

MAX_MODELS = 256
"""Most models of one architecture that are held in memory until they are written."""

MAX_BYTES = 2**30
"""Most bytes of all models that are held in memory until they are written.

Writing a group copies it: with the widest published models (179 MB each) the whole process took 3.4 GB.
"""

MAX_SECONDS = 15.0
"""How long models wait to be written at least: what a killed conversion reads again took about so long to read."""

_MAX_FRACTION = 0.05
"""Of the time, what writing early may take: where it takes longer, models wait longer."""

_COPIED = 2**23
"""A model of fewer bytes is copied when it is read. Larger ones stay views of their file, which keep its memory mapping
open; of small ones thousands may wait, more than a process may have mappings."""


class Groups:
    """Converted models that wait to be written, by architecture; without a zoo they are only counted."""

    def __init__(self, zoo: Zoo | None):
        self._zoo = zoo
        self._waiting: dict[Architecture, list[tuple[Mapping[str, Any], Any]]] = {}
        self._bytes: dict[Architecture, int] = {}
        self._written = time.monotonic()
        self._pause = MAX_SECONDS

    def add(self, architecture: Architecture, row: Mapping[str, Any], model: Any) -> None:
        if self._zoo is None:
            return
        members = self._waiting.setdefault(architecture, [])
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(model))
        if len(members) >= MAX_MODELS:
            self._write(architecture, self._num_complete(members, row))
        while self._bytes and sum(self._bytes.values()) + size > MAX_BYTES:
            largest = max(self._bytes, key=lambda key: self._bytes[key])
            self._write(largest, self._num_complete(self._waiting[largest], row))
        if time.monotonic() - self._written > self._pause:
            self._write_complete(row)
        if size < _COPIED:
            model = jax.tree.map(np.array, model)
        self._waiting.setdefault(architecture, []).append((row, model))
        self._bytes[architecture] = self._bytes.get(architecture, 0) + size

    def write_all(self) -> None:
        for architecture in list(self._waiting):
            self._write(architecture, len(self._waiting[architecture]))

    def _write_complete(self, following: Mapping[str, Any]) -> None:
        """Write what has waited, of all architectures, and decide when to do so again."""
        start = time.monotonic()
        for architecture in list(self._waiting):
            self._write(architecture, self._num_complete(self._waiting[architecture], following))
        self._written = time.monotonic()
        self._pause = max(MAX_SECONDS, (self._written - start) / _MAX_FRACTION)

    def _num_complete(self, members: list[tuple[Mapping[str, Any], Any]], following: Mapping[str, Any]) -> int:
        """How many of the waiting models to write before `following` is added.

        A configuration's seeds are measured together and stay together: those of `following` wait for it, unless they
        are all there are.
        """
        last = following["configuration"]
        before = [index for index, (row, _) in enumerate(members) if row["configuration"] != last]
        return before[-1] + 1 if before else len(members)

    def _write(self, architecture: Architecture, count: int) -> None:
        members, kept = self._waiting[architecture][:count], self._waiting[architecture][count:]
        if self._zoo is not None and members:
            models = [model for _, model in members]
            params, state = jax.tree.map(lambda *leaves: np.stack(leaves), *models)
            taken = set(self._zoo.groups)
            names = (f"{label(architecture)}-{number}" for number in itertools.count())
            name = next(name for name in names if name not in taken)
            self._zoo.append(name, architecture, [row for row, _ in members], params, state)
        if kept:
            self._waiting[architecture] = kept
            self._bytes[architecture] = sum(leaf.nbytes for _, model in kept for leaf in jax.tree.leaves(model))
        else:
            del self._waiting[architecture]
            self._bytes.pop(architecture, None)
