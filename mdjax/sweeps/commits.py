"""Finished rows in a store: written once, looked up by name, whatever becomes of their writer.

    shards/<metric>-<settings>-<unit>.parquet        the rows of one unit
    shards/<metric>-<settings>-pack-<digest>.parquet the rows of many units, in place of their own files

Each row has its key (`mdjax.sweeps.units`); of rows with the same key, one counts. Packs keep listing and reading a
table's finished work fast, however many units it took.
"""

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from mdjax.errors import InputError
from mdjax.files import writing
from mdjax.inputs import is_passing
from mdjax.parquet import read_frame, write_frame
from mdjax.statuses import TRANSIENT
from mdjax.stores import Store
from mdjax.sweeps.units import Unit

KEY = "key"
"""The column that tells rows apart."""

SHARDS = "shards"
_SUFFIX = ".parquet"
_PACK = "-pack-"
_NAME, _COLUMNS = "unit", "columns"
"""The entries of a file's attributes that say which unit it is of, so that files cannot be mistaken for each other, and
what its columns are."""

PACK_SIZE = 256
"""Units that make a pack."""

PACK_AGE = 120.0
"""Seconds that a unit stands under its own name before it is packed: whoever looks for it there has seen it by then."""

REMEDY = "Free space, then run the same command again: finished work is kept."


class Place(NamedTuple):
    """Where a row belongs: to a member of a unit, by its index there, and behind how many others."""

    unit: Unit
    member: int
    number: int


Check = Callable[[Sequence[Place], pd.DataFrame], bool]


