"""What processes that read files are told of them, and tell: JSON, and a file with the arrays."""

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converters.layouts.contract import Candidate
from converters.naming import Given, Override
from converters.recognition import Recognised
from mdjax.handovers import read_arrays, write_arrays
from mdjax.models import Architecture


def told_given(given: Given) -> dict[str, Any]:
    """A file's description, as JSON takes it."""
    return {**_fields(given), "candidate": {**_fields(given.candidate), "path": str(given.candidate.path)}}


def given_of(told: Mapping[str, Any]) -> Given:
    """The description that was told."""
    fields = _tupled(told)
    candidate = Candidate(**{**fields["candidate"], "path": Path(fields["candidate"]["path"])})
    return Given(**{**fields, "candidate": candidate, "overrides": _overrides(fields["overrides"])})


def told_found(network: Recognised, model: Any, digest: str, file: str | None) -> dict[str, Any]:
    """A network, as JSON takes it, its arrays in a file where one is named."""
    told = {**_fields(network), "architecture": _fields(network.architecture), "digest": digest}
    if file is not None:
        arrays: list[np.ndarray] = []
        told["model"] = _numbered(model, arrays)
        told["places"] = write_arrays(Path(file), arrays)
        told["file"] = file
    return told


def found_of(told: Mapping[str, Any]) -> tuple[Recognised, Any, str]:
    """The network that was told, its arrays (None without), and the digest of its weights; the file is removed."""
    fields, model = _tupled({name: one for name, one in told.items() if name not in ("model", "places")}), None
    if told.get("file") is not None:
        file = Path(told["file"])
        arrays = read_arrays(file, told["places"])
        with contextlib.suppress(OSError):  # a system that keeps files that are mapped
            file.unlink()
        model = tuple(_filled(tree, arrays) for tree in told["model"])
    network = Recognised(
        architecture=Architecture(**fields["architecture"]),
        row=fields["row"],
        model=None,
        overridden=_overrides(fields["overridden"]),
        misnamed=_overrides(fields["misnamed"]),
        notes=fields["notes"],
    )
    return network, model, told["digest"]


def _fields(one: Any) -> dict[str, Any]:
    return {
        field.name: _plain(getattr(one, field.name)) for field in dataclasses.fields(one) if field.name not in _APART
    }


_APART = ("model", "candidate", "architecture")


def _plain(value: Any) -> Any:
    """A value as JSON has it: mappings, lists, numbers and texts."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def _tupled(value: Any) -> Any:
    """What was a tuple before JSON made a list of it."""
    if isinstance(value, Mapping):
        return {name: _tupled(one) for name, one in value.items()}
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


def _overrides(told: Any) -> tuple[Override, ...]:
    return tuple(Override(*one) for one in told)


def _numbered(tree: Any, arrays: list[np.ndarray]) -> Any:
    """The tree with a number in place of each array."""
    if isinstance(tree, Mapping):
        return {name: _numbered(one, arrays) for name, one in tree.items()}
    if isinstance(tree, tuple):
        return [_numbered(one, arrays) for one in tree]
    arrays.append(np.asarray(tree))
    return len(arrays) - 1


def _filled(tree: Any, arrays: list[np.ndarray]) -> Any:
    return {name: _filled(one, arrays) for name, one in tree.items()} if isinstance(tree, dict) else arrays[tree]
