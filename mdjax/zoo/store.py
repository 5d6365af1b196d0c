"""A store of trained models: Orbax stacks by architecture, and one Parquet manifest of what they are.

    ZOO/zoo.json                    format version and the name of the data the models were trained on
    ZOO/manifest.parquet            one row per model; derived, rebuilt from the groups whenever they disagree
    ZOO/groups/<group>/arrays/      Orbax checkpoint {params, state}, models stacked on axis 0
    ZOO/groups/<group>/models.parquet, group.json
    ZOO/.lock                       who writes the zoo, while it does (mdjax.locks)

A group appears by one rename, so a killed writer leaves either a whole group or a temporary folder, which a later
writer removes. A zoo has one writer at a time; readers need not wait for it. In an object store a zoo is only read.
"""

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from mdjax import files
from mdjax.addresses import Address, located
from mdjax.errors import InputError, brief, first_line
from mdjax.inputs import expect_damage, read_json
from mdjax.locks import LOCK, one_writer
from mdjax.models import Architecture
from mdjax.models.architecture import parse_shape, shape_text
from mdjax.models.sequences import layers_of
from mdjax.parquet import read_frame, write_frame
from mdjax.statuses import StatusCode
from mdjax.zoo.folders import folder_of
from mdjax.zoo.manifests import check_rows, completed, concatenated, differing
from mdjax.zoo.weights import check_shapes, finite_models, restored, save, weights_hash

PyTree = Any

FORMAT = "mdjax-zoo"
VERSION = 1
_REMEDY = "Restore its folder from a copy, or delete the folder and run the command that made it again."


class DamagedGroupError(InputError):
    """A group of a zoo cannot be read; the message names it. The other groups are unaffected."""


def open_shape(architecture: Architecture) -> str:
    """The manifest's `input_shape` of a network whose inputs nobody described: only what its weights tell.

    Images of any size have question marks for it: "?x?x3". A network that flattens images of one channel, or
    vectors, reads so many numbers: "784". Tokens of any number are "?".
    """
    shape = architecture.input_shape
    if architecture.reads_tokens:
        return "?"
    if len(shape) != 3 or architecture.family == "encoder":
        return shape_text(shape)
    flattens = architecture.family == "mlp"
    if architecture.family == "sequence":
        kinds = [layer.kind for layer in layers_of(architecture.variant)]
        flattens = "flatten" in kinds and "conv" not in kinds[: kinds.index("flatten")]
    if flattens and shape[2] == 1:
        return shape_text((math.prod(shape),))
    return f"?x?x{shape[2]}"


