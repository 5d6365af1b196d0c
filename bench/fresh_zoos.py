"""Which zoos is the default diagnosis method held against, other than the published ones? Grows them.

    python bench/fresh_zoos.py --out DIR [--zoos a,b]

Each pair is one task and architecture, clean and with 10 % label noise, three seeds a configuration, measured with the
default preset. Leaves DIR/<zoo>-<clean|noisy>.csv, labelled; bench/default_method.py --fresh DIR reads them. The pairs
differ from the published zoos, and from each other, in data, network, and scale of every feature:

digits-mlp    that of `mdjax demo`: one hidden layer; small batches are so hot that training breaks down
digits-calm   three hidden layers at a fifth of the learning rate: large batches are too cold to fit, none is too hot
waves-mlp     smooth one-dimensional signals of ten shapes, shifted, stretched and noisy

The last line of the output is JSON: zoo -> rows and label counts.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mdjax.demo import AXES
from mdjax.diagnosis.labels import LABEL_COLUMNS, failure_labels
from mdjax.sweeps.local import measure
from mdjax.zoo.data import load
from mdjax.zoo.grids import Grid
from mdjax.zoo.training import train

ZOOS: dict[str, dict[str, Any]] = {
    "digits-mlp": dict(AXES),
    "digits-calm": AXES | {
        "depth": (3,), "width": (2, 4, 8, 16, 32, 64, 128), "batch_size": (4, 8, 16, 32, 64, 128, 256),
        "data_share": (0.2, 0.45, 1.0), "learning_rate": (0.01,), "epochs": 30,
    },
    "waves-mlp": AXES | {
        "data": "waves", "depth": (2,), "width": (3, 6, 12, 24, 48, 96), "data_share": (0.1, 0.25, 0.5, 1.0),
        "learning_rate": (0.03,), "epochs": 40,
    },
}  # fmt: skip
NOISE = {"clean": 0.0, "noisy": 0.1}


def waves(path: Path, num_train: int = 3000, num_test: int = 1500) -> Path:
    """Signals of 40 points: one of ten random smooth shapes, cut out of a circle, shifted, scaled and noisy."""
    random = np.random.default_rng(0)
    shapes = np.array([np.convolve(random.normal(size=64), np.hanning(9), "same") for _ in range(10)])
    labels = random.integers(10, size=num_train + num_test)
    start, stretch = random.integers(24, size=len(labels)), random.uniform(0.5, 0.6, len(labels))
    points = start[:, None] / 2 + stretch[:, None] * np.arange(40)
    low = points.astype(int)
    part = points - low
    signals = shapes[labels[:, None], low % 64] * (1 - part) + shapes[labels[:, None], (low + 1) % 64] * part
    signals = signals * random.uniform(0.6, 1.4, (len(labels), 1)) + random.normal(0, 0.8, signals.shape)
    signals = (signals / signals.std()).astype(np.float32)
    parts = {"x_train": signals[:num_train], "x_test": signals[num_train:]}
    np.savez(path, **parts, y_train=labels[:num_train], y_test=labels[num_train:])
    return path


def grown(name: str, noise: str, out: Path) -> pd.DataFrame:
    """The labelled table of one zoo; finished work is kept in `out`."""
    settings = ZOOS[name]
    source = str(waves(out / "waves.npz") if settings["data"] == "waves" else settings["data"])
    dataset = load(source)
    grid = Grid(**settings | {"data": source, "label_noise": (NOISE[noise],)})
    zoo = train(grid, out / f"{name}-{noise}-zoo", dataset=dataset, show_progress=False)
    table = measure(zoo, out=out / f"{name}-{noise}-table", data=dataset, show_progress=False).configurations
    return failure_labels(table, within=("label_noise",))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--zoos", default=",".join(ZOOS))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    counts = {}
    for name in arguments.zoos.split(","):
        for noise in NOISE:
            table = grown(name, noise, arguments.out)
            table.to_csv(arguments.out / f"{name}-{noise}.csv", index=False)
            counts[f"{name}-{noise}"] = {
                "rows": len(table),
                **{label: table[label].value_counts().to_dict() for label in LABEL_COLUMNS},
            }
            print(name, noise, counts[f"{name}-{noise}"], flush=True)
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
