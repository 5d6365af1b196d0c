"""Names of entries that reading took a prefix off, as the module calls them that has it."""

from collections.abc import Collection

from converters.folding import PREFIXES


def prefix_of(names: Collection[str], expected: Collection[str]) -> str:
    """What stands before every name of `expected` that names here lack, as in a module that keeps all in `self.net`.

    "" where they are the same, or differ in something else.
    """
    prefix = ""
    while set(names) != {name.removeprefix(prefix) for name in expected}:
        rest = [name.removeprefix(prefix) for name in expected]
        shared = next((text for text in PREFIXES if rest and all(name.startswith(text) for name in rest)), None)
        if shared is None:
            return ""
        prefix += shared
    return prefix
