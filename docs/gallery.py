"""'make gallery': the pictures of the documentation, from networks that are trained and measured for them.

    python docs/gallery.py --out docs/gallery

Trains two seeds of a CNN on digits, measures every metric that has a picture, and draws it: two to three minutes.
"""

import argparse
import tempfile
from pathlib import Path

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
    "similarity": lambda _: three_seeds().plot.similarity(),
    "training": lambda _: over_epochs().plot.training(),
}
"""File → what draws it, of a table of two networks or of one made for it."""

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


def three_seeds() -> Table:
    """Three networks of one configuration, compared."""
    return measured(Grid(family="mlp", width=(8,), batch_size=(64,), label_noise=(0.1,), epochs=40, seeds=3), (CKA(),))


def over_epochs() -> Table:
    """One configuration, trained for several numbers of epochs."""
    tables = [
        measured(
            Grid(family="mlp", width=(8,), batch_size=(64,), label_noise=(0.1,), epochs=epochs, seeds=2), (Losses(),)
        )
        for epochs in (2, 5, 10, 20, 40)
    ]
    rows = pd.concat([table.configurations for table in tables], ignore_index=True)
    return Table(tables[0].models, tables[0].pairs, rows)


def draw(table: Table, out: Path) -> None:
    """Every picture, small enough to be kept with the source."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    for name, drawn in PICTURES.items():
        figure = drawn(table).figure
        figure.set_size_inches(6, 3.6)
        # Titles are the models' names, which the pages do not need.
        figure.axes[0].set_title("")
        figure.savefig(out / f"{name}.png", dpi=96, metadata={"Software": None})
        plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "gallery")
    draw(measured(Grid(family="cnn", width=(8,), batch_size=(64,), epochs=15, seeds=2)), parser.parse_args().out)


if __name__ == "__main__":
    main()
