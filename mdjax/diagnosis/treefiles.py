"""Trees as JSON files: the format, its version, the files that come with the package, and splits as plain values.

{"format": "mdjax-trees", "version": 3, "populations": [...],
 "trees": [{"question": ..., "splits": [...], ..., "population": 0, "single_tree": ...}]}

Version 3 added the populations that trees were grown on, each once; files of version 2 are read as having none.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from mdjax.diagnosis.questions import Question, Split, Tree
from mdjax.errors import InputError, first_line
from mdjax.files import place, write_file

FORMAT, VERSION = "mdjax-trees", 3
READABLE = (2, VERSION)

SHIPPED, PUBLISHED = "shipped", "published"
NAMED = {name: Path(__file__).with_name(f"{name}_trees.json") for name in (SHIPPED, PUBLISHED)}
"""The trees that come with the package: by the default method, and by the paper's fit, grown on the same data."""


def tree_file(source: str | PathLike[str]) -> Path:
    """The file of a name in `NAMED`; anything else is a path ("./shipped" is a file of the working folder)."""
    return NAMED[source] if isinstance(source, str) and source in NAMED else Path(source)


def write_entries(entries: Iterable[Mapping[str, Any]], path: str | PathLike[str]) -> None:
    """Write descriptions of trees to one file, whole or not at all; InputError where it cannot be written."""
    populations: list[Any] = []
    trees = [dict(entry) for entry in entries]
    for entry in trees:
        population = entry.get("population")
        if population is not None:
            if population not in populations:
                populations.append(population)
            entry["population"] = populations.index(population)
    content = {"format": FORMAT, "version": VERSION, "populations": populations, "trees": trees}
    text = _on_one_line(json.dumps(content, indent=1, allow_nan=False))
    write_file(place(path), text + "\n", "Choose a file that you may write.", f"the trees to {path}")


def read_entries(source: str | PathLike[str]) -> list[Any]:
    """The descriptions in a named or given file; InputError for a missing, foreign, damaged, older or newer one."""
    path = tree_file(source)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"Cannot read the trees in {path}: {first_line(error)}. Give {', '.join(NAMED)} or a file of trees that "
            "exists."
        ) from None
    except (ValueError, RecursionError):
        raise InputError(f"{path} is not a JSON file of trees. Save it again with MDTree.save.") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is no file of MD trees. Give one that MDTree.save wrote.")
    if content.get("version") not in READABLE:
        raise InputError(
            f"{path} has version {content.get('version')!r}, expected {VERSION}. Grow and save its trees again "
            "with this version of mdjax."
        )
    entries = content.get("trees")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path} holds no trees. Grow and save them again.")
    try:
        populations = content.get("populations", [])
        return [
            {**entry, "population": None if (index := entry.get("population")) is None else populations[index]}
            for entry in entries
        ]
    except (TypeError, AttributeError, LookupError):
        raise InputError(f"{path} names a population that it does not hold. Grow and save its trees again.") from None


def _on_one_line(text: str) -> str:
    """Indented JSON with each list of plain values on one line."""
    # No string of JSON holds a line's end.
    return re.sub(r"\[\n([^\[\]{}]*)\n *\]", lambda found: "[" + re.sub(r"\n *", " ", found[1]).strip() + "]", text)


def plain_splits(tree: Tree) -> list[dict[str, Any]]:
    """A tree's splits as JSON values."""
    return [{**vars(split), "bounds": list(split.bounds)} for split in tree]


def splits_of(entries: Sequence[Mapping[str, Any]], question: Question) -> Tree:
    """The tree that `plain_splits` described; KeyError, TypeError or ValueError where it is not a whole one."""
    tree = tuple(
        Split(
            feature=str(entry["feature"]),
            threshold=float(entry["threshold"]),
            bounds=(float(entry["bounds"][0]), float(entry["bounds"][1])),
            at_most=entry["at_most"],
            above=entry["above"],
            spread=float(entry["spread"]),
        )
        for entry in entries
    )
    check_tree(tree, question)
    return tree


def check_tree(tree: Tree, question: Question) -> None:
    """Raise ValueError unless the splits make one finite tree whose leaves are classes of the question."""
    children = [child for split in tree for child in (split.at_most, split.above)]
    inner = [child for child in children if not isinstance(child, str)]
    if not all(type(child) is int for child in inner) or sorted(inner) != list(range(1, len(tree))):
        raise ValueError("its splits do not form one tree")
    reached, todo = set(), [0]
    while todo:
        index = todo.pop()
        reached.add(index)
        split = tree[index]
        todo += [child for child in (split.at_most, split.above) if not isinstance(child, str)]
    if len(reached) != len(tree):
        raise ValueError("its splits do not form one tree")
    if not {child for child in children if isinstance(child, str)} <= set(question.classes):
        raise ValueError(f"a leaf is none of {', '.join(question.classes)}")
    if not np.all(np.isfinite([split.threshold for split in tree])):
        raise ValueError("a threshold is not finite")
    if not all(np.isfinite(split.spread) and split.spread >= 0 for split in tree):
        raise ValueError("a threshold's spread is not a finite positive number or 0")


def check_leaves(num_leaves: int, counts: np.ndarray, shares: np.ndarray | None) -> None:
    """Raise ValueError unless the training rows and the probabilities at a tree's leaves are [leaves, classes]."""
    if counts.shape != (num_leaves, 2) or (counts < 0).any():
        raise ValueError(f"leaf_counts do not fit {num_leaves} leaves")
    if shares is not None and (shares.shape != counts.shape or not np.allclose(shares.sum(axis=1), 1)):
        raise ValueError(f"shares do not fit {num_leaves} leaves")
