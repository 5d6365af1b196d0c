"""The report's pictures of trees: thresholds, classes and the path that a configuration takes."""

import textwrap

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.questions import named
from mdjax.report.figures import MARKS, STYLE, feature_of

_TAKEN = "#c2410c"


def layout(tree: MDTree) -> dict[tuple[str, int], tuple[float, float]]:
    """Where the parts of a fitted tree stand, ("leaf", index) or ("split", index) -> x, y: leaves from left to right,
    each as far down as its path is long."""
    spots: dict[tuple[str, int], tuple[float, float]] = {}
    for k, found in enumerate(tree.leaves_):
        spots["leaf", k] = (float(k), -float(len(found.path)))
    for i in range(len(tree.tree_)):
        below = [k for k, found in enumerate(tree.leaves_) if i in dict(found.path)]
        depth = next(step for step, (split, _) in enumerate(tree.leaves_[below[0]].path) if split == i)
        sides = [np.mean([k for k in below if dict(tree.leaves_[k].path)[i] is side]) for side in (True, False)]
        spots["split", i] = (float(np.mean(sides)), -float(depth))
    return spots


@matplotlib.rc_context(STYLE)
def tree_figure(tree: MDTree, leaf: int | None = None) -> Figure:
    """A fitted tree: features and thresholds at its nodes, classes and their fraction of the rows at its leaves.

    `leaf` (an index in `tree.leaves_`) has the path that leads to it drawn in colour; the lines of that path
    carry the id `taken-<split>-yes` or `taken-<split>-no`.
    """
    spots = layout(tree)
    depth = max(len(found.path) for found in tree.leaves_)

    figure = Figure(figsize=(max(4.6, 1.42 * len(tree.leaves_)), 1.1 * depth + 1.15), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_xlim(-0.55, len(tree.leaves_) - 0.45)
    axes.set_ylim(-depth - 0.5, 0.4)
    taken = {} if leaf is None else dict(tree.leaves_[leaf].path)
    drawn = set()
    for k, found in enumerate(tree.leaves_):
        ends = [("split", i) for i, _ in found.path[1:]] + [("leaf", k)]
        for (i, side), end in zip(found.path, ends):
            if (i, side) not in drawn:
                drawn.add((i, side))
                _branch(axes, spots["split", i], spots[end], side, f"taken-{i}" if taken.get(i) is side else None)
        _leaf_box(axes, spots["leaf", k], tree, k, k == leaf)
    for i, split in enumerate(tree.tree_):
        feature = feature_of(split.feature)
        label = feature.label if feature.unit == "ln" else feature.title
        percent = " %" if feature.unit.startswith("%") else ""
        threshold = f"{split.threshold:.4g}".replace("-", "−")
        text = f"{textwrap.fill(label, 18)}\n≤ {threshold}{percent} ?"
        _box(axes, spots["split", i], text, "#f3f4f6", i in taken)
    return figure


def _branch(axes: Axes, start: tuple[float, float], end: tuple[float, float], side: bool, taken: str | None) -> None:
    colour, width, order = ("#9ca3af", 1.2, 1) if taken is None else (_TAKEN, 3.0, 2)
    (line,) = axes.plot(*zip(start, end), color=colour, linewidth=width, zorder=order, solid_capstyle="round")
    word = "yes" if side else "no"
    if taken is not None:
        line.set_gid(f"{taken}-{word}")
    # Nearer to the upper end: the boxes of leaves are taller than those of nodes.
    at = start[0] + 0.4 * (end[0] - start[0]), start[1] + 0.4 * (end[1] - start[1])
    colour, weight = ("#4b5563", "normal") if taken is None else (_TAKEN, "bold")
    box = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none"}
    axes.text(*at, word, ha="center", va="center", fontsize=8, color=colour, weight=weight, bbox=box, zorder=3)


def _leaf_box(axes: Axes, spot: tuple[float, float], tree: MDTree, index: int, taken: bool) -> None:
    label = tree.leaves_[index].label
    counts = tree.leaf_counts_[index]
    total, own = int(counts.sum()), int(counts[list(tree.classes_).index(label)])
    share = f"{100 * own / total:.0f} % of {total:,}\ntraining rows" if total else "no training rows"
    meaning = named(tree.question).meaning[label]
    text = f"{textwrap.fill(meaning, 13)}\n[{label}]\n{share}"
    _box(axes, spot, text, _tint(MARKS[meaning].colour), taken)


def _box(axes: Axes, spot: tuple[float, float], text: str, face: str | tuple[float, ...], taken: bool) -> None:
    edge, width = (_TAKEN, 2.4) if taken else ("#6b7280", 0.8)
    box = {"boxstyle": "round,pad=0.35", "facecolor": face, "edgecolor": edge, "linewidth": width}
    axes.text(*spot, text, ha="center", va="center", fontsize=8.5, linespacing=1.25, bbox=box, zorder=4)


def _tint(colour: str) -> tuple[float, ...]:
    return tuple(1 - 0.3 * (1 - part) for part in to_rgb(colour))
