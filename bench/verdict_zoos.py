"""Zoos on which verdicts are judged: other networks, data, recipes and axes than the published ones, each a sweep.

    python bench/verdict_zoos.py --out DIR [--zoos a,b]

Each zoo is a full grid of width × temperature (batch size or learning rate) × data share, so that its own test
accuracies tell what every change would have gained. Leaves DIR/<zoo>.parquet, labelled; bench/verdicts.py reads them.
About 40 minutes on two cores for all. The data: scikit-learn's digits, 8 × 8 and enlarged to 32 × 32; `waves`, drawn
signals (bench/fresh_zoos.py); and diamonds, the clarity (8 classes) of real stones from nine numbers, a table that the
package plotnine carries.
"""

import argparse
import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fresh_zoos import waves

from mdjax.diagnosis.labels import Axes, failure_labels
from mdjax.sweeps.local import measure
from mdjax.zoo.data import Dataset, load
from mdjax.zoo.grids import Grid
from mdjax.zoo.training import train

_BATCHES = (8, 16, 32, 64, 128, 256)
_RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_ADAMW_RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
_MLP = {"family": "mlp", "width": (2, 4, 8, 16, 32, 64), "data_share": (0.25, 0.5, 1.0), "seeds": 3, "epochs": 40}
_CNN = {"family": "cnn", "width": (1, 2, 4, 8, 16), "data_share": (0.25, 0.5, 1.0), "seeds": 2, "epochs": 20}
_CNN32 = _CNN | {"width": (1, 2, 4, 8), "epochs": 12}
_RESNET = {"family": "resnet18", "width": (1, 2, 4, 8), "data_share": (0.25, 0.5, 1.0), "seeds": 2, "epochs": 15}
_COSINE = {"optimizer": "adamw", "schedule": "cosine", "weight_decay": (0.01,)}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """One zoo: the grid's settings, and the preset that its networks are measured with."""

    grid: dict[str, Any]
    preset: str = "default"

    @property
    def axes(self) -> Axes:
        """What sets the temperature in this sweep."""
        if len(self.grid.get("learning_rate", ())) > 1:
            return Axes(batch="learning_rate", hotter="larger", data="data_share", within=("label_noise",))
        return Axes(data="data_share", within=("label_noise",))


ZOOS: dict[str, Sweep] = {
    "mlp-digits": Sweep(_MLP | {"data": "digits", "batch_size": _BATCHES}),
    "mlp-digits-noisy": Sweep(_MLP | {"data": "digits", "batch_size": _BATCHES, "label_noise": (0.1,)}),
    "mlp-digits-step": Sweep(
        _MLP | {"data": "digits", "depth": (3,), "batch_size": (32,), "learning_rate": _RATES, "schedule": "step"}
    ),
    "mlp-waves-adamw": Sweep(
        _MLP | _COSINE | {"data": "waves", "epochs": 30, "batch_size": (64,), "learning_rate": _ADAMW_RATES}
    ),
    "mlp-waves-noisy": Sweep(
        _MLP | {"data": "waves", "epochs": 30, "batch_size": _BATCHES, "label_noise": (0.1,), "schedule": "step"}
    ),
    "mlp-diamonds": Sweep(_MLP | {"data": "diamonds", "batch_size": _BATCHES}),
    "cnn-digits": Sweep(_CNN | {"data": "digits", "batch_size": (32,), "learning_rate": _RATES}, "fast"),
    "cnn-digits-noisy": Sweep(
        _CNN | _COSINE | {"data": "digits", "batch_size": _BATCHES, "learning_rate": (0.003,), "label_noise": (0.1,)},
        "fast",
    ),
    "cnn-digits32": Sweep(
        _CNN32 | {"data": "digits32", "batch_size": (8, 16, 32, 64, 128), "schedule": "step"}, "fast"
    ),
    "resnet-digits": Sweep(_RESNET | {"data": "digits", "batch_size": _BATCHES[1:], "schedule": "cosine"}, "fast"),
    "resnet-digits-noisy": Sweep(
        _RESNET
        | _COSINE
        | {"data": "digits", "batch_size": (32,), "learning_rate": _ADAMW_RATES[:5], "label_noise": (0.1,)},
        "fast",
    ),
    "mlp-diamonds-adamw": Sweep(
        _MLP | _COSINE | {"data": "diamonds", "depth": (3,), "batch_size": (64,), "learning_rate": _ADAMW_RATES}
    ),
}

HELD_OUT = ("resnet-digits-noisy", "mlp-diamonds-adamw")
"""Zoos that nobody looks at while methods are chosen."""


def dataset(name: str, folder: Path) -> Dataset:
    """The data of a zoo, made in `folder` where they are not there already; drawn from one seed."""
    path = folder / f"{name}.npz"
    if name == "digits":
        return load("digits")
    if not path.exists():
        if name == "waves":
            waves(path)
        elif name == "digits32":
            digits = load("digits")
            images = {
                part: getattr(digits, f"x_{part}").repeat(4, axis=1).repeat(4, axis=2) for part in ("train", "test")
            }
            labels = {f"y_{part}": getattr(digits, f"y_{part}") for part in ("train", "test")}
            np.savez(path, **{f"x_{part}": value for part, value in images.items()}, **labels)
        else:
            _diamonds(path)
    return load(path)


def _diamonds(path: Path, num_train: int = 3000, num_test: int = 2000) -> None:
    found = importlib.util.find_spec("plotnine")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("The zoo of diamonds needs the data that plotnine carries: pip install 'mdjax[bench]'.")
    table = pd.read_csv(Path(found.submodule_search_locations[0]) / "data" / "diamonds.csv")
    table = table.sample(num_train + num_test, random_state=0)
    clarity = ["I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"]
    cut = ["Fair", "Good", "Very Good", "Premium", "Ideal"]
    labels = table["clarity"].map(clarity.index).to_numpy()
    numbers = table[["carat", "depth", "table", "price", "x", "y", "z"]].assign(
        color=table["color"].map("DEFGHIJ".index), cut=table["cut"].map(cut.index), price=np.log(table["price"])
    )
    inputs = ((numbers - numbers.mean()) / numbers.std()).to_numpy(np.float32)
    np.savez(
        path,
        x_train=inputs[:num_train],
        y_train=labels[:num_train],
        x_test=inputs[num_train:],
        y_test=labels[num_train:],
    )


def grown(name: str, out: Path) -> pd.DataFrame:
    """The labelled table of one zoo; finished work is kept in `out`."""
    sweep = ZOOS[name]
    data = dataset(sweep.grid["data"], out)
    source = sweep.grid["data"] if sweep.grid["data"] == "digits" else str(out / f"{sweep.grid['data']}.npz")
    zoo = train(Grid(**sweep.grid | {"data": source}), out / f"{name}-zoo", dataset=data, show_progress=False)
    table = measure(zoo, out=out / f"{name}-table", data=data, preset=sweep.preset, show_progress=False).configurations
    return failure_labels(table, **vars(sweep.axes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--zoos", default=",".join(ZOOS))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.zoos.split(","):
        table = grown(name, arguments.out)
        table.to_parquet(arguments.out / f"{name}.parquet", index=False)
        print(name, len(table), "configurations", flush=True)


if __name__ == "__main__":
    main()
