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
from mdjax.inputs import read_json

FORMAT, VERSION = "mdjax-trees", 3
READABLE = (2, VERSION)

MOST_SPLITS, DEEPEST = 255, 16
"""Most splits of a tree, and how deep they may lie; those that are grown have at most seven, three deep."""

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
        content = read_json(path)
    except OSError as error:
        raise InputError(
            f"Cannot read the trees in {path}: {first_line(error)}. Give {', '.join(NAMED)} or a file of trees that "
            "exists."
        ) from None
    except ValueError as error:
        raise InputError(
            f"{path} is not a JSON file of trees ({first_line(error)}). Save it again with MDTree.save."
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is no file of MD trees. Give one that MDTree.save wrote.")
    if content.get("version") not in READABLE:
        raise InputError(
            f"{path} has version {str(content.get('version'))[:40]}, expected {VERSION}. Grow and save its trees again "
            "with this version of mdjax."
        )
    entries, populations = content.get("trees"), content.get("populations", [])
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{path} holds no trees. Grow and save them again.")
    indices = [entry.get("population") for entry in entries]
    known = range(len(populations) if isinstance(populations, list) else 0)
    if not all(index is None or (type(index) is int and index in known) for index in indices):
        raise InputError(f"{path} names a population that it does not hold. Grow and save its trees again.")
    return [
        {**entry, "population": None if index is None else populations[index]} for entry, index in zip(entries, indices)
    ]


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
    if not 1 <= len(tree) <= MOST_SPLITS:
        raise ValueError(f"it has {len(tree)} splits, not 1 to {MOST_SPLITS}")
    children = [child for split in tree for child in (split.at_most, split.above)]
    inner = [child for child in children if not isinstance(child, str)]
    if not all(type(child) is int for child in inner) or sorted(inner) != list(range(1, len(tree))):
        raise ValueError("its splits do not form one tree")
    reached, todo = set(), [(0, 1)]
    while todo:
        index, depth = todo.pop()
        if depth > DEEPEST:
            raise ValueError(f"its splits lie more than {DEEPEST} deep")
        reached.add(index)
        split = tree[index]
        todo += [(child, depth + 1) for child in (split.at_most, split.above) if not isinstance(child, str)]
    if len(reached) != len(tree):
        raise ValueError("its splits do not form one tree")
    if not {child for child in children if isinstance(child, str)} <= set(question.classes):
        raise ValueError(f"a leaf is none of {', '.join(question.classes)}")
    if not np.all(np.isfinite([(split.threshold, *split.bounds) for split in tree])):
        raise ValueError("a threshold or its bounds are not finite")
    if not all(np.isfinite(split.spread) and split.spread >= 0 for split in tree):
        raise ValueError("a threshold's spread is not a finite positive number or 0")


_FIELDS: dict[str, tuple[type, ...]] = {
    "question": (str,),
    "method": (str,),
    "single": (bool,),
    "similarity": (bool,),
    "starts": (list, type(None)),
    "min_width": (int, float, type(None)),
    "smoothing": (int, float),
    "classes": (list,),
    "splits": (list,),
    "leaf_counts": (list,),
    "shares": (list, type(None)),
    "feature_ranges": (dict,),
    "preset": (str, type(None)),
    "gains": (dict,),
    "provenance": (dict,),
    "single_tree": (dict, type(None)),
}
"""Field of a tree's description -> the types that it may have."""


_PROVENANCE = {"left_out": (int,), "sweep": (str,), "transfer_accuracy": (int, float), "data": (str,)}
"""The same for what is read of a tree's provenance, where it is there."""


def check_fields(entry: Mapping[str, Any]) -> None:
    """Raise KeyError for a field that a tree's description lacks, ValueError for one of another type."""
    for name, kinds in _FIELDS.items():
        value = entry[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ValueError(f"{name} is a {type(value).__name__}")
    for name, kinds in _PROVENANCE.items():
        if not isinstance(entry["provenance"].get(name), (*kinds, type(None))):
            raise ValueError(f"provenance: {name} is a {type(entry['provenance'][name]).__name__}")


def check_leaves(num_leaves: int, counts: np.ndarray, shares: np.ndarray | None) -> None:
    """Raise ValueError unless the training rows and the probabilities at a tree's leaves are [leaves, classes]."""
    if counts.shape != (num_leaves, 2) or (counts < 0).any() or (counts > 2**53).any():
        raise ValueError(f"leaf_counts do not fit {num_leaves} leaves")
    if shares is not None and (
        shares.shape != counts.shape or not (shares >= 0).all() or not np.allclose(shares.sum(axis=1), 1)
    ):
        raise ValueError(f"shares do not fit {num_leaves} leaves")


def check_gains(gains: Mapping[str, Mapping[str, float]], classes: Sequence[str]) -> None:
    """Raise KeyError for a gain that is lacking, ValueError for one of no class of the tree."""
    for label, gain in gains.items():
        if label not in classes:
            raise ValueError(f"gains are of {label[:40]!r}, which is none of {', '.join(classes)}")
        if lacking := [step for step in ("one", "best") if step not in gain]:
            raise KeyError(lacking[0])
