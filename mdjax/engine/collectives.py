"""A compiled program's text → how often its devices wait for each other's numbers."""

import re

_COLLECTIVE = re.compile(
    # An asynchronous one is begun and ended by two instructions, and counts once. Comments number the parts of a tuple.
    r"= (?:[^=]|/\*index=\d+\*/)*?\s"
    r"(?:all-gather|all-reduce|all-to-all|ragged-all-to-all|collective-permute|collective-broadcast|reduce-scatter)(?:-start)?\("
)


def num_collectives(text: str) -> int:
    """How many instructions of a program exchange numbers between devices; those of a loop's body count once.

    text: of the compiled program (`jax.stages.Compiled.as_text`).
    """
    return sum(1 for line in text.splitlines() if _COLLECTIVE.search(line))
