"""Files → groups of a zoo, in bounded memory: whatever cannot be taken is reported, and the rest goes on."""

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypedDict, Unpack

import pandas as pd

from converters import layouts
from converters.families.keys import nonlinearity
from converters.groups import Groups
from converters.identities import Identities, clusters, seed_notes, settled
from converters.layouts.contract import Candidate
from converters.naming import NETWORK, Given, Override, Statements, overrides
from converters.own_modules import OwnModule, python_lines
from converters.readers import Found, Manner, Reader, Refusal, num_readers, readers
from converters.recognition import label, same_inputs
from converters.reports import Note, NoteCode, Outcome, OutcomeCode, Report
from converters.state_dicts import Reading, require_torch
from mdjax.errors import InputError, check_options
from mdjax.files import place
from mdjax.models.architecture import shape_text
from mdjax.models.sequences import NONLINEARITIES
from mdjax.progress import progress
from mdjax.zoo.data import absolute, is_cifar10, load
from mdjax.zoo.store import Zoo

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_CIFAR_SHAPE = (32, 32, 3)
_MOST_SEEDS = 45
"""Seeds of a configuration that measuring still compares all with each other, within 1,000 pairs."""


class Options(TypedDict, total=False):
    """What else a conversion may be told.

    `name`: a pattern that files' names fit, and `facts_file`: a CSV file with facts of each; see
    `converters.naming.Statements`. `module`: the network's own torch.nn.Module, or its code as "FILE.py:CLASS", for
    networks of no known family; see `converters.specifications`. `ema`: take the averaged weights beside the others.
    `trust`: let files run code of their own. `dry_run`: read and recognise every file, and write nothing.
    `show_progress` (default True): draw a bar of files. `workers`: processes of their own that read, each of which may
    die alone (default 0: this one reads; "auto": one for each core, where there are more than a thousand files).
    """

    name: str | None
    facts_file: str | Path | None
    module: Any
    ema: bool
    trust: bool
    dry_run: bool
    show_progress: bool
    workers: int | str


def convert(
    src: str | Path,
    out: str | Path | None,
    *,
    format: str = "auto",
    data: str | Path | None = None,
    facts: Mapping[str, Any] = _NOTHING,
    **options: Unpack[Options],
) -> Report:
    """Convert the checkpoints of `src`, a file, a folder or a tree, into the zoo `out`; what is there already stays.

        src: where the checkpoints are.
        out: the folder of the zoo; may be None with `dry_run`.
        format: a layout (see `converters.layouts`), or "auto", where each file goes to the layout that knows it.
        data: what the models were trained on, as `mdjax measure --data` takes it; by default what the layout says.
        facts: of all files, what weights, names and configs do not tell, or tell otherwise: `{"nonlinearity": "relu"}`
            and what else `converters.recognise` takes, or training facts by their column, `{"label_noise": 0}`.
        options: see `Options`.

    Of several checkpoints of one training run the first by rank (best before last) is taken; if it is damaged the model
    is refused rather than replaced by another of its checkpoints. Files of one configuration with equal weights are one
    model; files of one configuration and one seed with different weights are refused, since they are no seeds of each
    other. Weights that are not finite are converted; the zoo's manifest says so in `status`. An input shape that
    neither data nor facts tell stays open in the manifest. A killed run goes on where it stopped, and files added to
    `src` are added to the zoo. Memory: see `converters.groups.MAX_BYTES`.

    Raises InputError where torch is missing, `src` holds no checkpoints, a fact, pattern or table of facts cannot be
    read or contradicts the data, the data is unclear, or `out` cannot be written, holds a zoo of other data or is
    being written by another process.
    """
    check_options("convert", options, Options)
    require_torch()
    out = None if out is None else place(out)
    dry_run = options.get("dry_run", False)
    reading = Reading(ema=options.get("ema", False), trust=options.get("trust", False))
    said = Statements(Path(src), facts, options.get("name"), options.get("facts_file"))
    code = options.get("module")
    module = None if code is None else OwnModule(code)
    workers = options.get("workers", 0)
    num_readers(workers, 0, module)  # refuses what cannot be before anything is read
    candidates, outcomes = _choose(layouts.find(src, format), ema=reading.ema)
    trained = _trained_on(data, candidates)
    _check_facts(said.facts, trained, module)
    zoo = _open(out, trained, dry_run=dry_run)
    with contextlib.nullcontext() if zoo is None or dry_run else zoo.writing():
        rows: list[Any] = [] if zoo is None else zoo.manifest.to_dict("records")
        present = {str(row["model_id"]): row for row in rows}
        remaining: list[Given] = []
        for candidate in candidates:
            given = said.of(candidate)
            if isinstance(given, Outcome):
                outcomes.append(given)
            elif candidate.model_id in present:
                outcomes.append(_present(given, present[candidate.model_id]))
            else:
                remaining.append(given)
        identities = Identities(None if zoo is None else zoo.manifest, candidates)
        count = num_readers(workers, len(remaining), module)
        kept_in = None if dry_run or zoo is None else place(zoo.path)
        show, done = options.get("show_progress", True), len(candidates) - len(remaining)
        with (
            readers(count if remaining else 0, Manner(trained.input_shape, reading, module), kept_in) as reader,
            progress("converting", len(candidates), done=done, show=show) as advance,
        ):
            work = _Work(None if dry_run else zoo, identities, reader)
            found = clusters(remaining)
            reader.expect((given, work.keeps(cluster)) for cluster in found for given in cluster)
            for cluster in found:
                work.add(cluster)
                for _ in cluster:
                    advance()
            work.groups.write_all()
    written = None if dry_run else out
    outcomes = sorted([*outcomes, *work.outcomes], key=lambda outcome: outcome.path)
    return Report(written, tuple(outcomes), tuple(work.notes(reading, module, trained)))


