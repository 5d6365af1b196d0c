"""The formats that mdjax reads: how a small sound file of each is made, and how the project reads it."""

import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp
import pandas as pd
import torch
from flax import serialization
from safetensors.torch import save_file

import converters.containers
import converters.flax_checkpoints
import converters.state_dicts
import mdjax.diagnosis.verdicts
import mdjax.sweeps.local
from mdjax.diagnosis.calibrations import Accuracy, Calibration
from mdjax.diagnosis.surface import Points, Surface
from mdjax.diagnosis.treefiles import NAMED
from mdjax.diagnosis.trees import load_trees
from mdjax.metrics.losses import Losses
from mdjax.models import Architecture
from mdjax.stores import LocalStore
from mdjax.sweeps.commits import Commits
from mdjax.sweeps.units import Cell, Unit
from mdjax.table import FRAMES, Table, read_configurations, read_table, write_table
from mdjax.zoo import cifar, data, grids
from mdjax.zoo.store import Zoo
from mdjax.zoo.training import plan_groups

ARCHITECTURE = Architecture("mlp", 3, (4, 4, 1), 3, 1)
WIDER = Architecture("mlp", 4, (4, 4, 1), 3, 1)


class Format(NamedTuple):
    """A format: `make` fills a folder, `files` says which of its files are mutated, `read` returns what they hold.

    `checked`: its content is held by checksums, so that a change of it can be known. Of others only what is no sound
    file can be: a changed byte of raw numbers, or digit of a text, is another sound file.
    """

    make: Callable[[Path], Any]
    read: Callable[[Path], Any]
    files: Callable[[Path], list[Path]]
    checked: bool = False


def _named(name: str) -> Callable[[Path], list[Path]]:
    return lambda folder: sorted(path for path in folder.rglob(name) if path.is_file())


def _network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))


def _torch_reader(folder: Path) -> Any:
    return converters.state_dicts.read_state_dict(folder / "net.pt")


def _saved(folder: Path) -> None:
    torch.save(_network().state_dict(), folder / "net.pt")


def _saved_legacy(folder: Path) -> None:
    torch.save(_network().state_dict(), folder / "net.pt", _use_new_zipfile_serialization=False)