def shape_on(text: str, data_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The input shape that a manifest's text stands for where the data has examples of `data_shape`.

    That of the data, where the text leaves it open (see `open_shape`) and it fits. Raises InputError where a network
    reads images of any size, but the data has none of its channels.
    """
    if not text.startswith("?"):
        shape = parse_shape(text)
        reads_numbers = len(shape) == 1 and len(data_shape) == 3 and data_shape[2] == 1
        return data_shape if reads_numbers and math.prod(data_shape) == shape[0] else shape
    if text == "?":
        if len(data_shape) != 1:
            raise InputError(
                f"The zoo's models read tokens, but the data has inputs of shape {data_shape}. Give the data they were "
                "trained on with --data."
            )
        return data_shape
    channels = int(text.rpartition("x")[2])
    if len(data_shape) != 3 or data_shape[2] != channels:
        raise InputError(
            f"The zoo's models read images of {channels} channels, but the data has inputs of shape {data_shape}. "
            "Give the data they were trained on with --data."
        )
    return data_shape


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def _read_json(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    return content


class Zoo:
    """An open zoo. `Zoo(path)` opens an existing one, `Zoo("s3://bucket/zoo")` one to be read in an object store;
    `Zoo.create` makes one or reopens it to add models.

    `manifest` is a frame with one row per model: `model_id`, `configuration` (the model's settings without the
    seed), `seed`, `group`, `position` (its index there), the architecture's fields (`input_shape` may leave open what
    nobody told, see `open_shape`), `num_params`, `weights_hash`, `status` ("ok", or a sentence) with `status_code` (a
    `StatusCode`'s value), and whatever is known of the training (`mdjax.columns.TRAINING`; missing where unknown).
    `damaged` are the groups whose rows cannot be read, each with the sentence that says so; their models are not in
    the manifest.
    """

    def __init__(self, path: str | Path | Address):
        self.path = located(path)
        self._folder = folder_of(self.path)
        header = self.path / "zoo.json"
        try:
            with self._folder.file("zoo.json") as file:
                content = _read_json(file)
        except FileNotFoundError:
            raise InputError(
                f"{self.path} is no zoo: it has no zoo.json. Grow one with 'mdjax train', or convert checkpoints "
                "with 'mdjax-convert'."
            ) from None
        except (ValueError, OSError) as error:
            expect_damage(error, str(header))
            raise InputError(f"Cannot read {header}: {first_line(error)}. Restore it from a copy of the zoo.") from None
        if content.get("format") != FORMAT or content.get("version") != VERSION:
            found = [brief(content.get(name)) for name in ("format", "version")]
            raise InputError(
                f"{header} has format {found[0]} version {found[1]}, but this mdjax "
                f"reads {FORMAT!r} version {VERSION}. Convert the zoo again with this version."
            )
        data, fingerprint = content.get("data", ""), content.get("fingerprint")
        if not isinstance(data, str) or "\0" in data or not isinstance(fingerprint, str | None):
            raise InputError(
                f"{header} says that data is {brief(data)} and its fingerprint {brief(fingerprint)}, where "
                "texts are expected. Restore it from a copy of the zoo."
            )
        self.data, self.fingerprint = data, fingerprint
        self.damaged: dict[str, str] = {}
        self.manifest = self._load_manifest()
        self._is_held = False

    @classmethod
    def create(cls, path: str | Path, *, data: str, fingerprint: str | None = None) -> "Zoo":
        """Make an empty zoo for models trained on `data`, or reopen the one that is there.

        `fingerprint` is the data's content digest (`Dataset.fingerprint`), where it is known. Raises InputError
        where the folder cannot be written, holds a zoo of other data, or another process is writing it.
        """
        path = files.place(path)
        with files.writing(f"the zoo {path}"):
            for folder in (path, path / "groups"):
                files.make_writable(folder)
        with one_writer(path / LOCK, f"the zoo {path}"), files.writing(f"the zoo {path}"):
            if not (path / "zoo.json").exists():
                header = {"format": FORMAT, "version": VERSION, "data": data, "fingerprint": fingerprint}
                with files.replacing(path / "zoo.json") as temporary:
                    temporary.write_text(_json(header))
        zoo = cls(path)
        if zoo.data != data:
            raise InputError(
                f"The zoo {path} holds models trained on {zoo.data!r}, not {data!r}. Choose another folder for --out."
            )
        if None not in (fingerprint, zoo.fingerprint) and fingerprint != zoo.fingerprint:
            raise InputError(
                f"The data {data!r} has changed since the models of the zoo {path} were trained on it. "
                "Bring the old data back or choose another folder for --out."
            )
        return zoo

    @property
    def groups(self) -> list[str]:
        """The names of the groups, sorted; damaged ones included."""
        try:
            return self._folder.groups()
        except OSError as error:
            expect_damage(error, f"the groups of {self.path}")
            raise

    def __len__(self) -> int:
        return len(self.manifest)

    def __repr__(self) -> str:
        return f"Zoo({str(self.path)!r}, {len(self)} models in {len(self.groups)} groups, data={self.data!r})"

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Makes this the zoo's only writer until the block ends, or the process does; what others added is seen first.

        Blocks may be nested. Raises InputError, which names the other process, where there is one.
        """
        if self._is_held:
            yield
            return
        with one_writer(files.place(self.path) / LOCK, f"the zoo {self.path}"):
            if {*self.manifest.get("group", ()), *self.damaged} != set(self.groups):
                self.damaged = {}
                self.manifest = self._load_manifest()
            self._is_held = True
            try:
                yield
            finally:
                self._is_held = False

    def append(
        self,
        group: str,
        architecture: Architecture,
        rows: Sequence[Mapping[str, Any]],
        params: PyTree,
        state: PyTree,
    ) -> None:
        """Add a group of models of one architecture, all or nothing.

            group: a plain folder name. Where the zoo has it with these models, nothing is added.
            architecture: of every model of the group.
            rows: one mapping per model, with at least `model_id`, `configuration` and `seed`; with an `input_shape` as
                `open_shape` gives it where the architecture's is only one of many.
            params: a pytree of arrays [models, ...], as `architecture.init` makes them.
            state: the same for the networks' statistics.

        The manifest's other columns are found out here. Raises InputError where the folder cannot be written, another
        process is writing the zoo, a model id or the group's name is already taken, or shapes do not fit the
        architecture.
        """
        with self.writing():
            if "/" in group or group.startswith(".") or not group:
                raise InputError(f"Group name {group!r} is no plain folder name. Leave out slashes and leading dots.")
            params, state = jax.tree.map(np.asarray, (params, state))
            check_shapes(group, architecture, len(rows), params, state)
            frame = pd.DataFrame(list(rows))
            others = self.manifest[self.manifest["group"] != group]
            taken = set(frame["model_id"]) & set(others["model_id"])
            taken |= set(frame["model_id"][frame["model_id"].duplicated()])
            if taken:
                raise InputError(
                    f"Model ids occur twice in {self.path}: {sorted(taken)[:3]}. Give each model its own id."
                )
            frame["group"] = group
            frame["position"] = np.arange(len(frame))
            fields = dataclasses.asdict(architecture)
            for name, value in fields.items():
                texts = [row.get("input_shape", shape_text(architecture.input_shape)) for row in rows]
                frame[name] = texts if name == "input_shape" else value
            frame["num_params"] = architecture.num_params
            frame["weights_hash"] = weights_hash(params, state)
            finite = finite_models(params, state)
            frame["status"] = np.where(finite, "ok", "weights are not finite")
            frame["status_code"] = np.where(finite, StatusCode.OK.value, StatusCode.WEIGHTS_NOT_FINITE.value)
            try:
                check_rows(frame)
            except ValueError as error:  # it would be refused when it is read
                raise InputError(f"Cannot add the group {group}: {first_line(error)}. Correct its rows.") from None

            remedy = "Free space or choose a folder that you may write to, then run the same command again."
            with files.writing(f"group {group} of the zoo {self.path}", remedy):
                try:
                    if group in self.groups:
                        raise FileExistsError
                    with files.new_folder(files.place(self.path) / "groups" / group) as folder:
                        save(folder / "arrays", params, state)
                        write_frame(frame, folder / "models.parquet")
                        (folder / "group.json").write_text(_json({"architecture": fields}))
                except FileExistsError:
                    self._expect_same(group, frame)
                self.manifest = concatenated([others, frame])
                self._save_manifest()

    def _expect_same(self, group: str, frame: pd.DataFrame) -> None:
        """Of a group that is there: it must be what was about to be written."""
        identity = ["model_id", "weights_hash"]
        try:
            winner = read_frame(files.place(self.path) / "groups" / group / "models.parquet")
            same = winner[identity].to_numpy().tolist() == frame[identity].to_numpy().tolist()
        except Exception as error:  # pyarrow raises many types for a cut file
            expect_damage(error, f"group {group} of {self.path}")
            same = False
        if same:
            return
        if group in set(self.manifest["group"]):
            raise InputError(f"The zoo {self.path} already has a group {group}, of other models. Choose another name.")
        raise InputError(
            f"The zoo {self.path} has a folder for group {group} that is damaged. Delete "
            f"{self.path / 'groups' / group} or choose another zoo."
        )

    def architecture(self, group: str) -> Architecture:
        """The architecture of a group's models."""
        if group not in self.groups:
            raise DamagedGroupError(f"Group {group} of {self.path} is missing. Restore its folder from a copy.")
        try:
            with self._folder.file(f"groups/{group}/group.json") as path:
                fields = _read_json(path)["architecture"]
            return Architecture(**fields)
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            system = error if isinstance(error, OSError) else None
            raise self._damaged(group, f"group.json: {first_line(error)}", system) from None

    def read_group(self, group: str) -> tuple[PyTree, PyTree]:
        """The stacked (params, state) of one group as numpy arrays, checked against the manifest's hashes.

        Raises DamagedGroupError, which names the group, where files are missing, truncated or altered; MemoryError or
        InputError where it would take too much memory or cannot be read just now.
        """
        architecture = self.architecture(group)
        rows = self.manifest.loc[self.manifest["group"] == group].sort_values("position", ignore_index=True)
        try:
            own = self._rows(group).sort_values("position", ignore_index=True)
        except Exception as error:  # pyarrow raises many types for a cut file
            raise self._damaged(group, f"models.parquet: {first_line(error)}", error) from None
        if (name := differing(rows, own)) is not None:
            raise self._damaged(group, f"its models.parquet and the zoo's manifest.parquet differ in {name}")
        if (name := _other_fact(architecture, own)) is not None:
            raise self._damaged(group, f"its models.parquet and group.json differ in {name}")
        try:
            with self._folder.tree(f"groups/{group}/arrays") as arrays:
                params, state = restored(arrays, architecture, len(own))
        except Exception as error:  # Orbax and TensorStore raise many types for a file that is cut or missing
            raise self._damaged(group, first_line(error), error) from None
        if weights_hash(params, state) != own["weights_hash"].tolist():
            raise self._damaged(group, "its weights do not fit their hashes")
        return params, state

    def _rows(self, group: str) -> pd.DataFrame:
        """The rows that a group's own file holds; any error where it cannot be read or says what cannot be."""
        # Not the file's own word for the group: it could name a path that leaves the zoo.
        with self._folder.file(f"groups/{group}/models.parquet") as path:
            rows = completed(read_frame(path, f"{self.path}/groups/{group}/models.parquet").assign(group=group))
        check_rows(rows)
        return rows

    def _load_manifest(self) -> pd.DataFrame:
        groups, path = self.groups, self.path / "manifest.parquet"
        try:
            with self._folder.file(path.name) as file:
                manifest = completed(read_frame(file, str(path)))
            check_rows(manifest)
            if sorted(set(manifest["group"])) == groups:
                return manifest
        except Exception as error:  # missing, or cut by a crash: the groups hold everything it says
            expect_damage(error, str(path))
        frames = []
        for group in groups:
            try:
                frames.append(self._rows(group))
            except Exception as error:  # pyarrow raises many types for a cut file
                self.damaged[group] = str(self._damaged(group, f"models.parquet: {first_line(error)}", error))
        return self._checked_ids(concatenated(frames))

    def _checked_ids(self, manifest: pd.DataFrame) -> pd.DataFrame:
        """The manifest; InputError where a model is in it twice, as two writers at a time of old versions left it."""
        again = manifest[manifest["model_id"].duplicated()]
        if len(again):
            name, group = again[["model_id", "group"]].iloc[0]
            first = manifest.loc[manifest["model_id"] == name, "group"].iloc[0]
            raise InputError(
                f"The zoo {self.path} holds {len(again)} models twice, first {name} in the groups {first} and {group}. "
                f"Delete the folder {self.path / 'groups' / str(group)}, and run the command that made it again."
            )
        return manifest

    def _damaged(self, group: str, reason: str, error: Exception | None = None) -> DamagedGroupError:
        if error is not None:
            expect_damage(error, f"group {group} of {self.path}")
        return DamagedGroupError(f"Group {group} of {self.path} is damaged: {reason}. {_REMEDY}")

    def _save_manifest(self) -> None:
        with files.replacing(files.place(self.path) / "manifest.parquet") as temporary:
            write_frame(self.manifest, temporary)


def _other_fact(architecture: Architecture, rows: pd.DataFrame) -> str | None:
    """The first column of a group's rows that tells another network than the architecture, if any."""
    expected: dict[str, Any] = dataclasses.asdict(architecture) | {"num_params": architecture.num_params}
    for name, value in expected.items():
        told = [shape_text(value), open_shape(architecture)] if name == "input_shape" else [value]
        if not rows[name].isin(told).all():
            return name
    return None
