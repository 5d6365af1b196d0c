"""The whole path on embedded real data: two zoos grown, measured, labelled, diagnosed and reported."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table as RichTable

from mdjax.diagnosis.baselines import ValidationTree
from mdjax.diagnosis.growing import grow
from mdjax.diagnosis.labels import RFI_COLUMNS, failure_labels
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.questions import QUESTIONS
from mdjax.diagnosis.trees import save_trees
from mdjax.diagnosis.verdicts import diagnose, explain
from mdjax.report.page import phase_plot, write_report
from mdjax.sweeps.local import measure
from mdjax.zoo.data import load
from mdjax.zoo.grids import Grid
from mdjax.zoo.training import train

AXES = {
    "data": "digits",
    "family": "mlp",
    "width": (2, 4, 8, 16, 32, 64),
    "batch_size": (8, 16, 32, 64, 128, 256),
    "data_share": (0.25, 0.5, 1.0),
    "seeds": 3,
    "epochs": 40,
}
"""Wide enough for every failure to occur: from too small to ample in width, data and temperature."""

ZOOS = {"clean": 0.0, "noisy": 0.1}
"""Zoo → its label noise; trees are grown on the first and asked about the second."""


def run_demo(out: str | Path = "runs/demo") -> None:
    """Run the demo into `out`; a second run finds everything there and takes seconds.

    Leaves `<zoo>-zoo`, `<zoo>-table`, `trees.json`, `report.html` and `phase.png`. Two to three minutes on two cores.
    """
    out = Path(out)
    console = Console()
    started = time.monotonic()
    dataset = load(str(AXES["data"]))
    tables: dict[str, pd.DataFrame] = {}
    for name, noise in ZOOS.items():
        grid = Grid(**AXES, label_noise=(noise,))  # pyright: ignore[reportArgumentType]
        console.print(f"[bold]{name} zoo[/]: {len(grid.settings())} networks, label noise {noise:.0%}")
        zoo = train(grid, out / f"{name}-zoo", dataset=dataset)
        measured = measure(zoo, out=out / f"{name}-table", data=dataset)
        tables[name] = failure_labels(measured.configurations, within=("label_noise",))

    grown, asked = tables.values()
    trees = {name: grow(grown, name) for name in QUESTIONS if _can_grow(grown, name)}
    save_trees(trees.values(), out / "trees.json")
    accuracies = compare(grown, asked, trees)
    console.print()
    console.print(_as_rich(accuracies))

    subject = _most_to_gain(asked, diagnose(asked, trees))
    console.print()
    console.print(explain(subject, trees).to_text(), highlight=False, markup=False, soft_wrap=True)
    console.print(f"\n{_what_the_sweep_says(subject)}", highlight=False, markup=False, soft_wrap=True)
    name = str(subject["configuration"])
    write_report(
        out / "report.html",
        asked,
        trees=trees,
        title="Why do these networks underperform? Digits with 10 % label noise",
        highlight=name,
        accuracies=accuracies,
        source=str(out / "noisy-table"),
    )
    phase_plot(asked, out / "phase.png", trees=trees)
    seconds = time.monotonic() - started
    story = f"\nThe whole story: {out / 'report.html'}  ({seconds:.0f} s)"
    console.print(story, highlight=False, markup=False, soft_wrap=True)


def _can_grow(table: pd.DataFrame, question: str) -> bool:
    rows = QUESTIONS[question].rows(table)
    return rows[QUESTIONS[question].label].nunique() > 1


def compare(grown: pd.DataFrame, asked: pd.DataFrame, trees: dict[str, MDTree]) -> pd.DataFrame:
    """Accuracy in percent on `asked` of the MD trees, the validation tree and the majority class of `grown`.

    "MD tree" is fitted as published, "default method" are the `trees`, which `mdjax.diagnosis.grow` grew. One row per
    question: question, rows (asked of), and one column per method. Rows that lack a feature (a network that died has
    none for some) are left out for all methods alike.
    """
    results = []
    for name, tree in trees.items():
        question = QUESTIONS[name]
        published, baseline = MDTree(name), ValidationTree(name)
        features = list(dict.fromkeys([*tree.features, *published.features, *baseline.features]))
        train_rows, test_rows = (question.rows(table).dropna(subset=features) for table in (grown, asked))
        labels, truth = train_rows[question.label], test_rows[question.label].to_numpy()
        guesses = {
            "MD tree": published.fit(train_rows, labels).predict(test_rows),
            "default method": tree.predict(test_rows),
            "validation tree": baseline.fit(train_rows, labels).predict(test_rows),
            "majority class": np.full(len(truth), labels.mode()[0]),
        }
        shares = {method: 100 * float(np.mean(guess == truth)) for method, guess in guesses.items()}
        results.append({"question": name, "rows": len(truth), **shares})
    return pd.DataFrame(results)


def _as_rich(accuracies: pd.DataFrame) -> RichTable:
    table = RichTable(title="trees grown on the clean zoo, asked about the noisy one: accuracy in %")
    for column in accuracies:
        table.add_column(str(column), justify="left" if column == "question" else "right")
    for row in accuracies.itertuples(index=False):
        table.add_row(*(f"{value:.1f}" if isinstance(value, float) else str(value) for value in row))
    return table


def _most_to_gain(table: pd.DataFrame, verdicts: pd.DataFrame) -> pd.Series:
    """The configuration with the most room for improvement among those whose features are all there."""
    complete = table[(verdicts["status"] == "ok").to_numpy()]
    return complete.iloc[int(complete[list(RFI_COLUMNS)].max(axis=1).to_numpy().argmax())]


def _what_the_sweep_says(row: pd.Series) -> str:
    """The truth the verdict can be held against: what each change gained among the sweep's own networks."""
    changes = {
        "rfi_width": "more width",
        "rfi_data": "more data",
        "rfi_inc_temp": "a smaller batch",
        "rfi_dec_temp": "a larger batch",
    }
    gains = ", ".join(f"{text} {row[name]:.1f}" for name, text in changes.items())
    return f"What the sweep itself shows, points of test accuracy gained at best by: {gains}."
