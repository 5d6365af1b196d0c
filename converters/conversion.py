"""Files → groups of a zoo, in bounded memory: whatever cannot be taken is reported, and the rest goes on."""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from converters import families, layouts
from converters.errors import RefusedError
from converters.layouts.contract import Candidate, known_facts
from converters.reports import Outcome, OutcomeCode, Report
from converters.state_dicts import USUAL, Reading, read_checkpoint, require_torch
from mdjax.errors import InputError, first_line
from mdjax.models import Architecture
from mdjax.progress import progress
from mdjax.zoo.data import load
from mdjax.zoo.store import Zoo

MAX_MODELS = 256
"""Most models of one architecture that are held in memory until they are written."""

MAX_BYTES = 2**30
"""Most bytes of all models that are held in memory until they are written.

Writing a group copies it: with the widest published models (179 MB each) the whole process took 3.4 GB.
"""

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_COPIED = 2**23
"""A model of fewer bytes is copied when it is read. Larger ones stay views of their file, which keep its memory mapping
open; of small ones thousands may wait, more than a process may have mappings."""

_CIFAR_SHAPE = (32, 32, 3)
_LONGEST = 16
"""Characters of the longest variant that is spelled out in an architecture's label."""


def convert(
    src: str | Path,
    out: str | Path | None,
    *,
    format: str = "auto",
    data: str | Path | None = None,
    facts: Mapping[str, Any] = _NOTHING,
    reading: Reading = USUAL,
    dry_run: bool = False,
    show_progress: bool = True,
) -> Report:
    """Convert the checkpoints of `src`, a file, a folder or a tree, into the zoo `out`; what is there already stays.

        src: where the checkpoints are.
        out: the folder of the zoo; may be None with `dry_run`.
        format: a layout (see `converters.layouts`), or "auto", where each file goes to the layout that knows it.
        data: what the models were trained on, as `mdjax measure --data` takes it; by default what the layout says.
        facts: what neither the weights nor the layout tell of the networks, such as `{"nonlinearity": "relu"}`; see
            `converters.recognise`.
        reading: whether averaged weights are taken, and whether files may run code.
        dry_run: read and recognise every file, and write nothing.
        show_progress: draw a bar of files.

    Of several checkpoints of one training run that a layout ranks, the first is taken; if it is damaged the model is
    refused rather than replaced by another of its checkpoints. Weights that are not finite are converted; the zoo's
    manifest says so in `status`. A killed run goes on where it stopped, and files added to `src` are added to the zoo.
    Memory: see MAX_BYTES.

    Raises InputError where torch is missing, `src` holds no checkpoints, there is no such fact, the data is unclear,
    or `out` cannot be written or holds a zoo of other data.
    """
    require_torch()
    families.check_facts(facts)
    candidates, outcomes = _choose(layouts.find(src, format), ema=reading.ema)
    trained = _trained_on(data, candidates)
    zoo = _open(out, trained, dry_run=dry_run)
    present = set() if zoo is None else set(zoo.manifest["model_id"])
    outcomes += [
        Outcome(c.path, OutcomeCode.SKIPPED, "already in the zoo") for c in candidates if c.model_id in present
    ]
    remaining = [candidate for candidate in candidates if candidate.model_id not in present]
    shape = {} if trained.input_shape is None else {"input_shape": trained.input_shape}
    done = len(candidates) - len(remaining)
    with progress("converting", len(candidates), done=done, show=show_progress) as advance:
        groups = _Groups(None if dry_run else zoo)
        for candidate in remaining:
            try:
                given = {**candidate.facts, **shape, **facts}
                architecture, row, model, notes = _read(candidate, given, reading)
            except RefusedError as error:
                outcomes.append(Outcome(candidate.path, OutcomeCode.REFUSED, str(error)))
            else:
                groups.add(architecture, row, model)
                outcomes.append(Outcome(candidate.path, OutcomeCode.CONVERTED, notes, label(architecture)))
            advance()
        groups.write_all()
    written = None if dry_run or out is None else Path(out)
    return Report(written, tuple(sorted(outcomes, key=lambda outcome: outcome.path)))


def label(architecture: Architecture) -> str:
    """A short name that tells architectures apart but for their input, as in `resnet18-w4-d18-c10`."""
    parts = [architecture.family, f"w{architecture.width}", f"d{architecture.depth}", f"c{architecture.num_classes}"]
    variant = architecture.variant
    if len(variant) > _LONGEST:
        variant = hashlib.blake2b(variant.encode(), digest_size=3).hexdigest()
    return "-".join([*parts, variant] if variant else parts)


@dataclasses.dataclass(frozen=True)
class _Trained:
    """The data that the models were trained on: its name for the zoo, and what is known of it without reading it."""

    name: str
    fingerprint: str | None = None
    input_shape: tuple[int, ...] | None = None