@dataclasses.dataclass(frozen=True)
class _Trained:
    """The data that the models were trained on: its name for the zoo, and what is known of it without reading it."""

    name: str
    fingerprint: str | None = None
    input_shape: tuple[int, ...] | None = None


def _trained_on(data: str | Path | None, candidates: Iterable[Candidate]) -> _Trained:
    if data is not None:
        name = absolute(str(data))
        if is_cifar10(name):
            return _Trained(name, input_shape=_CIFAR_SHAPE)  # not read: it is large, and its shape is known
        dataset = load(name)
        return _Trained(name, dataset.fingerprint, dataset.input_shape)
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
    # Where the checkpoints do not tell their data, a zoo that is there does; and it may name them from this folder.
    known = Zoo(out).data if there else ""
    name = known if trained.name in ("", absolute(known)) else trained.name
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


def _check_facts(facts: Mapping[str, Any], trained: _Trained, module: OwnModule | None) -> None:
    """InputError for facts that could have no effect beside the data or the module that were given."""
    shape = facts.get("input_shape")
    if shape is not None and trained.input_shape is not None and not same_inputs(shape, trained.input_shape):
        raise InputError(
            f"input_shape is {shape_text(shape)}, but the data {trained.name} has inputs of "
            f"{shape_text(trained.input_shape)}. Leave one of the two out."
        )
    for name in NETWORK:
        if module is not None and name in facts and name != "input_shape":
            raise InputError(f"The module tells its {name}. Leave the fact {name} out.")


def _present(given: Given, row: Mapping[str, Any]) -> Outcome:
    """A model that the zoo has: skipped, or refused where other facts are given now than its row holds."""
    told = {**given.columns, "seed": given.candidate.seed}
    if shape := given.facts.get("input_shape"):
        told["input_shape"] = shape_text(shape)
    stored = {name: None if pd.isna(row.get(name)) else row[name] for name in told}
    differing = [name for name, value in told.items() if overrides({name: value}, stored) or stored[name] is None]
    own, held = given.candidate.configuration, str(row["configuration"])
    other = held != own and not held.startswith(f"{own}-{row['family']}-w{row['width']}-")
    words = str(row["variant"]).split()
    if "nonlinearity" in given.facts and row["family"] == "sequence":
        # In the family's spelling, as when it was recognised.
        name = nonlinearity(given.facts, tuple(NONLINEARITIES))
        differing += ["nonlinearity"] if name not in words else []
    if not differing and not other:
        return Outcome(given.candidate.path, OutcomeCode.SKIPPED, "already in the zoo")
    name = differing[0] if differing else "configuration"
    value = " ".join(word for word in words if word in NONLINEARITIES) if name == "nonlinearity" else row.get(name)
    reason = f"already in the zoo, where its {name} is {value}; convert into a new folder to say otherwise"
    return Outcome(given.candidate.path, OutcomeCode.REFUSED, reason)


