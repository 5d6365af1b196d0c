"""What became of the files of a conversion."""

import dataclasses
import enum
from pathlib import Path

from rich.table import Table

from mdjax.console import cell
from mdjax.escapes import printable


class OutcomeCode(enum.StrEnum):
    """What became of a file."""

    CONVERTED = "converted"
    SKIPPED = "skipped"  # rightly left out: its model is in the zoo, or another of its checkpoints is taken
    REFUSED = "refused"


class NoteCode(enum.StrEnum):
    """What a conversion has to say beside what became of the files."""

    SAME_WEIGHTS = "same_weights"  # in two configurations
    SETTINGS_DIFFER = "settings_differ"  # in the names of one configuration's files
    MANY_SEEDS = "many_seeds"  # of one configuration, from one folder
    OVERRIDDEN = "overridden"  # what a layout or a file says, by what was given
    NETWORK_DIFFERS = "network_differs"  # from what the files' names say of it
    OWN_MODULE = "own_module"  # a network that only its own code tells, and how to measure it


@dataclasses.dataclass(frozen=True)
class Note:
    """Something to know about a conversion, and its words for people."""

    code: NoteCode
    sentence: str

    def to_text(self) -> str:
        """The words in one line whatever names are in them; lines of code keep theirs."""
        return printable(self.sentence, lines=self.code is NoteCode.OWN_MODULE)


_MOST_NAMES = 20
"""Files refused for one reason, or copies, that are listed by name; the report in Python has them all."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one file, and for people why; a converted one names its `architecture`, and what was changed.

    `copy_of` is what holds the same weights already: another file, or a model of the zoo by its id.
    """

    path: Path
    status: OutcomeCode
    reason: str = ""
    architecture: str = ""
    copy_of: Path | str | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every file of a conversion, in the order of their paths, and `notes` on them.

    `zoo` is None where nothing was to be written; converted are then the files that could be.
    """

    zoo: Path | None
    outcomes: tuple[Outcome, ...]
    notes: tuple[Note, ...] = ()

    def with_status(self, status: OutcomeCode | str) -> list[Outcome]:
        """The files of one outcome."""
        return [outcome for outcome in self.outcomes if outcome.status == status]

    @property
    def converted(self) -> list[Outcome]:
        """The files whose models are in the zoo now."""
        return self.with_status(OutcomeCode.CONVERTED)

    @property
    def skipped(self) -> list[Outcome]:
        """The files that were rightly left out."""
        return self.with_status(OutcomeCode.SKIPPED)

    @property
    def copies(self) -> list[Outcome]:
        """The skipped files that hold the weights of another model of their configuration."""
        return [outcome for outcome in self.outcomes if outcome.copy_of is not None]

    @property
    def refused(self) -> list[Outcome]:
        """The files that could not be taken."""
        return self.with_status(OutcomeCode.REFUSED)

    @property
    def exit_code(self) -> int:
        """Of the command: 1 if any file was refused, else 0."""
        return int(bool(self.refused))

    def table(self) -> Table:
        """For the terminal: converted files counted by architecture, skipped ones by reason, copies and refused ones by
        name."""
        title = "nothing written" if self.zoo is None else str(self.zoo)
        table = Table("outcome", "files", "architecture or reason", title=cell(title))
        counted = (
            (
                "would be converted" if self.zoo is None else "converted",
                [f"{one.architecture} ({one.reason})" if one.reason else one.architecture for one in self.converted],
            ),
            ("skipped", [one.reason for one in self.skipped if one.copy_of is None]),
        )
        for shown, texts in counted:
            for text in sorted(set(texts)) or [""]:
                table.add_row(shown, str(texts.count(text)), cell(text))
        for outcome in self.copies[:_MOST_NAMES]:
            table.add_row("skipped", cell(str(outcome.path), overflow="fold"), cell(outcome.reason))
        if (more := len(self.copies) - _MOST_NAMES) > 0:
            table.add_row("skipped", f"{more} more", "copies")
        refused: dict[str, list[Outcome]] = {}
        refusal = cell("refused", style="red")
        for outcome in self.refused:
            refused.setdefault(outcome.reason, []).append(outcome)
        for reason, outcomes in refused.items():
            for outcome in outcomes[:_MOST_NAMES]:
                table.add_row(refusal, cell(str(outcome.path), overflow="fold"), cell(reason))
            if (more := len(outcomes) - _MOST_NAMES) > 0:
                table.add_row(refusal, f"{more} more", cell(reason))
        return table