def _trained_on(data: str | Path | None, candidates: Iterable[Candidate]) -> _Trained:
    if data is not None:
        if str(data) == "cifar10" or str(data).startswith("cifar10:") or Path(data).is_dir():
            return _Trained(str(data), input_shape=_CIFAR_SHAPE)  # not read: it is large, and its shape is known
        dataset = load(data)
        return _Trained(str(data), dataset.fingerprint, dataset.input_shape)
    names = sorted({candidate.data for candidate in candidates} - {""})
    if len(names) > 1:
        raise InputError(
            f"The checkpoints were trained on {' and '.join(names)}, but a zoo's models share their data. "
            "Convert one folder at a time, or name the data with --data."
        )
    return _Trained(names[0] if names else "")


def _open(out: str | Path | None, trained: _Trained, *, dry_run: bool) -> Zoo | None:
    """The zoo to fill; where nothing is to be written, the one that is there, or None."""
    there = out is not None and (Path(out) / "zoo.json").exists()
    if dry_run:
        return Zoo(out) if there and out is not None else None
    if out is None:
        raise InputError("No place for the zoo. Name it: --out ZOO (or ask for a trial run: --dry-run).")
    # Where the checkpoints do not tell their data, a zoo that is there does.
    name = Zoo(out).data if there and not trained.name else trained.name
    return Zoo.create(out, data=name, fingerprint=trained.fingerprint)


def _choose(found: Iterable[Candidate | Outcome], *, ema: bool) -> tuple[list[Candidate], list[Outcome]]:
    """One checkpoint per model, sorted by configuration, and what became of the other files."""
    models: dict[str, list[Candidate]] = {}
    outcomes = []
    for claim in found:
        if isinstance(claim, Outcome):
            outcomes.append(claim)
        else:
            models.setdefault(claim.model_id, []).append(claim)
    chosen = []
    for members in models.values():
        first, *others = sorted(members, key=lambda candidate: (candidate.rank, candidate.path))
        chosen.append(_averaged(first) if ema else first)
        for other in others:
            if other.path.parent == first.path.parent:
                outcomes.append(
                    Outcome(other.path, OutcomeCode.SKIPPED, "another checkpoint of its training run is preferred")
                )
            else:
                reason = f"its folders and number are those of {first.path} too; convert one tree at a time"
                outcomes.append(Outcome(other.path, OutcomeCode.REFUSED, reason))
    return sorted(chosen, key=lambda c: (c.configuration, c.seed, c.path)), outcomes


def _averaged(candidate: Candidate) -> Candidate:
    """The same file's averaged weights are another model."""
    return dataclasses.replace(
        candidate,
        model_id=f"{candidate.model_id}-ema",
        configuration=f"{candidate.configuration}-ema",
        known={**candidate.known, "checkpoint": "ema"},
    )


def _read(
    candidate: Candidate, facts: Mapping[str, Any], reading: Reading
) -> tuple[Architecture, dict[str, Any], Any, str]:
    """The architecture, manifest row, (params, state) and notes of one file; raises RefusedError with the reason."""
    checkpoint = read_checkpoint(candidate.path, reading)
    try:
        architecture = families.recognise(checkpoint.arrays, facts)
        if candidate.width not in (None, architecture.width):
            raise RefusedError(f"its width is {architecture.width}, but its folder says {candidate.width}")
        model = families.to_flax(checkpoint.arrays, architecture)
    except RefusedError:
        raise
    except Exception as error:  # whatever a file holds, the others are converted
        raise RefusedError(f"its entries make no network: {first_line(error)}") from None
    row = candidate.row
    row |= {name: value for name, value in known_facts(checkpoint.facts).items() if row.get(name) is None}
    # The seeds of a configuration are compared with each other: two kinds of network in a folder are two of them.
    if candidate.width is None:
        row["configuration"] = f"{candidate.configuration}-{label(architecture)}"
    return architecture, row, model, "; ".join(checkpoint.notes)


class _Groups:
    """Converted models that wait to be written, by architecture; without a zoo they are only counted."""

    def __init__(self, zoo: Zoo | None):
        self._zoo = zoo
        self._waiting: dict[Architecture, list[tuple[Mapping[str, Any], Any]]] = {}
        self._bytes: dict[Architecture, int] = {}

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
        if size < _COPIED:
            model = jax.tree.map(np.array, model)
        self._waiting.setdefault(architecture, []).append((row, model))
        self._bytes[architecture] = self._bytes.get(architecture, 0) + size

    def write_all(self) -> None:
        for architecture in list(self._waiting):
            self._write(architecture, len(self._waiting[architecture]))

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
