"""What became of the files of a conversion."""

import dataclasses
from pathlib import Path
from typing import Literal

from rich.table import Table
from rich.text import Text

Status = Literal["converted", "skipped", "refused"]

_MOST_NAMES = 20
"""Files refused for one reason that are listed by name; the report in Python has them all."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one file; `reason` is empty for a converted one, whose `architecture` is named instead."""

    path: Path
    status: Status
    reason: str = ""
    architecture: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every file of a conversion, in the order of their paths.

    `zoo` is None, and "converted" means that a file could be, where nothing was to be written.
    """

    zoo: Path | None
    outcomes: tuple[Outcome, ...]

    def with_status(self, status: str) -> list[Outcome]:
        """The outcomes of one status: "converted", "skipped" or "refused"."""
        return [outcome for outcome in self.outcomes if outcome.status == status]

    @property
    def exit_code(self) -> int:
        """1 if any file was refused, else 0."""
        return int(bool(self.with_status("refused")))

    def table(self) -> Table:
        """For the terminal: converted files counted by architecture, skipped ones by reason, refused ones by name."""
        title = "nothing written" if self.zoo is None else str(self.zoo)
        table = Table("outcome", "files", "architecture or reason", title=Text(title))
        for status, text in (("converted", "architecture"), ("skipped", "reason")):
            found = [getattr(outcome, text) for outcome in self.with_status(status)]
            shown = "would be converted" if status == "converted" and self.zoo is None else status
            for value in sorted(set(found)) or [""]:
                table.add_row(shown, str(found.count(value)), Text(value))
        refused: dict[str, list[Outcome]] = {}
        for outcome in self.with_status("refused"):
            refused.setdefault(outcome.reason, []).append(outcome)
        for reason, outcomes in refused.items():
            for outcome in outcomes[:_MOST_NAMES]:
                table.add_row("[red]refused[/]", Text(str(outcome.path), overflow="fold"), Text(reason))
            if (more := len(outcomes) - _MOST_NAMES) > 0:
                table.add_row("[red]refused[/]", f"{more} more", Text(reason))
        return table
