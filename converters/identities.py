"""Which models are one and the same, and which are no seeds of each other: by their weights and what names say."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from converters.layouts.contract import Candidate
from converters.naming import Given, settings_in, suggestion, words_in
from converters.reports import Note, NoteCode, Outcome, OutcomeCode
from mdjax.statuses import StatusCode
from mdjax.zoo.store import weights_hash

_MOST_LISTED = 3


class Identity(NamedTuple):
    """A model that was read: its configuration, and a digest of its weights ("" for such as are not finite).

    Networks that diverged to NaN are alike and yet no copies.
    """

    candidate: Candidate
    configuration: str
    digest: str


def identity(candidate: Candidate, configuration: str, model: Any) -> Identity:
    """The identity of one model, (params, state). Cost: one pass over its arrays."""
    return Identity(candidate, configuration, digest_of(model))


def digest_of(model: Any) -> str:
    """A digest of the weights of one model, (params, state); "" where they are not all finite."""
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(model)):
        return ""
    (digest,) = weights_hash(*jax.tree.map(lambda leaf: np.asarray(leaf)[None], model))
    return digest


class Identities:
    """The models that a zoo has or is to have.

    manifest: of the zoo, or None.
    candidates: all of the conversion, those in the zoo too.
    """

    def __init__(self, manifest: pd.DataFrame | None, candidates: Sequence[Candidate]):
        self._within: dict[tuple[str, str], Path | str] = {}
        self._first: dict[str, tuple[str, Path | str]] = {}
        self._seeds: dict[tuple[str, int], Path | str] = {}
        self._shared: list[tuple[Path | str, Path | str]] = []
        paths = {candidate.model_id: candidate for candidate in candidates}
        if manifest is None:
            return
        columns = ["model_id", "configuration", "seed", "weights_hash", "status_code"]
        for model_id, configuration, seed, digest, status in manifest[columns].itertuples(index=False):
            known = paths.get(model_id)
            name = model_id if known is None else known.path
            if status == StatusCode.OK:
                self._within.setdefault((configuration, digest), name)
                self._first.setdefault(digest, (configuration, name))
            if known is None or not known.counted:
                self._seeds.setdefault((configuration, int(seed)), name)

    def problem_of(self, found: Identity) -> Outcome | None:
        """Why a model cannot be added: its configuration has these weights, or this seed with others."""
        path, seed = found.candidate.path, found.candidate.seed
        if found.digest and (original := self._within.get((found.configuration, found.digest))) is not None:
            return copy(path, original)
        other = None if found.candidate.counted else self._seeds.get((found.configuration, seed))
        return None if other is None else _clash(path, other, found)

    def add(self, found: Identity) -> None:
        """Count a model among those of the zoo."""
        name = found.candidate.path
        if not found.candidate.counted:
            self._seeds[found.configuration, found.candidate.seed] = name
        if not found.digest:
            return
        self._within[found.configuration, found.digest] = name
        configuration, first = self._first.setdefault(found.digest, (found.configuration, name))
        # Networks that were not trained yet are alike wherever they start from one seed.
        if configuration != found.configuration and found.candidate.known.get("epochs") != 0:
            self._shared.append((first, name))

    def notes(self) -> list[Note]:
        """The models of different configurations that hold the same weights."""
        if not self._shared:
            return []
        listed = "; ".join(f"{first} and {name}" for first, name in self._shared[:_MOST_LISTED])
        more = f"; and {len(self._shared) - _MOST_LISTED} more" if len(self._shared) > _MOST_LISTED else ""
        sentence = (
            f"The same weights are in two configurations: {listed}{more}. Check that no file was copied by mistake."
        )
        return [Note(NoteCode.SAME_WEIGHTS, sentence)]


def settled(members: Sequence[Identity]) -> tuple[list[Identity], list[Outcome]]:
    """Of files that names say are one training run, or one seed: those to take, and what becomes of the others."""
    taken: list[Identity] = []
    outcomes: list[Outcome] = []
    configurations: dict[str, list[Identity]] = {}
    for member in sorted(members, key=lambda found: (found.candidate.rank, found.candidate.path)):
        configurations.setdefault(member.configuration, []).append(member)
    for alike in configurations.values():
        originals: dict[str, Identity] = {}
        for member in alike:
            key = member.digest or str(member.candidate.path)
            if (original := originals.setdefault(key, member)) is not member:
                outcomes.append(copy(member.candidate.path, original.candidate.path))
        first, *others = originals.values()
        clashing = [other for other in others if _run(other) != _run(first)]
        if clashing:
            outcomes.append(_clash(first.candidate.path, clashing[0].candidate.path, first))
            outcomes += [_clash(other.candidate.path, first.candidate.path, other) for other in others]
            continue
        taken.append(first)
        reason = f"another checkpoint of its training run is preferred: {first.candidate.path}"
        outcomes += [Outcome(other.candidate.path, OutcomeCode.SKIPPED, reason) for other in others]
    return taken, outcomes


def clusters(files: Sequence[Given]) -> list[list[Given]]:
    """The files in their order, those together that names say are one training run or one seed."""
    found: dict[tuple[str, int | str], list[Given]] = {}
    for given in files:
        candidate = given.candidate
        key = candidate.run if candidate.counted else candidate.seed
        found.setdefault((candidate.configuration, key), []).append(given)
    return list(found.values())


def copy(path: Path, original: Path | str) -> Outcome:
    """The outcome of a file whose weights are there already."""
    return Outcome(path, OutcomeCode.SKIPPED, f"a copy of {original}: the same weights", copy_of=original)


def _run(found: Identity) -> str:
    return found.candidate.run or found.candidate.model_id


def _clash(path: Path, other: Path | str, found: Identity) -> Outcome:
    pattern = suggestion([path.name, Path(other).name])
    reason = (
        f"{path.name} and {other} are two trainings with the seed {found.candidate.seed} in one configuration, "
        f"{found.configuration}, and no seeds of each other; say what names mean with --name {pattern!r}, or give "
        "--facts FILE.csv"
    )
    return Outcome(path, OutcomeCode.REFUSED, reason)


def seed_notes(taken: Mapping[str, Sequence[Candidate]], most: int) -> list[Note]:
    """What to say of configurations that are a folder each: of too many seeds, or of settings that seem to differ.

    taken: configuration → its models.
    most: seeds that are compared with each other, each with each.
    """
    notes = []
    for configuration, members in taken.items():
        names = [member.path.name for member in members if member.by_folder]
        told: dict[str, dict[str, str]] = {}
        for name in names:
            for column, value in settings_in(name).items():
                told.setdefault(column, {}).setdefault(value, name)
        different = {
            column: list(values.values())[:2]
            for column, values in told.items()
            if len(values) > 1 and f"{column}=" not in configuration
        }
        if words := _other_words([member.path.name for member in members if member.by_folder and member.counted]):
            different["setting"] = words
        if len(names) > most:
            pattern = suggestion(next(iter(different.values()), [names[0], names[-1]]))
            notes.append(
                Note(
                    NoteCode.MANY_SEEDS,
                    f"{len(names)} files of {members[0].path.parent} count as {len(names)} seeds of one configuration, "
                    f"{configuration}, of which measuring compares 1,000 pairs. If their names tell several settings, "
                    f"say so with --name {pattern!r}.",
                )
            )
        for column, (first, second) in different.items():
            notes.append(
                Note(
                    NoteCode.SETTINGS_DIFFER,
                    f"{first} and {second} count as seeds of one configuration, {configuration}, but their names "
                    f"seem to tell another {column}. If so, say it with --name {suggestion([first, second])!r}.",
                )
            )
    return notes


def _other_words(names: Sequence[str]) -> list[str]:
    """Two names that differ in words, where words or indices come again: `adam_0.pt` and `sgd_0.pt`; or none."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        words, index = words_in(name)
        if index:
            found.setdefault(words, []).append((index, name))
    first, *others = found.values() or [[]]
    indices = [index for members in (first, *others) for index, _ in members]
    if not others or len(set(indices)) == len(indices) == len(found):
        return []
    alike = next((name for members in others for index, name in members if index == first[0][0]), others[0][0][1])
    return [first[0][1], alike]
