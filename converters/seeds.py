"""Checkpoint files from anywhere → the models of one configuration, seeds of each other, in a form that is measured.

A network that a zoo can hold comes as an architecture with rows of a manifest; any other as its module's own function.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from flax import nnx

from converters import layouts
from converters.errors import RefusedError, UnknownFamilyError
from converters.identities import digest_of
from converters.layouts.contract import Candidate
from converters.module_copies import plain
from converters.naming import NETWORK, Given, Statements, overrides
from converters.own_modules import Made, OwnModule, made
from converters.recognition import Recognised, label, recognised
from converters.reports import Outcome
from converters.state_dicts import USUAL, Reading, read_state_dict, require_torch
from mdjax.columns import TRAINING
from mdjax.errors import InputError, first_line
from mdjax.models import Architecture
from mdjax.sweeps.facts import KNOWN, read_facts
from mdjax.zoo.data import Dataset

PyTree = Any
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_NUM_EXAMPLES = 2
_SIZES = ("width", "depth")
_GIVE_CODE = "give the network's code with --module FILE.py:CLASS (in Python module=)"


@dataclasses.dataclass(frozen=True)
class Seeds:
    """Models of one configuration in the order of their files, each with weights of its own.

    `models` are (params, state), `files` those that they are from. `architecture` is theirs where a zoo can hold them,
    and `rows` what its manifest says of each; else `architecture` is None, `rows` is empty and `model` is how they are
    called (`mdjax.models.Model`), made by `construction`, and `facts` are what was said of their training, as
    `mdjax.measure` takes it. `dataset` holds the data as the networks read them.
    `notes` are sentences on files that count with others, `refused` maps a file to the reason why it cannot be taken.
    """

    files: tuple[Path, ...]
    models: tuple[tuple[PyTree, PyTree], ...]
    dataset: Dataset
    architecture: Architecture | None = None
    rows: tuple[Mapping[str, Any], ...] = ()
    model: Any = None
    construction: str = ""
    facts: Mapping[str, int | float] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    refused: Mapping[Path, str] = dataclasses.field(default_factory=dict)


def read_seeds(
    paths: Sequence[str | Path],
    dataset: Dataset,
    *,
    module: Any = None,
    facts: Mapping[str, Any] = _NOTHING,
    reading: Reading = USUAL,
) -> Seeds:
    """The models of the checkpoints `paths`, which are seeds of one configuration.

        paths: files that `converters.read_state_dict` reads, or folders of such; with a Flax module what
            `converters.from_flax` reads.
        dataset: what they were trained on; it tells the shape of their inputs.
        module: the networks' own torch or Flax module, or its code as "FILE.py:CLASS"; needed for Flax, and for
            networks of no known family. One that a zoo cannot hold runs through torchax.
        facts: as `converters.convert` takes them; of a network that no zoo holds those that `mdjax.measure` takes.
        reading: whether averaged weights are taken, and files trusted that run code of their own.

    A file that cannot be taken is left out with its reason; a copy of another, and another checkpoint of its training
    run, with a note. Cost: that of reading; for a module that a zoo cannot hold that of `converters.from_module`.

    Raises InputError where a file is missing, none can be taken, two are of different networks or trainings, a folder
    holds several configurations, a fact cannot be, the module does not take the data, or torch or torchax is missing.
    """
    account = _Account({}, [])
    files = account.once([Path(path) for path in paths])
    code = None if module is None else made(module)
    if code is not None and isinstance(code.module, nn.Module | nnx.Module):
        said = _said(facts, code.construction)
        return account.told(_by_flax(files, code, dataset, account), files, dataset.name, said)
    for path in files:
        if code is None and _is_flax(path):
            raise InputError(f"{path} is a Flax checkpoint, which holds no network: {_GIVE_CODE}.")
    require_torch()
    own = None if code is None else OwnModule(code)
    _check_facts(facts, own)
    # Weights tell how large a network of a zoo is; of any other its user may.
    sizes = {} if own is None else {name: facts[name] for name in _SIZES if name in facts}
    told = {name: value for name, value in facts.items() if name not in sizes}
    given = [each for path in files for each in _described(path, told, account)]
    given = list(_one_per_run(given, account))
    try:
        seeds, said = _by_family(given, dataset, own, reading, account), {}
        for name in sizes:
            raise InputError(f"The weights tell the network's {name}. Leave the fact {name} out.")
    except UnknownFamilyError:  # of a module; without one the file is refused
        assert own is not None
        said = _said(facts, own.construction)
        seeds = _by_module([each.candidate.path for each in given], own, dataset, reading, account)
    return account.told(seeds, files, dataset.name, said)


class _Account(NamedTuple):
    """What becomes of files that are left out."""

    refused: dict[Path, str]
    notes: list[str]

    def once(self, paths: Sequence[Path]) -> list[Path]:
        """The paths without those that are given again; InputError for one where nothing is, and for none."""
        if not paths:
            raise InputError("No checkpoint was given. Give one file or several, seeds of one configuration.")
        found: dict[Path, Path] = {}
        for path in paths:
            if not path.exists():
                raise InputError(f"There is no file or folder {path}. Give a checkpoint.")
            if found.setdefault(path.resolve(), path) is not path:
                self.note(path, "was given more than once and counts once.")
        return list(found.values())

    def refuse(self, path: Path, reason: str) -> None:
        self.refused[shown(path)] = reason

    def note(self, path: Path, sentence: str) -> None:
        self.notes.append(f"{shown(path)} {sentence}")

    def told(self, seeds: Seeds | None, files: Sequence[Path], data: str, facts: Mapping[str, int | float]) -> Seeds:
        """The seeds without copies, with what is to be said; InputError, which names the data, where there are none."""
        if seeds is None or not seeds.models:
            (path, reason), *others = self.refused.items() or [(shown(files[0]), "it holds no checkpoint")]
            more = f" (nor {len(others)} more)" if others else ""
            raise InputError(f"Cannot check {path}{more} on {data}: {reason}.")
        kept: dict[str, int] = {}
        for number, (path, model) in enumerate(zip(seeds.files, seeds.models, strict=True)):
            # Networks that diverged to NaN are alike and yet no copies.
            key = digest_of(model) or str(path)
            if (first := kept.setdefault(key, number)) != number:
                self.note(
                    path, f"holds the same weights as {shown(seeds.files[first])}: they are one model, no second seed."
                )
        indices = list(kept.values())
        return dataclasses.replace(
            seeds,
            files=tuple(shown(seeds.files[index]) for index in indices),
            models=tuple(seeds.models[index] for index in indices),
            rows=tuple(seeds.rows[index] for index in indices) if seeds.rows else (),
            facts=facts,
            notes=tuple(self.notes),
            refused=dict(self.refused),
        )


def _check_facts(facts: Mapping[str, Any], own: OwnModule | None) -> None:
    if "input_shape" in facts:
        raise InputError("The data tell the shape of inputs. Leave the fact input_shape out.")
    for name in NETWORK:
        if own is not None and name in facts:
            raise InputError(f"The module tells its {name}. Leave the fact {name} out.")


def _said(facts: Mapping[str, Any], construction: str) -> dict[str, int | float]:
    """What is said of the training of a network that no zoo holds; InputError for facts that would change nothing."""
    for name in facts:
        if name not in KNOWN:
            raise InputError(
                f"{construction} is measured by its own code, which the fact {name} does not change. Leave it out, or "
                f"give some of {', '.join(KNOWN)}."
            )
    return read_facts(facts)


def _described(path: Path, facts: Mapping[str, Any], account: _Account) -> list[Given]:
    """The checkpoints of a file, or of a folder that holds those of one configuration."""
    said = Statements(path, facts, None, None)
    found: list[Given] = []
    for claim in layouts.find(path):
        one = said.of(claim) if isinstance(claim, Candidate) else claim
        if isinstance(one, Outcome):
            account.refuse(one.path, one.reason)
        else:
            found.append(one)
    names = sorted({each.candidate.configuration for each in found})
    if len(names) > 1:
        raise InputError(
            f"{path} holds checkpoints of {len(names)} configurations, {names[0]} and {names[1]} first, but a verdict "
            f"is on one. Give the files of one, or convert them all with 'mdjax-convert {path}'."
        )
    return found


def _one_per_run(given: Sequence[Given], account: _Account) -> Iterator[Given]:
    """Of the checkpoints of one training run the best by rank: they are no seeds of each other."""
    runs: dict[tuple[Path, str, int], list[Candidate]] = {}
    keys = []
    for each in given:
        one = each.candidate
        keys.append((one.path.parent, one.run, -1 if one.counted else one.seed))
        runs.setdefault(keys[-1], []).append(one)
    for each, key in zip(given, keys, strict=True):
        best = min(runs[key], key=lambda candidate: (candidate.rank, candidate.path))
        if (one := each.candidate) is best:
            yield each
        else:
            account.note(
                one.path, f"is of the same training run as {shown(best.path)}, which is taken: they are one seed."
            )


def _by_family(
    given: Sequence[Given], dataset: Dataset, own: OwnModule | None, reading: Reading, account: _Account
) -> Seeds | None:
    """The models of networks that a zoo can hold; None where no file can be taken.

    Raises UnknownFamilyError for a module that is no such network.
    """
    taken: list[tuple[Given, Recognised]] = []
    for each in given:
        path = each.candidate.path
        try:
            network = recognised(each, dataset.input_shape, reading, own)
        except RefusedError as error:
            unknown = isinstance(error, UnknownFamilyError)
            if unknown and own is not None:
                raise
            account.refuse(path, f"{error}; {_GIVE_CODE}" if unknown else str(error))
            continue
        taken.append((each, network))
        if network.notes:
            account.note(path, f"was changed as it was read: {'; '.join(network.notes)}.")
        for name, said, found in network.overridden:
            account.note(path, f"says of its {name} {found}, but {said} was given.")
    if not taken:
        return None
    first, network = taken[0]
    for other, another in taken[1:]:
        _check_alike(first.candidate, network, other.candidate, another)
    return Seeds(
        files=tuple(each.candidate.path for each, _ in taken),
        models=tuple(found.model for _, found in taken),
        dataset=dataset,
        architecture=network.architecture,
        rows=tuple(found.row for _, found in taken),
        construction="" if own is None else own.construction,
    )


def _check_alike(first: Candidate, network: Recognised, other: Candidate, another: Recognised) -> None:
    """InputError for two that are no seeds of each other."""
    both = f"{shown(first.path)} and {shown(other.path)}"
    if network.architecture != another.architecture:
        told = " and ".join(sorted({label(found.architecture) for found in (network, another)}))
        raise InputError(
            f"{both} are of different networks ({told}), but a verdict is on seeds of one. Check each network by a "
            "command of its own."
        )
    names = [name for name in TRAINING if name in other.known]
    for name, one, two in overrides({name: first.known.get(name) for name in names}, other.known):
        if one is not None:
            raise InputError(
                f"{both} are of different trainings, with {name} {one} and {two}, but a verdict is on seeds of one. "
                "Check each training by a command of its own."
            )


def _by_module(files: Sequence[Path], own: OwnModule, dataset: Dataset, reading: Reading, account: _Account) -> Seeds:
    """The models of a torch module that runs as it is, through torchax."""
    from converters.modules import from_module, require_torchax

    require_torchax()
    try:
        # As reading leaves the files: pruning and weight normalisation multiplied out.
        module = plain(own.module).eval()
    except RefusedError as error:
        raise InputError(f"Cannot measure {own.construction}: {error}.") from None
    dataset, examples = _readable(module, own.construction, dataset)
    try:
        model = from_module(module, examples).model
    except RefusedError as error:
        raise InputError(f"Cannot measure {own.construction}: {error}.") from None
    found: list[tuple[Path, Any]] = []
    for path in files:
        try:
            found.append((path, model.arrays(read_state_dict(path, ema=reading.ema, trust=reading.trust))))
        except RefusedError as error:
            account.refuse(path, str(error))
    return Seeds(*_columns(found), dataset=dataset, model=model, construction=own.construction)


def _readable(module: Any, construction: str, dataset: Dataset) -> tuple[Dataset, Any]:
    """The data in the form that a torch module takes, and a few examples of it as its tensor."""
    import torch

    problems = []
    for each in _readings(dataset):
        inputs = each.x_train[:_NUM_EXAMPLES]
        tensor = torch.from_numpy(np.array(np.moveaxis(inputs, -1, 1) if inputs.ndim == 4 else inputs, order="C"))
        tensor = tensor if tensor.is_floating_point() else tensor.long()
        try:
            with torch.no_grad():
                module(tensor)
        except Exception as error:  # the module is the user's own: it can raise anything
            problems.append(f"{list(tensor.shape)} it raises {type(error).__name__}: {first_line(error)}")
            continue
        return each, tensor
    raise _misfit(construction, dataset, problems)


def _by_flax(files: Sequence[Path], code: Made, dataset: Dataset, account: _Account) -> Seeds | None:
    """The models of a Flax module, linen or nnx; None where no file can be taken."""
    from converters.flax_checkpoints import from_flax

    found: list[tuple[Path, Any]] = []
    model, fitting = None, dataset
    for path in files:
        problems = []
        for each in _readings(dataset) if model is None else [fitting]:
            try:
                if model is None:
                    model, fitting = from_flax(path, code.module, each.x_train[:_NUM_EXAMPLES]).model, each
                found.append((path, model.arrays(path)))
            except RefusedError as error:
                account.refuse(path, str(error))
            except Exception as error:  # of the module's own code, on inputs of this shape
                shape = [_NUM_EXAMPLES, *each.input_shape]
                problems.append(f"{shape} it raises {type(error).__name__}: {first_line(error)}")
                continue
            break
        else:
            raise _misfit(code.construction, dataset, problems)
    return Seeds(*_columns(found), dataset=fitting, model=model, construction=code.construction) if found else None


def _readings(dataset: Dataset) -> Iterator[Dataset]:
    """The data as they were read, and where nobody said what their inputs are, read the other way."""
    yield dataset
    if dataset.reading is not None and dataset.reading.otherwise is not None:
        yield dataset.reading.otherwise()


def _misfit(construction: str, dataset: Dataset, problems: Sequence[str]) -> InputError:
    return InputError(
        f"Cannot call {construction} on the data {dataset.name}: on inputs of {'; on '.join(problems)}. Give the data "
        "that it reads, or say with --layout what its inputs are."
    )


def _columns(found: Sequence[tuple[Path, Any]]) -> tuple[tuple[Path, ...], tuple[Any, ...]]:
    return tuple(path for path, _ in found), tuple(model for _, model in found)


def shown(path: Path) -> Path:
    """A path as it is told from the current folder."""
    folder = Path.cwd()
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def _is_flax(path: Path) -> bool:
    """Whether a path looks like what Flax writes: an Orbax folder, a step of a manager, a msgpack file."""
    marks = ("_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt")
    return path.suffix in (".msgpack", ".flax") or any(
        (folder / mark).is_file() for folder in (path, path / "default") for mark in marks
    )
