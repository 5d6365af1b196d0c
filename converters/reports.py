"""What became of the files of a conversion."""

import dataclasses
import enum
from pathlib import Path

from rich.table import Table
from rich.text import Text


class OutcomeCode(enum.StrEnum):
    """What became of a file."""

    CONVERTED = "converted"
    SKIPPED = "skipped"  # rightly left out: its model is in the zoo, or another of its checkpoints is taken
    REFUSED = "refused"


_MOST_NAMES = 20
"""Files refused for one reason that are listed by name; the report in Python has them all."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one file, and for people why; a converted one names its `architecture`, and what was changed."""

    path: Path
    code: OutcomeCode
    reason: str = ""
    architecture: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every file of a conversion, in the order of their paths.

    `zoo` is None where nothing was to be written; converted are then the files that could be.
    """

    zoo: Path | None
    outcomes: tuple[Outcome, ...]

    @property
    def converted(self) -> list[Outcome]:
        """The files whose models are in the zoo now."""
        return self._with_code(OutcomeCode.CONVERTED)

    @property
    def skipped(self) -> list[Outcome]:
        """The files that were rightly left out."""
        return self._with_code(OutcomeCode.SKIPPED)

    @property
    def refused(self) -> list[Outcome]:
        """The files that could not be taken."""
        return self._with_code(OutcomeCode.REFUSED)

    @property
    def exit_code(self) -> int:
        """Of the command: 1 if any file was refused, else 0."""
        return int(bool(self.refused))

    def table(self) -> Table:
        """For the terminal: converted files counted by architecture, skipped ones by reason, refused ones by name."""
        title = "nothing written" if self.zoo is None else str(self.zoo)
        table = Table("outcome", "files", "architecture or reason", title=Text(title))
        counted = (
            (
                "would be converted" if self.zoo is None else "converted",
                [f"{one.architecture} ({one.reason})" if one.reason else one.architecture for one in self.converted],
            ),
            ("skipped", [one.reason for one in self.skipped]),
        )
        for shown, texts in counted:
            for text in sorted(set(texts)) or [""]:
                table.add_row(shown, str(texts.count(text)), Text(text))
        refused: dict[str, list[Outcome]] = {}
        for outcome in self.refused:
            refused.setdefault(outcome.reason, []).append(outcome)
        for reason, outcomes in refused.items():
            for outcome in outcomes[:_MOST_NAMES]:
                table.add_row("[red]refused[/]", Text(str(outcome.path), overflow="fold"), Text(reason))
            if (more := len(outcomes) - _MOST_NAMES) > 0:
                table.add_row("[red]refused[/]", f"{more} more", Text(reason))
        return table

    def _with_code(self, code: OutcomeCode) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.code == code]
