"""Names of entries as files and modules call them: prefixes that one of the two has, several names of one array."""

from collections.abc import Collection, Mapping
from typing import Any

from converters.folding import PREFIXES

_COUNTER = "n_averaged"
_DERIVED = (("_g", "_v"), ("_orig", "_mask"))
"""Endings of the entries that older weight normalisation and pruning compute a weight from."""


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


def as_expected(entries: Mapping[str, Any], expected: Collection[str]) -> dict[str, Any]:
    """Entries with the prefix that the module's names have and reading took off, or without one that they lack.

    Wrappers put one before every name: DataParallel `module.`, torch.compile `_orig_mod.`, AveragedModel `module.`
    beside its counter `n_averaged`, which is left out.
    """
    found = dict(entries)
    while not found.keys() & set(expected):
        names = found.keys() - {_COUNTER}
        shared = next((text for text in PREFIXES if names and all(name.startswith(text) for name in names)), "")
        if not shared or (_COUNTER in found and shared != "module."):
            break
        found = {name.removeprefix(shared): value for name, value in found.items() if name != _COUNTER}
    if found.keys() & set(expected):
        return found
    prefix = prefix_of(entries.keys(), expected)
    return {f"{prefix}{name}": value for name, value in entries.items()}


def tied_names(entries: Mapping[str, Any]) -> list[list[str]]:
    """The names of each tensor in a module's `state_dict(keep_vars=True)`: of what is tied, several."""
    found: dict[int, list[str]] = {}
    for name, value in entries.items():
        found.setdefault(id(value), []).append(name)
    return list(found.values())


def completed(entries: Mapping[str, Any], groups: Collection[Collection[str]]) -> dict[str, Any]:
    """Entries under all names of what is tied: files may keep one copy of it.

    groups: names of one tensor, see `tied_names`.
    """
    found = dict(entries)
    for group in groups:
        if kept := next((name for name in group if name in entries), None):
            found = {name: entries[kept] for name in group} | found
    return found


def derived_from(name: str) -> list[set[str]]:
    """The entries that a weight of this name may be computed from: by weight normalisation, old or new, or pruning."""
    owner, dot, leaf = name.rpartition(".")
    parametrized = {f"{owner}{dot}parametrizations.{leaf}.original{number}" for number in (0, 1)}
    return [parametrized, *({f"{name}{ending}" for ending in endings} for endings in _DERIVED)]
