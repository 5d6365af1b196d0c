"""The fitted trees of several questions: given, by name, or from a file."""

from collections.abc import Iterable, Mapping
from os import PathLike

from mdjax.diagnosis.mdtree import MDTree, read_trees
from mdjax.diagnosis.questions import QUESTIONS
from mdjax.diagnosis.treefiles import SHIPPED, write_entries
from mdjax.errors import InputError

__all__ = ["SHIPPED", "Trees", "as_trees", "load_trees", "save_trees"]

Trees = Mapping[str, MDTree] | str | PathLike[str]  # question -> tree, a name of `treefiles.NAMED`, a path


def as_trees(trees: Trees) -> dict[str, MDTree]:
    """Fitted trees by question, from a mapping, a name or a file; InputError for anything else."""
    if isinstance(trees, (str, PathLike)):
        return load_trees(trees)
    for name, tree in trees.items():
        if not isinstance(tree, MDTree) or not hasattr(tree, "tree_") or tree.question != name:
            raise InputError(
                f"trees[{name!r}] must be a fitted MDTree of that question, got {tree!r}. "
                "Grow it with mdjax.diagnosis.grow(table, question), or load a file."
            )
    if not trees:
        raise InputError(f"trees is empty. Give a tree for one or more of {', '.join(QUESTIONS)}.")
    return dict(trees)


def save_trees(trees: Iterable[MDTree], path: str | PathLike[str]) -> None:
    """Write fitted trees, one per question, to one JSON file."""
    entries = [tree.to_dict() for tree in trees]
    questions = [entry["question"] for entry in entries]
    if len(set(questions)) < len(questions):
        raise InputError(f"A file keeps one tree per question, got {', '.join(questions)}. Use several files.")
    write_entries(entries, path)


def load_trees(source: str | PathLike[str] = SHIPPED) -> dict[str, MDTree]:
    """The trees of the package by name ("shipped", "published") or of a JSON file, by question.

    Raises InputError for a missing, foreign, damaged, older or newer file.
    """
    return read_trees(MDTree, source)
