"""'make gallery': the pictures of the documentation, from networks that are trained and measured for them.

    python docs/gallery.py --out docs/gallery

Trains two seeds of a CNN on digits, measures every metric that has a picture, and draws it: two to three minutes.
"""

import argparse
import tempfile
from pathlib import Path

import matplotlib

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
"""File → what draws it."""

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
