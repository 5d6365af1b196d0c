"""Trees grown on a labelled table, on the rows their question is asked of, and what their answers brought there."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mdjax.diagnosis.checks import has_all
from mdjax.diagnosis.fitting import method_named
from mdjax.diagnosis.labels import Axes, step_gains
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.quantities import quantity
from mdjax.diagnosis.questions import columns_of
from mdjax.errors import InputError


def grow(
    table: pd.DataFrame,
    question: str,
    *,
    method: str = "default",
    preset: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    axes: Axes | None = None,
    **settings: Any,
) -> MDTree:
    """An MD tree fitted on those rows of a labelled table of which the question is asked.

        table: one row per configuration, with the question's features and label.
        question: "optimizer", "width" or "data".
        method: a name in `fitting.METHODS`.
        preset: how the features were measured, where the table has no column `preset`.
        provenance: facts about the table, kept with the tree.
        axes: the table's columns along which `gains_` are computed; None for the published ones.
        settings: of MDTree.

    Rows that lack a feature are left out; `provenance_["left_out"]` is their number. Where the tree reads pairs of
    models, one for single models is grown with it (`single_`), if the method has one; in a table without pairs it is
    grown alone. `gains_` says what the answers' changes brought in this table, where it holds the sweep's axes and
    test accuracies. Raises InputError for a table without the labels or features.
    """
    tree = MDTree(question, method=method, **settings)
    if tree.single or tree.structure is not None or method_named(method).single_structures is None:
        return _grown(tree, table, preset, provenance, axes)
    single = MDTree(question, method=method, single=True, min_width=tree.min_width)
    alone = bool(single.candidates(table))
    if alone and not tree.candidates(table):
        return _grown(single, table, preset, provenance, axes)
    grown = _grown(tree, table, preset, provenance, axes)
    if alone and any(quantity(name).of_pairs for name in grown.features):
        grown.single_ = _grown(single, table, preset, provenance, axes)
    return grown


def _grown(
    tree: MDTree, table: pd.DataFrame, preset: str | None, provenance: Mapping[str, Any] | None, axes: Axes | None
) -> MDTree:
    question = tree.asked_question
    rows = question.rows(table)
    structures = tree.candidates(rows)
    wanted = columns_of(*structures) or tree.features
    complete = has_all(rows, wanted)
    if len(rows) and not complete.any():
        raise InputError(
            f"No row that is labelled for question {tree.question!r} has all of {', '.join(wanted)}. "
            "Measure these features first."
        )
    tree.fit(rows.loc[complete], rows.loc[complete, question.label])
    tree.preset_ = preset or tree.preset_
    left_out = int((~complete).sum())
    tree.provenance_ |= ({"left_out": left_out} if left_out else {}) | dict(provenance or {})
    tree.gains_ = _gains(tree, table, axes or Axes())
    return tree


def _gains(tree: MDTree, table: pd.DataFrame, axes: Axes) -> dict[str, dict[str, float]]:
    """What following each answer of the tree brought in its own sweep, in points of test accuracy.

    For each class that names a direction: the mean over all rows that are given this answer of the gain of one step
    (`one`) and of the best step (`best`), and their number (`rows`). Empty where the table is no sweep.
    """
    question = tree.asked_question
    gains = {}
    for label in question.classes:
        try:
            gained = step_gains(table, label, axes=axes)
        except InputError:
            continue
        asked = question.asked(table) & has_all(table, tree.features) & gained.notna().all(axis=1).to_numpy()
        if not asked.any():
            continue
        gained = gained.loc[asked][tree.predict(table.loc[asked]) == label]
        if len(gained):
            means = {step: round(float(gained[step].mean()), 3) for step in ("one", "best")}
            gains[label] = {**means, "rows": len(gained)}
    return gains
