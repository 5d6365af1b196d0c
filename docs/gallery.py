"""'make gallery': the pictures of the documentation, from networks that are trained and measured for them.

    python docs/gallery.py --out docs/gallery

Trains two seeds of a CNN on digits and measures every metric that has a picture, and four of an MLP, stopped after 1 to
16 epochs, for what is drawn of many: two to three minutes.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

from mdjax import measure, train
from mdjax.metrics import CKA, Density, Hessian, LinearConnectivity, Losses, ModeConnectivity, Similarity, Surface
from mdjax.table import Table
from mdjax.zoo.grids import Grid

PICTURES = {
    "density": lambda table: table.plot.density(),
    "spectrum": lambda table: table.plot.spectrum(),
    "layers": lambda table: table.plot.layers(),
    "surface": lambda table: table.plot.surface(),
    "curve": lambda table: table.plot.curve(),
}
"""File → what draws it of the CNNs."""

OF_MANY = {
    "similarity": lambda table: table.plot.similarity(configuration=table.configurations["configuration"].iloc[-1]),
    "training": lambda table: table.plot.training("test_error"),
}
"""File → what draws it of the MLPs."""

EPOCHS = (1, 2, 4, 8, 16)

METRICS = (
    Losses(),
    Hessian(num_eigenvalues=8, num_smallest=2, by_layer=True),
    Density(),
    ModeConnectivity(),
    LinearConnectivity(),
    CKA(),
    Similarity(),
    Surface(dimensions=2, num_points=21),
)


def measured(grid: Grid, metrics: tuple[object, ...] = METRICS) -> Table:
    """A zoo trained for the occasion, measured."""
    with tempfile.TemporaryDirectory() as folder:
        return measure(train(grid, f"{folder}/zoo"), metrics=metrics)


def over_epochs() -> Table:
    """Four seeds of an MLP after each number of epochs, as one table."""
    tables = [
        measured(Grid(width=(16,), batch_size=(64,), learning_rate=(0.02,), epochs=epochs, seeds=4), (Losses(), CKA()))
        for epochs in EPOCHS
    ]
    frames = ("models", "pairs", "configurations")
    return Table(*(pd.concat([getattr(one, name) for one in tables], ignore_index=True) for name in frames))


def draw(table: Table, pictures: dict[str, Callable[[Table], Any]], out: Path) -> None:
    """Pictures small enough to be kept with the source."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    for name, drawn in pictures.items():
        figure = drawn(table).figure
        figure.set_size_inches(6, 3.6)
        # Titles are the models' names, which the pages do not need.
        figure.axes[0].set_title("")
        figure.savefig(out / f"{name}.png", dpi=96, metadata={"Software": None})
        plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "gallery")
    out = parser.parse_args().out
    draw(over_epochs(), OF_MANY, out)
    draw(measured(Grid(family="cnn", width=(8,), batch_size=(64,), epochs=15, seeds=2)), PICTURES, out)


if __name__ == "__main__":
    main()
