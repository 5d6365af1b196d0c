"""Edits by which sound files become crafted ones: of JSON, frames, files, arrays, tables of text, trees, archives."""

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz_formats as formats
import jax
import numpy as np
import pandas as pd
from fuzz_mutations import Random

from mdjax.zoo.store import Zoo
from mdjax.zoo.weights import save

Edit = Callable[[Path, Random], tuple[bool, str]]
"""Changes a folder; returns whether the change has to be told, and what it is."""


DEEP = "[" * 100_000 + "]" * 100_000
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 0.5, 2**31, 2**63, 10**400, float("nan"), float("inf"), -1e308, "", "x", "../../etc/passwd",
    "\x1b[2J", "y" * 100_000, [], [[]], {}, {"a": 1}, [1, "a", None],
)  # fmt: skip
"""What a value of JSON becomes."""

COLUMN_VALUES: tuple[Any, ...] = (
    None, -1, 0, 10**9, 2**62, float("nan"), float("inf"), 1e308, "x", "", "../x", b"\xff", [1.0, 2.0], {"a": 1}, True,
    0.5, -0.5, pd.Timestamp(0),
)  # fmt: skip
"""What the values of a column become."""


def _picked(random: Random, items: Any) -> Any:
    return items[random.randint(len(items))]


def _file(folder: Path, random: Random, *names: str) -> Path:
    """One of the files of these names; ValueError where an edit before has made something else of it."""
    path = _picked(random, sorted(path for name in names for path in folder.rglob(name)))
    if not path.is_file():
        raise ValueError(f"{path} is no file")
    return path


# JSON -----------------------------------------------------------------------------------------------------------------


def _places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values, those of long lists left out but for their first two."""
    items: list[Any] = []
    if isinstance(content, dict):
        items = list(content.items())
    elif isinstance(content, list):
        items = list(enumerate(content[:2]))
    return [path, *(place for key, value in items for place in _places(value, (*path, key)))]


def json_edit(name: str) -> Edit:
    """A value replaced, removed or repeated, or the whole file."""

    def edit(folder: Path, random: Random) -> tuple[bool, str]:
        path = _file(folder, random, name)
        content = json.loads(path.read_text())
        if random.rand() < 0.1:
            whole = _picked(
                random, [DEEP, '{"a":' * 5000 + "1" + "}" * 5000, "", "null", "1", "[]", "{}", '"x"', "\xff"]
            )
            path.write_text(whole, encoding="latin-1")
            return True, f"{name} is {whole[:20]}"
        place = _picked(random, _places(content)[1:])
        inner = content
        for key in place[:-1]:
            inner = inner[key]
        kind = random.randint(4)
        value = _picked(random, VALUES)
        if kind == 0:
            del inner[place[-1]]
        elif kind == 1 and isinstance(inner, dict):
            inner["surplus"] = value
        else:
            inner[place[-1]] = value
        path.write_text(json.dumps(content))
        return False, f"{name}: {place} {('removed', 'surplus', 'set', 'set')[kind]} {str(value)[:30]}"

    return edit


# Frames ---------------------------------------------------------------------------------------------------------------


def _write(frame: pd.DataFrame, path: Path) -> bool:
    """Write it where Parquet can hold it."""
    try:
        frame.to_parquet(path, index=False)
    except Exception:
        frame.astype(str).to_parquet(path, index=False)
    return True


def frame_edit(*names: str) -> Edit:
    """A column's values replaced in one row or all, a column removed or renamed, rows removed, repeated or swapped."""

    def edit(folder: Path, random: Random) -> tuple[bool, str]:
        path = _file(folder, random, *names)
        frame = pd.read_parquet(path)
        column = _picked(random, list(frame.columns))
        kind, value = random.randint(10), _picked(random, COLUMN_VALUES)
        if kind < 4 or not len(frame):
            frame[column] = pd.Series([value] * len(frame), dtype=object)
        elif kind < 6:
            values = frame[column].tolist()
            values[random.randint(len(values))] = value
            frame[column] = pd.Series(values, dtype=object)
        elif kind == 6:
            frame = frame.drop(columns=column)
        elif kind == 7:
            frame = frame.rename(columns={column: _picked(random, ["x", "", "width", "model_id"])})
            if not frame.columns.is_unique:
                frame = frame.loc[:, ~frame.columns.duplicated()]
        elif kind == 8:
            frame = pd.concat([frame, frame.head(1)])
        else:
            frame = _picked(random, [frame.head(0), frame.iloc[1:], frame[[column]]])
        _write(frame, path)
        what = ("set", "set", "set", "set", "one", "one", "removed", "renamed", "repeated", "rows")[kind]
        return False, f"{path.name}: {column} {what} {str(value)[:30]}"

    return edit