class Commits:
    """The finished units in a store; the first writer of a name wins, and nothing half-written is seen.

    Rows whose status may be another the next time (`mdjax.statuses.TRANSIENT`) are no finished work and are left out.

    store: of the table.
    is_written: whether anything will be kept there, or only looked up.

    InputError, before anything is computed, where the store cannot be written.
    """

    def __init__(self, store: Store, *, is_written: bool = True):
        self.store = store
        if is_written:
            with writing(f"the table {store.address}"):
                store.prepare()
        self._names: set[str] = set()
        self._keys: dict[str, frozenset[str]] = {}  # of packs, and of units that nobody plans by this name
        self._own: list[tuple[float, str]] = []

    def missing(self, units: Sequence[Unit]) -> list[Unit]:
        """Those units that have still to be done, and the parts that are left of units of which others did some."""
        self._names = self._listed()
        left = [unit for unit in units if unit.name not in self._names]
        planned = {unit.name for unit in units}
        prefixes = {_prefix(unit.name) for unit in left}
        done: set[str] = set()
        for name in self._names:
            if name not in planned and _prefix(name) in prefixes:
                done |= self._keys_of(name)
        if not done:
            return left
        parts = []
        for unit in left:
            open_ones = [index for index, key in enumerate(unit.keys) if key not in done]
            if len(open_ones) == len(unit.keys):
                parts.append(unit)
            elif open_ones:
                parts.append(unit.part(open_ones))
        return parts

    def has(self, unit: Unit) -> bool:
        """Whether a unit is there by its own name, now."""
        return self._read(unit.name) is not None

    def commit(self, unit: Unit, rows: pd.DataFrame) -> None:
        """Keep a unit's rows for good, all or nothing: those that are finished.

        unit: what was measured.
        rows: with the column `KEY`.
        """
        keys = self.finished_keys(rows)
        if not keys:
            return
        if len(keys) < len(unit.keys):
            unit = unit.part([index for index, key in enumerate(unit.keys) if key in keys])
            rows = rows[rows[KEY].isin(keys)]
        self._create(unit.name, rows)
        self._own.append((time.monotonic(), unit.name))

    @staticmethod
    def finished_keys(rows: pd.DataFrame) -> set[str]:
        """The keys of the rows that no other run may change."""
        if not len(rows):
            return set()
        return {key for key, code in zip(rows[KEY], rows["status_code"]) if code not in TRANSIENT}

    def rows(self, units: Sequence[Unit], check: Check) -> pd.DataFrame:
        """The finished rows of units of one metric, each once, in the units' order, as far as they are there.

        units: of one metric.
        check: whether rows of one file can be those of the members that their keys name; a file of others is removed.

        InputError where they would take more memory than the limit (`mdjax.memory`).
        """
        keys = ((unit, index, key) for unit in units for index, key in enumerate(unit.keys))
        places = {key: Place(unit, index, number) for number, (unit, index, key) in enumerate(keys)}
        sizes = {unit.name: len(unit.keys) for unit in units}
        prefixes = {_prefix(unit.name) for unit in units}
        found: dict[str, pd.DataFrame] = {}
        while True:
            wanted = {name for name in self._listed() if _prefix(name) in prefixes}
            for name in wanted - found.keys():
                frame = self._read(name)
                if frame is not None and not (len(frame) >= sizes.get(name, 0) and _fits(frame, places, check)):
                    self.discard(name)
                    frame = None
                found[name] = pd.DataFrame() if frame is None else frame
            # What has been packed meanwhile stands under a name that was not listed yet.
            if not {name for name in self._listed() if _prefix(name) in prefixes} - found.keys():
                break
        frames = [frame for frame in found.values() if len(frame)]
        if not frames:
            return pd.DataFrame()
        rows = pd.concat(frames, ignore_index=True)
        rows = rows[rows[KEY].isin(places.keys())].drop_duplicates(KEY)
        order = np.argsort([places[key].number for key in rows[KEY].tolist()], kind="stable")
        return rows.iloc[order].reset_index(drop=True)

    def pack(self, *, age: float | None = None) -> None:
        """Put what this object committed so long ago into packs, where that is enough for one.

        age: seconds (default: `PACK_AGE`).
        """
        until = time.monotonic() - (PACK_AGE if age is None else age)
        old = [name for when, name in self._own if when <= until]
        if len(old) >= PACK_SIZE:
            self._own = [(when, name) for when, name in self._own if when > until]
            self._pack(old)

    def pack_all(self, units: Iterable[Unit]) -> None:
        """Put all that is there of these units, which are all settled, into packs, where that is enough for one."""
        prefixes = {_prefix(unit.name) for unit in units}
        loose = [name for name in self._listed() if _PACK not in name and _prefix(name) in prefixes]
        if len(loose) >= PACK_SIZE:
            self._own = []
            self._pack(loose)

    def discard(self, name: str) -> None:
        """Remove what is damaged or not what its name says, so that it is done again."""
        self._names.discard(name)
        with writing(f"{self.store.address}/{_path(name)}", REMEDY):
            self.store.delete(_path(name))

    def _pack(self, names: Sequence[str]) -> None:
        by_prefix: dict[str, list[str]] = {}
        for name in sorted(names):
            by_prefix.setdefault(_prefix(name), []).append(name)
        for prefix, members in by_prefix.items():
            for at in range(0, len(members), PACK_SIZE):
                part = members[at : at + PACK_SIZE]
                read = {name: frame for name in part if (frame := self._read(name)) is not None}
                if not read:
                    continue
                digest = hashlib.blake2b(json.dumps(sorted(read)).encode(), digest_size=12).hexdigest()
                self._create(f"{prefix}{_PACK}{digest}", pd.concat(read.values(), ignore_index=True))
                for name in read:
                    self.store.delete(_path(name))

    def _create(self, name: str, rows: pd.DataFrame) -> None:
        named = rows.copy(deep=False)
        named.attrs = {_NAME: name, _COLUMNS: [*rows]}
        content = io.BytesIO()
        write_frame(named, content)
        with writing(f"{self.store.address}/{_path(name)}", REMEDY):
            self.store.create(_path(name), content.getvalue())
        self._names.add(name)

    def _read(self, name: str) -> pd.DataFrame | None:
        """The rows under a name; None where there are none, where they cannot be read just now or are damaged."""
        try:
            content = self.store.read(_path(name))
            if content is None:
                return None
            rows = read_frame(io.BytesIO(content), f"{self.store.address}/{_path(name)}")
            is_its_own = rows.attrs.pop(_NAME, None) == name and rows.attrs.pop(_COLUMNS, None) == [*rows]
            if is_its_own and {KEY, "status_code"} <= {*rows} and TRANSIENT.isdisjoint(rows["status_code"]):
                rows.attrs = {}
                return rows
        except InputError:
            raise
        except Exception as error:  # pyarrow raises many types for a cut file; the unit is simply done again
            if is_passing(error):
                return None
        self.discard(name)
        return None

    def _keys_of(self, name: str) -> frozenset[str]:
        if name not in self._keys:
            rows = self._read(name)
            self._keys[name] = frozenset() if rows is None else frozenset(map(str, rows[KEY]))
        return self._keys[name]

    def _listed(self) -> set[str]:
        with writing(f"the table {self.store.address}", REMEDY):
            names = self.store.names(SHARDS)
        return {name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)}


def _fits(frame: pd.DataFrame, places: Mapping[str, Place], check: Check) -> bool:
    """Whether the rows of a file can be those that their keys name; those of other units may be anything."""
    keys = frame[KEY].tolist()
    if len(set(keys)) < len(keys):
        return False
    planned = [places.get(key) for key in keys]
    own = [place for place in planned if place is not None]
    return not own or check(own, frame[[place is not None for place in planned]])


def _path(name: str) -> str:
    return f"{SHARDS}/{name}{_SUFFIX}"


def _prefix(name: str) -> str:
    return name.partition(_PACK)[0] if _PACK in name else name.rpartition("-")[0]
