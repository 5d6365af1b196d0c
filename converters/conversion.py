"""Files → groups of a zoo, in bounded memory: whatever cannot be taken is reported, and the rest goes on."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from rich.table import Table
from rich.text import Text

from converters import taxonomy
from converters.state_dicts import RefusedError, read_arrays, require_torch
from converters.taxonomy import Checkpoint
from mdjax.progress import progress
from mdjax.zoo import Zoo

MAX_MODELS = 64
MAX_BYTES = 2**30
"""Limits of a group, which is held in memory while it is filled: 64 models, or as many as fit one GiB.

Writing a group copies it: with the widest published models (179 MB each) the whole process took 3.4 GB.
"""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one file; `reason` is empty for a converted one."""

    path: Path
    status: Literal["converted", "skipped", "refused"]
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every file of a conversion, in the order of their paths."""

    zoo: Path
    outcomes: tuple[Outcome, ...]

    def with_status(self, status: str) -> list[Outcome]:
        """The outcomes of one status: "converted", "skipped" or "refused"."""
        return [outcome for outcome in self.outcomes if outcome.status == status]

    @property
    def exit_code(self) -> int:
        """1 if any file was refused, else 0."""
        return int(bool(self.with_status("refused")))

    def table(self) -> Table:
        """For the terminal: converted and skipped files counted by reason, refused ones by name."""
        table = Table("outcome", "files", "reason", title=Text(str(self.zoo)))
        for status in ("converted", "skipped"):
            reasons = [outcome.reason for outcome in self.with_status(status)]
            for reason in sorted(set(reasons)) or [""]:
                table.add_row(status, str(reasons.count(reason)), Text(reason))
        for outcome in self.with_status("refused"):
            table.add_row("[red]refused[/]", Text(str(outcome.path), overflow="fold"), Text(outcome.reason))
        return table


def convert(src: str | Path, out: str | Path, *, show_progress: bool = True) -> Report:
    """Convert the published ResNet-18 checkpoints under `src` into the zoo `out`; what is there already stays.

    Of several checkpoints of one training run the published analyses' choice is taken: early-stopped, else best,
    else the last. If that file is damaged the model is refused rather than replaced by another of its checkpoints.
    Weights that are not finite are converted; the zoo's manifest says so in `status`. A killed run goes on where it
    stopped, and files added to `src` are added to the zoo. Memory: one group, see MAX_BYTES.

    Raises InputError where torch is missing, `src` holds no checkpoints, or `out` cannot be written or holds a zoo
    of other data.
    """
    require_torch()
    chosen, outcomes = _choose(taxonomy.find(Path(src)))
    zoo = Zoo.create(out, data=taxonomy.DATA)
    present = set(zoo.manifest["model_id"])
    outcomes += [Outcome(c.path, "skipped", "already in the zoo") for c in chosen if c.model_id in present]
    remaining = [checkpoint for checkpoint in chosen if checkpoint.model_id not in present]
    with progress("converting", len(chosen), done=len(chosen) - len(remaining), show=show_progress) as advance:
        for series, members in itertools.groupby(remaining, key=lambda checkpoint: checkpoint.series):
            for checkpoints in _split(members):
                outcomes += _convert_group(zoo, _free_name(zoo, series), checkpoints, advance)
    return Report(Path(out), tuple(sorted(outcomes, key=lambda outcome: outcome.path)))


def _choose(found: Iterable[tuple[Path, Checkpoint | str]]) -> tuple[list[Checkpoint], list[Outcome]]:
    """One checkpoint per model, sorted, and what became of the other files."""
    models: dict[str, list[Checkpoint]] = {}
    outcomes = []
    for path, checkpoint in found:
        if isinstance(checkpoint, str):
            outcomes.append(Outcome(path, "refused", checkpoint))
        else:
            models.setdefault(checkpoint.model_id, []).append(checkpoint)
    chosen = []
    for candidates in models.values():
        first, *others = sorted(candidates, key=taxonomy.preference)
        chosen.append(first)
        for other in others:
            if other.path.parent == first.path.parent:
                outcomes.append(Outcome(other.path, "skipped", "another checkpoint of its training run is preferred"))
            else:
                reason = f"its folders and number are those of {first.path} too; convert one tree at a time"
                outcomes.append(Outcome(other.path, "refused", reason))
    return sorted(chosen), outcomes


def _split(checkpoints: Iterable[Checkpoint]) -> Iterator[list[Checkpoint]]:
    """Groups within the limits; a configuration's seeds, which are measured together, stay together if they can."""
    group: list[Checkpoint] = []
    for _, members in itertools.groupby(checkpoints, key=lambda checkpoint: checkpoint.configuration):
        seeds = list(members)
        shapes = taxonomy.architecture_of(seeds[0].width).abstract
        size = sum(4 * leaf.size for leaf in jax.tree.leaves(shapes))
        limit = max(1, min(MAX_MODELS, MAX_BYTES // size))
        if group and len(group) + len(seeds) > limit:
            yield group
            group = []
        group += seeds
        while len(group) > limit:
            yield group[:limit]
            group = group[limit:]
    if group:
        yield group


def _free_name(zoo: Zoo, series: str) -> str:
    """Numbered, so that a second conversion can add to a series what the first one did not find or finish."""
    taken = set(zoo.groups)
    return next(name for number in itertools.count() if (name := f"{series}-{number}") not in taken)


def _convert_group(zoo: Zoo, name: str, checkpoints: list[Checkpoint], advance: Callable[..., None]) -> list[Outcome]:
    architecture = taxonomy.architecture_of(checkpoints[0].width)
    taken: list[Checkpoint] = []
    refused = []
    stacks: Any = None
    for checkpoint in checkpoints:
        try:
            model = taxonomy.convert_arrays(read_arrays(checkpoint.path), architecture)
        except RefusedError as error:
            refused.append(Outcome(checkpoint.path, "refused", str(error)))
        else:
            if stacks is None:
                stacks = jax.tree.map(lambda leaf: np.empty((len(checkpoints), *leaf.shape), leaf.dtype), model)
            for stack, leaf in zip(jax.tree.leaves(stacks), jax.tree.leaves(model), strict=True):
                stack[len(taken)] = leaf
            taken.append(checkpoint)
        advance()
    if taken:
        params, state = jax.tree.map(lambda stack: stack[: len(taken)], stacks)
        zoo.append(name, architecture, [checkpoint.row for checkpoint in taken], params, state)
    return refused + [Outcome(checkpoint.path, "converted") for checkpoint in taken]