def identity_edit(folder: Path, random: Random) -> tuple[bool, str]:
    """Ids, positions, hashes or settings of a zoo's rows changed to what they cannot be."""
    path = _file(folder, random, "models.parquet", "manifest.parquet")
    frame = pd.read_parquet(path)
    column = _picked(random, ["model_id", "position", "weights_hash", "width", "num_params", "num_classes", "depth"])
    values = frame[column].tolist()
    kind = random.randint(3)
    if kind == 0 and len(set(values)) > 1:
        values = values[::-1]
    elif kind == 1 and len(set(values)) > 1:
        values[0] = values[1]
    else:
        values = [f"{value}x" if isinstance(value, str) else int(_picked(random, [-1, 10**9, 7])) for value in values]
    frame[column] = values
    _write(frame, path)
    return True, f"{path.name}: {column} {('reversed', 'repeated', 'changed')[kind]} {values[:2]}"


# Files ----------------------------------------------------------------------------------------------------------------


def file_edit(folder: Path, random: Random) -> tuple[bool, str]:
    """A file removed, emptied, or replaced by a folder, a link or a pipe."""
    path = _picked(random, sorted(path for path in folder.rglob("*") if path.is_file()))
    kind = _picked(random, ["removed", "empty", "folder", "loop", "outside", "pipe", "zero", "null"])
    path.unlink()
    if kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "outside":
        path.symlink_to("/etc/passwd")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind in ("zero", "null"):
        path.symlink_to(f"/dev/{kind}")
    return False, f"{path.relative_to(folder)} {kind}"


def folder_edit(folder: Path, random: Random) -> tuple[bool, str]:
    """Groups moved, exchanged, copied, linked; arrays exchanged; something among them that is no group."""
    groups = folder / "zoo" / "groups"
    kind = _picked(random, ["exchanged", "arrays", "copied", "stray", "odd", "linked", "nested"])
    if kind == "exchanged":
        (groups / "narrow").rename(groups / "x")
        (groups / "wide").rename(groups / "narrow")
        (groups / "x").rename(groups / "wide")
    elif kind == "arrays":
        names = ("third", "wide")
        (groups / names[0] / "arrays").rename(groups / "x")
        (groups / names[1] / "arrays").rename(groups / names[0] / "arrays")
        (groups / "x").rename(groups / names[1] / "arrays")
    elif kind == "copied":
        shutil.copytree(groups / "wide", groups / "wide2")
    elif kind == "stray":
        (groups / "stray").write_text("x")
    elif kind == "odd":
        (groups / "narrow").rename(groups / "a\nb\x1b[2J")
    elif kind == "linked":
        (groups / "again").symlink_to(groups / "wide")
    else:
        (groups / "narrow").rename(groups / "wide" / "narrow")
    return kind not in ("odd", "nested"), f"groups {kind}"