def _script(folder: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(_network()).save(str(folder / "net.pt"))


def _exported(folder: Path) -> None:
    program = torch.export.export(_network(), (torch.zeros(2, 5),))
    torch.export.save(program, str(folder / "net.pt"))


class Net(nn.Module):
    """A small Flax network."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Dense(4)(x)))


def _flax_variables() -> Any:
    return jax.tree.map(np.asarray, Net().init(jax.random.key(0), np.zeros((2, 5), "f4")))


def _orbax(folder: Path) -> None:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save((folder / "net").absolute(), args=ocp.args.PyTreeSave(_flax_variables()))


def _flax_reader(folder: Path) -> Any:
    found = converters.flax_checkpoints.from_flax(folder / "net", Net(), np.zeros((2, 5), "f4"))
    return found.params, found.state


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """Data of three classes, small images."""
    random = np.random.RandomState(seed)
    return {
        "x_train": random.randn(40, 4, 4, 1).astype("f4"),
        "y_train": (np.arange(40) % 3).astype("i4"),
        "x_test": random.randn(12, 4, 4, 1).astype("f4"),
        "y_test": (np.arange(12) % 3).astype("i4"),
    }


def _dataset_arrays(found: data.Dataset) -> Any:
    return [found.x_train, found.y_train, found.x_test, found.y_test, found.num_classes]


_IMAGES = 20


def _cifar(folder: Path) -> None:
    random = np.random.RandomState(0)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        pixels = random.randint(0, 256, (_IMAGES, 3072)).astype(np.uint8)
        content = {b"data": pixels, b"labels": random.randint(0, 10, _IMAGES).tolist(), b"batch_label": b"x"}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))


def _read_cifar(folder: Path) -> Any:
    cifar.RECORDS = _IMAGES  # in this child alone: whole batches are 30 MB
    return cifar.CIFAR10.read(folder)


def make_zoo(folder: Path) -> None:
    """Two architectures of two seeds each, and a third group of one more configuration."""
    zoo = Zoo.create(folder / "zoo", data="digits")
    for number, (group, architecture) in enumerate((("narrow", ARCHITECTURE), ("wide", WIDER), ("third", WIDER))):
        keys = jax.random.split(jax.random.key(number), 2)
        params, state = jax.vmap(architecture.init)(keys)
        rows = [
            {
                "model_id": f"{group}-s{seed}",
                "configuration": group,
                "seed": seed,
                "batch_size": 16 * 2**number,
                "learning_rate": 0.05,
                "data_share": 1.0,
                "label_noise": 0.0,
                "epochs": 3,
            }
            for seed in range(2)
        ]
        zoo.append(group, architecture, rows, params, state)


def read_zoo(folder: Path) -> Any:
    """All that a zoo holds; its first damaged group is told."""
    zoo = Zoo(folder / "zoo")
    for reason in zoo.damaged.values():
        raise data.InputError(reason)
    return [zoo.manifest, zoo.data, {group: zoo.read_group(group) for group in zoo.groups}]


def _configurations(num_rows: int = 24) -> pd.DataFrame:
    random = np.random.RandomState(0)
    width, batch = np.tile([4.0, 8, 16], 8), np.repeat([16.0, 64, 256], 8)
    return pd.DataFrame(
        {
            "configuration": [f"c{number}" for number in range(num_rows)],
            "family": "mlp",
            "width": width,
            "batch_size": batch,
            "bs": batch,
            "learning_rate": 0.05,
            "data_share": 1.0,
            "data": 10.0,
            "num_classes": 10,
            "num_models": 2,
            "train_error": random.rand(num_rows) * 20,
            "test_error": 10 + random.rand(num_rows) * 30,
            "train_loss": random.rand(num_rows),
            "test_loss": 1 + random.rand(num_rows),
            "hessian_t": 4 + random.rand(num_rows) * 5,
            "hessian_e": 1 + random.rand(num_rows) * 3,
            "mode_connectivity": -random.rand(num_rows) * 5,
            "mode_connectivity_peak": -random.rand(num_rows) * 5,
            "CKA": random.rand(num_rows),
            "status": "ok",
            "status_code": "ok",
        }
    )


def make_table(folder: Path) -> None:
    """A table of 24 configurations, without models or pairs of its own."""
    configurations = _configurations()
    models = configurations.assign(model_id=[f"m{number}" for number in range(len(configurations))], seed=0)
    pairs = pd.DataFrame({"configuration": ["c0"], "model_a": ["m0"], "model_b": ["m1"], "status": ["ok"]})
    write_table(folder / "table", Table(models, pairs.assign(status_code="ok"), configurations))


def _read_whole_table(folder: Path) -> Any:
    found = read_table(folder / "table")
    return [getattr(found, name) for name in FRAMES]


def _make_csv(folder: Path) -> None:
    _configurations().to_csv(folder / "table.csv", index=False)


def diagnosed(table: pd.DataFrame, trees: Any = "shipped") -> list[str]:
    """What is said of a table, in words."""
    with warnings.catch_warnings(action="ignore"):
        found = mdjax.diagnosis.verdicts.Diagnosis.of(table, trees)
        frame = found.frame_with_sweep()
        return [str(found.sweep_lines()), found.verdict(0).to_text() if len(frame) else ""]


def _read_csv(folder: Path) -> Any:
    return diagnosed(read_configurations(folder / "table.csv"))


def make_trees(folder: Path) -> None:
    """The shipped trees, with a smaller population, so that mutations meet the rest."""
    content = json.loads(NAMED["shipped"].read_text())
    for population in content["populations"]:
        for name in ("values", "labels"):
            population[name] = {key: values[:12] for key, values in population[name].items()}
    (folder / "trees.json").write_text(json.dumps(content, indent=1))


def read_trees(folder: Path) -> Any:
    """Trees as text and what they say of a table."""
    trees = load_trees(folder / "trees.json")
    return [[tree.export_text() for tree in trees.values()], diagnosed(_configurations(), trees)]


def make_calibration(folder: Path) -> None:
    """A calibration of nine small networks."""
    random = np.random.RandomState(0)
    points = Points(np.repeat([1e-3, 1e-2, 1e-1], 3), np.tile([2.0, 4, 8], 3), np.ones(9))
    surface = Surface(points, 70 + 20 * random.rand(9), np.zeros(6))
    accuracy = {"width": Accuracy(12, 80.0, (60.0, 90.0), 50.0, 60.0)}
    facts = {"family": "mlp", "num_classes": 10, "data": "digits"}
    Calibration(surface, facts, accuracy, 18).save(folder / "calibration")


def read_calibration(folder: Path) -> Any:
    """A calibration as text and what it says of a table."""
    found = Calibration.load(folder / "calibration")
    answered = found.answered(_configurations().head(2))
    return [found.to_text(), list(answered.why_not), diagnosed(_configurations().head(2), found)]


_GRID = """\
data = "digits"
architecture = "mlp"
width = [2, 4]
depth = [1, 2]
batch_size = [8, 16]
data_share = [0.5, 1.0]
label_noise = 0.1
learning_rate = [0.05, 0.1]
momentum = 0.9
weight_decay = 5e-4
epochs = 5
seeds = 3
optimizer = "sgd"
schedule = "cosine"
warmup = 0.1
augmentation = "none"
"""


def read_grid(folder: Path) -> Any:
    """The settings of a grid, grouped as they would be trained."""
    grid = grids.load_grid(folder / "grid.toml")
    given = arrays()
    dataset = data.Dataset("x", *(given[name] for name in data.ARRAYS), 3)
    return [repr(setting) for group in plan_groups(grid.settings(), dataset).values() for setting in group]


def _shard(folder: Path) -> None:
    make_table(folder)
    rows = read_table(folder / "table").models[["model_id", "train_loss", "status", "status_code"]]
    rows = rows.assign(key=rows["model_id"]).astype({"train_loss": float})
    Commits(LocalStore(folder)).commit(_unit(rows["key"]), rows)


def _read_shard(folder: Path) -> Any:
    keys = pd.Series([f"m{number}" for number in range(len(_configurations()))], name="model_id")
    found = Commits(LocalStore(folder)).rows([_unit(keys)], lambda places, rows: True)
    if not len(found):
        raise data.InputError("The shard is measured again.")
    return found


def _unit(keys: pd.Series) -> Unit:
    members = tuple((index,) for index in range(len(keys)))
    return Unit(Losses(), Cell(keys.to_frame(), None, 1.0, 0.0), members, tuple(keys), "losses-0-0")


def _tensors(name: str) -> Callable[[Path], Any]:
    return lambda folder: save_file(
        {f"net.{key}": value for key, value in _network().state_dict().items()}, folder / name
    )


FORMATS: dict[str, Format] = {
    "pth": Format(_saved, _torch_reader, _named("net.pt"), True),
    "pth-legacy": Format(_saved_legacy, _torch_reader, _named("net.pt")),
    "torchscript": Format(_script, _torch_reader, _named("net.pt"), True),
    "pt2": Format(_exported, _torch_reader, _named("net.pt"), True),
    "safetensors": Format(_tensors("net.pt"), _torch_reader, _named("net.pt")),
    "flax-msgpack": Format(
        lambda folder: (folder / "net").write_bytes(serialization.to_bytes(_flax_variables())),
        _flax_reader,
        _named("net"),
    ),
    "flax-orbax": Format(_orbax, _flax_reader, _named("*")),
    "cifar": Format(_cifar, _read_cifar, _named("*_batch*")),
    "npz": Format(
        lambda folder: np.savez(folder / "data.npz", **arrays()),
        lambda folder: _dataset_arrays(data.load(folder / "data.npz")),
        _named("*.npz"),
        True,
    ),
    "npz-deflated": Format(
        lambda folder: np.savez_compressed(folder / "data.npz", **arrays()),
        lambda folder: _dataset_arrays(data.load(folder / "data.npz")),
        _named("*.npz"),
        True,
    ),
    "zoo.json": Format(make_zoo, read_zoo, _named("zoo.json")),
    "manifest": Format(make_zoo, read_zoo, _named("m*.parquet"), True),
    "group.json": Format(make_zoo, read_zoo, _named("group.json"), True),
    "zoo-arrays": Format(make_zoo, read_zoo, lambda zoo: [p for p in _named("*")(zoo) if "arrays" in p.parts], True),
    "table-shard": Format(_shard, _read_shard, _named("losses-0-0.parquet"), True),
    "table-parquet": Format(make_table, _read_whole_table, _named("*.parquet"), True),
    "table-csv": Format(_make_csv, _read_csv, _named("*.csv")),
    "trees": Format(make_trees, read_trees, _named("trees.json")),
    "calibration": Format(make_calibration, read_calibration, _named("calibration.json")),
    "grid": Format(lambda folder: (folder / "grid.toml").write_text(_GRID), read_grid, _named("grid.toml")),
}  # fmt: skip
