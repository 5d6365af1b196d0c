"""Zoos, tables, trees and other files as somebody would craft them: one or two edits of a sound one; what reads it."""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import fuzz_formats as formats
import pandas as pd
from fuzz_edits import (
    Edit,
    arrays_edit,
    csv_edit,
    file_edit,
    folder_edit,
    frame_edit,
    grid_edit,
    identity_edit,
    json_edit,
    npz_edit,
    shard_edit,
    trees_edit,
)
from fuzz_mutations import Random

import mdjax.report.page
from mdjax.errors import InputError
from mdjax.statuses import StatusCode
from mdjax.sweeps.local import measure
from mdjax.table import read_configurations, read_table


class Kind(NamedTuple):
    """A kind of crafted files: the sound ones, how a case changes them, and what reads them."""

    make: Callable[[Path], Any]
    craft: Callable[[Path, int, Random], tuple[bool, str]]
    read: Callable[[Path], Any]


def _make_shards(folder: Path) -> None:
    formats.make_zoo(folder)
    _measure(folder, folder / "table")


def _measure(folder: Path, out: Path | None) -> pd.DataFrame:
    with warnings.catch_warnings(action="ignore"):
        found = measure(folder / "zoo", data=formats.arrays(), metrics="losses", out=out, show_progress=False)
    return found.models


def _read_zoo(folder: Path) -> Any:
    """The measured losses and settings of all models; a model that is not ok is told, as is one left out."""
    out = folder / "table"
    frame = _measure(folder, out if out.exists() else None)
    if len(frame) != 6 or (frame["status_code"] != StatusCode.OK).any():
        raise InputError(f"{len(frame)} models, {sorted(set(frame['status'].astype(str)))}".replace("\n", " "))
    timed = [name for name in frame if str(name).endswith("_seconds")]
    known = ["model_id", "configuration", "seed", "group", "position", "width", "num_params", "batch_size"]
    return frame[[name for name in frame if name not in timed and (name in known or "loss" in str(name))]]


def _read_table(folder: Path) -> Any:
    table = read_configurations(folder / "table")
    texts = formats.diagnosed(table)
    if (folder / "page").exists():
        mdjax.report.page.write_report(folder / "report.html", table, trees="shipped")
    return [texts, [getattr(read_table(folder / "table"), name) for name in ("models", "pairs")]]


def _read_csv(folder: Path) -> Any:
    return formats.diagnosed(read_configurations(folder / "table.csv"))


def _make_csv(folder: Path) -> None:
    formats.make_table(folder)
    read_configurations(folder / "table").to_csv(folder / "table.csv", index=False)
    shutil.rmtree(folder / "table")


def _page_too(
    craft: Callable[[Path, int, Random], tuple[bool, str]],
) -> Callable[[Path, int, Random], tuple[bool, str]]:
    """The same; of every eighth case the page is drawn, too, which takes seconds."""

    def crafted(folder: Path, case: int, random: Random) -> tuple[bool, str]:
        found = craft(folder, case, random)
        if case % 8 == 0:
            (folder / "page").touch()
        return found

    return crafted


def _crafting(*edits: Edit) -> Callable[[Path, int, Random], tuple[bool, str]]:
    """Every kind of edit in turn; one in four cases has two."""

    def craft(folder: Path, case: int, random: Random) -> tuple[bool, str]:
        told, what = edits[case % len(edits)](folder, random)
        if random.rand() < 0.25:
            try:
                more, also = edits[random.randint(len(edits))](folder, random)
                told, what = told and more, f"{what} + {also}"
            except Exception:  # the first edit left nothing to edit
                pass
        return told, what

    return craft


KINDS: dict[str, Kind] = {
    "zoos": Kind(
        formats.make_zoo,
        _crafting(
            json_edit("zoo.json"), json_edit("group.json"), frame_edit("models.parquet", "manifest.parquet"),
            identity_edit, file_edit, folder_edit, arrays_edit,
        ),
        _read_zoo,
    ),
    "shards": Kind(_make_shards, _crafting(shard_edit), _read_zoo),
    "tables": Kind(
        formats.make_table,
        _page_too(_crafting(frame_edit("configurations.parquet"), frame_edit("*.parquet"), file_edit)),
        _read_table,
    ),
    "csv": Kind(_make_csv, _crafting(csv_edit), _read_csv),
    "trees-crafted": Kind(
        formats.make_trees,
        _crafting(json_edit("trees.json"), trees_edit, json_edit("trees.json"), file_edit),
        formats.read_trees,
    ),
    "calibrations": Kind(
        formats.make_calibration,
        _crafting(json_edit("calibration.json"), json_edit("calibration.json"), file_edit),
        formats.read_calibration,
    ),
    "grids": Kind(formats.FORMATS["grid"].make, _crafting(grid_edit), formats.read_grid),
    "data": Kind(formats.FORMATS["npz"].make, _crafting(npz_edit), formats.FORMATS["npz"].read),
}  # fmt: skip