def arrays_edit(folder: Path, random: Random) -> tuple[bool, str]:
    """Other arrays in a group: of another shape, type, number or size than its rows say."""
    groups = folder / "zoo" / "groups"
    group = _picked(random, ["narrow", "wide"])
    params, state = Zoo(folder / "zoo").read_group(group)
    kind = _picked(random, ["type", "models", "shape", "lost", "surplus", "huge", "values", "complex", "text"])
    leaves, tree = jax.tree.flatten(params)
    if kind == "type":
        leaves = [leaf.astype("f8") for leaf in leaves]
    elif kind == "models":
        leaves = [np.concatenate([leaf, leaf]) for leaf in leaves]
    elif kind == "shape":
        leaves = [leaf[..., :1] for leaf in leaves]
    elif kind == "huge":
        leaves = [np.zeros((2, 4_000, 4_000), "f4") if leaf.ndim == 3 else leaf for leaf in leaves]
    elif kind == "values":
        leaves = [leaf + 1 for leaf in leaves]
    elif kind == "complex":
        leaves = [leaf.astype("c16") for leaf in leaves]
    elif kind == "text":
        leaves = [np.zeros(leaf.shape, "u1") for leaf in leaves]
    params = jax.tree.unflatten(tree, leaves)
    if kind == "lost":
        params.pop(sorted(params)[0])
    elif kind == "surplus":
        params["surplus"] = {"kernel": np.zeros((2, 3), "f4")}
    shutil.rmtree(groups / group / "arrays")
    save(groups / group / "arrays", params, state)
    return True, f"arrays of {group}: {kind}"


def shard_edit(folder: Path, random: Random) -> tuple[bool, str]:
    """Finished units of a table exchanged, of other models, or without what they should hold."""
    shards = sorted((folder / "table" / "shards").glob("*.parquet"))
    one, other = random.permutation(len(shards))[:2]
    if random.rand() < 0.4:
        content = shards[one].read_bytes()
        shards[one].write_bytes(shards[other].read_bytes())
        shards[other].write_bytes(content)
        return True, "shards exchanged"
    frame = pd.read_parquet(shards[one])
    kind = _picked(random, ["ids", "repeated", "fewer", "more", "status", "column"])
    if kind == "ids":
        frame["model_id"] = [f"{name}x" for name in frame["model_id"]]
    elif kind == "repeated":
        frame = pd.concat([frame, frame])
    elif kind == "fewer":
        frame = frame.iloc[1:]
    elif kind == "more":
        frame = pd.concat([frame, frame.assign(model_id="foreign")])
    elif kind == "status":
        frame["status_code"] = "x"
    else:
        frame = frame.rename(columns={"train_loss": "x"})
    _write(frame, shards[one])
    return True, f"shard: {kind}"


def csv_edit(folder: Path, random: Random) -> tuple[bool, str]:
    """A field, a header or a line of a CSV replaced."""
    path = folder / "table.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    row, column = random.randint(len(rows)), random.randint(len(rows[0]))
    value = str(_picked(random, ["", "nan", "inf", "-1", "1e999", "9" * 400, "x", '"', "'", "=1+1", "\0", "a" * 10**6]))
    if random.rand() < 0.4:
        rows = [rows[0], *([*line[:column], value, *line[column + 1 :]] for line in rows[1:])]
    else:
        rows[row][column] = value
    path.write_text("\n".join(map(",".join, rows)))
    return False, f"{rows[0][column][:20]}: {value[:20]!r}"


