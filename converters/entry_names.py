"""Names of entries that reading took a prefix off, as the module calls them that has it."""

from collections.abc import Collection

from converters.folding import PREFIXES


def prefix_of(names: Collection[str], expected: Collection[str]) -> str:
    """What stands before every name of `expected` and was taken off these, as of a module that keeps all in `self.net`.

    "" where nothing was.
    """
    prefix, rest = "", list(expected)
    while shared := next((text for text in PREFIXES if rest and all(name.startswith(text) for name in rest)), ""):
        prefix += shared
        rest = [name.removeprefix(shared) for name in rest]
    taken_off = set(names) == set(rest) or not any(name.startswith(prefix) for name in names)
    return prefix if taken_off else ""