class _Work:
    """The files that are read one after another: the models, what became of the files, what there is to say.

    zoo: to be filled; None in a trial run.
    identities: the models that are in the zoo.
    reader: reads files.
    """

    def __init__(self, zoo: Zoo | None, identities: Identities, reader: Reader):
        self.groups = Groups(zoo)
        self.outcomes: list[Outcome] = []
        self._zoo, self._identities, self._reader = zoo, identities, reader
        self._taken: dict[str, list[Candidate]] = {}
        self._overridden: dict[Override, list[Path]] = {}
        self._misnamed: dict[Override, list[Path]] = {}
        self._unknown: list[Path] = []

    def keeps(self, cluster: Sequence[Given]) -> bool:
        """Whether the arrays of these files are kept as they are read first."""
        return self._zoo is not None and len(cluster) == 1

    def add(self, cluster: Sequence[Given]) -> None:
        """Read the files that names say are one training run, or one seed, and keep those that are to be taken.

        Of several files only the identities are kept at first, and those taken are read again.
        """
        read = [(given, self._read(given, keep=self.keeps(cluster))) for given in cluster]
        failed = [given.candidate for given, found in read if found is None]
        members: dict[Path, tuple[Given, Found]] = {}
        for given, found in read:
            one = given.candidate
            if found is None:
                continue
            if one.run and any(other.run == one.run and other.rank < one.rank for other in failed):
                reason = "another checkpoint of its training run is preferred, which is refused"
                self.outcomes.append(Outcome(one.path, OutcomeCode.SKIPPED, reason))
            else:
                members[one.path] = given, found
        taken, outcomes = settled([found.identity for _, found in members.values()])
        self.outcomes += outcomes
        for one in taken:
            given, found = members[one.candidate.path]
            if (problem := self._identities.problem_of(one)) is not None:
                self.outcomes.append(problem)
            elif self._zoo is None or found.model is not None or (found := self._read(given, keep=True)) is not None:
                self._take(given, found)

    def notes(self, reading: Reading, module: OwnModule | None, data: "_Trained") -> list[Note]:
        """What there is to say of the files beside their outcomes, which were read so, for these data."""
        found = [*self._identities.notes(), *seed_notes(self._taken, _MOST_SEEDS)]
        for (name, given, told), paths in self._overridden.items():
            sentence = f"{name} is {given} as given, not {told} as names, configs or the file say ({_counted(paths)})."
            found.append(Note(NoteCode.OVERRIDDEN, sentence))
        for (name, given, told), paths in self._misnamed.items():
            sentence = f"{name} is {told} by the weights, not {given} as names say ({_counted(paths)})."
            found.append(Note(NoteCode.NETWORK_DIFFERS, sentence))
        if self._unknown:
            lines = python_lines(self._unknown[0], reading, module, data)
            found.append(Note(NoteCode.OWN_MODULE, lines))
        return found

    def _read(self, given: Given, *, keep: bool) -> Found | None:
        """The network of a file, its arrays only with `keep`; None for a file that is refused."""
        path = given.candidate.path
        found = self._reader.read(given, keep=keep)
        if not isinstance(found, Refusal):
            return found
        if found.is_unknown:
            self._unknown.append(path)
        self.outcomes.append(Outcome(path, OutcomeCode.REFUSED, found.reason))
        return None

    def _take(self, given: Given, found: Found) -> None:
        network, candidate = found.network, given.candidate
        self._identities.add(found.identity)
        self.groups.add(network.architecture, network.row, found.model)
        notes, architecture = "; ".join(network.notes), label(network.architecture)
        self.outcomes.append(Outcome(candidate.path, OutcomeCode.CONVERTED, notes, architecture))
        self._taken.setdefault(found.identity.configuration, []).append(candidate)
        for kept, told in ((self._overridden, network.overridden), (self._misnamed, network.misnamed)):
            for override in told:
                kept.setdefault(override, []).append(candidate.path)


def _counted(paths: Sequence[Path]) -> str:
    return f"{len(paths)} files, first {paths[0]}" if len(paths) > 1 else str(paths[0])