def trees_edit(folder: Path, random: Random) -> tuple[bool, str]:
    """Trees as chains, with cycles, without leaves, with numbers that are none."""
    path = _file(folder, random, "trees.json")
    content = json.loads(path.read_text())
    tree = _picked(random, content["trees"])
    split, classes = dict(tree["splits"][0]), tree["classes"]
    kind = _picked(random, ["chain", "cycle", "deep", "nan", "huge", "counts", "single", "twice", "feature"])
    if kind == "chain":
        count = int(_picked(random, [900, 5000, 100_000]))
        tree["splits"] = [{**split, "at_most": classes[0], "above": n + 1, "threshold": n} for n in range(count)]
        tree["splits"][-1]["above"] = classes[1]
        tree["leaf_counts"], tree["shares"] = [[1, 1]] * (count + 1), None
    elif kind == "cycle":
        tree["splits"][0] = {**split, "at_most": 0}
    elif kind == "deep":
        for _ in range(400):
            tree["single_tree"] = {**tree, "population": None}
    elif kind == "nan":
        split["threshold"] = float(_picked(random, ["nan", "inf"]))
        tree["splits"][0] = split
    elif kind == "huge":
        tree["smoothing"] = 10**400
    elif kind == "counts":
        tree["leaf_counts"] = [[10**30, -1]] * len(tree["leaf_counts"])
    elif kind == "single":
        tree["single_tree"] = tree["splits"]
    elif kind == "twice":
        content["trees"].append(tree)
    else:
        tree["splits"][0] = {**split, "feature": _picked(random, ["x", "", "__class__", "=1"])}
    path.write_text(json.dumps(content))
    return True, f"trees: {kind}"


def grid_edit(folder: Path, random: Random) -> tuple[bool, str]:
    """An axis or setting of a grid with an absurd value."""
    path = folder / "grid.toml"
    lines = path.read_text().splitlines()
    at = random.randint(len(lines))
    name = lines[at].partition(" ")[0]
    value = str(
        _picked(
            random,
            ["-1", "0", "1000000000", "10000000", "1e400", "nan", "inf", '"x"', "[]", "[[1]]", "true", "1.5", "9" * 400,
             "[1, 1]", "{}", "[" * 50_000 + "]" * 50_000, "1979-05-27", "[1, 10000000000000000000000]"],
        )
    )  # fmt: skip
    lines[at] = f"{name} = {value}"
    path.write_text("\n".join(lines))
    return False, f"{name} = {value[:30]}"


def npz_edit(folder: Path, random: Random) -> tuple[bool, str]:
    """Arrays that are missing, of other types and shapes, doubled, or far larger than their file."""
    import zipfile

    path = folder / "data.npz"
    given: dict[str, Any] = formats.arrays()
    name = _picked(random, list(given))
    kind = _picked(random, ["bomb", "header", "object", "twice", "case", "type", "shape", "labels", "nan", "lost"])
    if kind == "bomb":
        given[name] = np.zeros((320_000_000,), "u1")
    elif kind == "object":
        given[name] = np.array([{}, 1], object)
    elif kind == "type":
        given[name] = _picked(random, [np.array("x"), np.zeros(3, "c8"), np.zeros(3, "V8"), np.zeros(3, "M8[s]")])
    elif kind == "shape":
        given[name] = _picked(
            random, [np.zeros(()), np.zeros(0), np.zeros((3, 0)), np.zeros((1,) * 20), given[name][:1]]
        )
    elif kind == "labels":
        given["y_train"] = _picked(random, [np.full(40, -1), np.full(40, 2**40), np.arange(40) * 10**6, np.zeros(40)])
    elif kind == "nan":
        given["x_test"] = np.full_like(given["x_test"], np.nan)
    elif kind == "lost":
        del given[name]
    with warnings.catch_warnings(action="ignore"):
        np.savez_compressed(path, **given)
        with zipfile.ZipFile(path, "a") as archive:
            if kind == "twice":
                archive.writestr(f"{name}.npy", archive.read(f"{name}.npy"))
            elif kind == "case":
                archive.writestr(f"{name.upper()}.npy", archive.read(f"{name}.npy"))
    if kind == "header":
        shape = _picked(random, ["(-1, 4, 4, 1)", "(10000000000,)", "(40, 4, 4, 10000000)", "(4294967296, 4294967296)"])
        descr = _picked(random, ["<f4", "|O", "<f8", "|u1"])
        text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
        content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
        with zipfile.ZipFile(path) as archive:
            kept = {entry: archive.read(entry) for entry in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for entry, old in kept.items():
                archive.writestr(entry, content + bytes(2560) if entry == f"{name}.npy" else old)
    return True, f"npz: {name} {kind}"
