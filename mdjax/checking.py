"""From checkpoint files to a verdict in one call: convert, measure what a verdict reads, diagnose.

The one place in mdjax that asks the converters, inside its functions: all others do without them and without torch.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import jax
import numpy as np
import pandas as pd

from mdjax.columns import TRAINING
from mdjax.diagnosis.calibrations import Calibration, calibration_of
from mdjax.diagnosis.explanations import Verdict
from mdjax.diagnosis.quantities import quantity
from mdjax.diagnosis.trees import SHIPPED, Trees, as_trees
from mdjax.diagnosis.verdicts import Diagnosis
from mdjax.durations import seconds_of
from mdjax.errors import InputError, check_options, check_whole
from mdjax.escapes import printable
from mdjax.files import make_file_writable, make_writable, place, temporary_folder, writing
from mdjax.models import Architecture
from mdjax.report.page import write_report
from mdjax.statuses import StatusCode
from mdjax.sweeps.local import MOST_SEED, measure
from mdjax.sweeps.noise import LabelNoise
from mdjax.table import Table, write_table
from mdjax.tasks import TASKS, Task
from mdjax.zoo.data import Data, Dataset, absolute, dataset_of, split_told
from mdjax.zoo.draws import draw_of
from mdjax.zoo.store import Zoo, weights_hash

if TYPE_CHECKING:
    from converters.seeds import Seeds

_GROUP = "checked"
_MODEL_COLUMNS = ("model_id", "model_a", "model_b")


class CheckOptions(TypedDict, total=False):
    """What else a check may be told.

    `facts`: what weights do not tell, as `converters.convert` takes it, `{"nonlinearity": "tanh"}`. `layout` says what
    the inputs of the data are, `task` what the network is asked, `num_examples` how many of them are read and
    `label_noise` whether labels are redrawn, as for `mdjax.measure`. `ema`: take the averaged weights beside the
    others. `trust`: let files run code of their own. `preset` is "default", "reference" or "fast" and `seed` (default
    0) moves every random number, as for `mdjax.measure`; `show_progress` (default True) draws bars. `calibrate` is a
    time, like "10m": so long small networks of this kind are grown on these data, and asked in place of the trees
    (`mdjax.calibrate`); in `out` they are kept.
    """

    facts: Mapping[str, Any]
    layout: str | None
    task: Task | str | None
    num_examples: int | None
    label_noise: LabelNoise | None
    ema: bool
    trust: bool
    preset: str
    seed: int
    show_progress: bool
    calibrate: str | None


@dataclass(frozen=True)
class Check:
    """A verdict on checkpoints, the table that it was read off, and what became of the files.

    `checked` says what was measured. `notes` are sentences on files that count with others, `refused` maps a file that
    could not be taken to the reason, and `more` are sentences on what would make the verdict surer.
    """

    verdict: Verdict
    table: Table
    checked: str
    notes: tuple[str, ...] = ()
    refused: Mapping[Path, str] = field(default_factory=dict)
    more: tuple[str, ...] = ()

    def to_text(self) -> str:
        """What was checked, the verdict with its evidence, what was left out and what would add to it, for people."""
        left_out = [f"Left out: {path}: {reason}." for path, reason in self.refused.items()]
        told = [list(map(printable, lines)) for lines in ([self.checked], [*left_out, *self.notes], self.more)]
        parts = [told[0], [self.verdict.to_text()], *told[1:]]
        return "\n\n".join("\n".join(lines) for lines in parts if lines)

    __str__ = to_text


def check(
    paths: str | Path | Sequence[str | Path],
    *,
    data: Data,
    module: Any = None,
    out: str | Path | None = None,
    report: str | PathLike[str] | None = None,
    trees: Trees | Calibration = SHIPPED,
    **options: Unpack[CheckOptions],
) -> Check:
    """Why the network of one checkpoint, or of several that are seeds of each other, underperforms.

    A network that a zoo can hold is converted into one and measured there; any other torch module runs through
    torchax, a Flax module as it is. Measured is what the trees read: losses, Hessian, and between different seeds mode
    connectivity and CKA. Weights that are not finite give a verdict that says so.

        paths: checkpoint files, or folders with those of one configuration; see `converters.seeds.read_seeds`.
        data: what they were trained on, as `mdjax.measure` takes it.
        module: the network's own torch or Flax module, or its code as "FILE.py:CLASS" or "FILE.py:CLASS(16)"; needed
            for Flax, and for networks of no known family.
        out: a folder for the zoo (where one can hold the network) and the table; the same call with it resumes.
        report: where to write the HTML page.
        trees: what `mdjax.diagnose` takes.
        options: `facts`, `layout`, `task`, `num_examples`, `label_noise`, `ema`, `trust`, `preset`, `seed` and
            `show_progress`, see `CheckOptions`.

    Cost: for a small network on a CPU half a minute, most of it compiling; with a second seed a curve as well. Raises
    InputError for what `read_seeds`, `mdjax.measure` and `mdjax.diagnose` raise it, and for a folder or page that
    cannot be written.
    """
    from converters.seeds import read_seeds
    from converters.state_dicts import Reading

    check_options("check", options, CheckOptions)
    check_whole("seed", options.get("seed", 0), 0, MOST_SEED)
    trees = calibration_of(trees) or as_trees(trees)  # pyright: ignore[reportArgumentType]
    budget = options.get("calibrate")
    if budget is not None:
        seconds_of(budget)  # told before anything is done
        if options.get("num_examples") is not None:
            raise InputError(
                "calibrate grows networks on all the data, and num_examples takes a sample. Leave one of them out, or "
                "calibrate first (mdjax calibrate) and give its folder as the tree."
            )
    paths = [paths] if isinstance(paths, str | Path) else paths
    draw = draw_of(options.get("num_examples"), options.get("seed", 0))
    dataset = dataset_of(data, options.get("layout"), options.get("task"), draw)
    if not isinstance(data, str | PathLike):  # it may give its examples only once
        data, options = dataset, {**options, "layout": None, "task": None, "num_examples": None}
    # Tried before anything is computed for them.
    if out is not None:
        with writing(f"the folder {out}"):
            make_writable(place(out))
    if report is not None:
        with writing(str(report)):
            make_file_writable(place(report))
    seeds = read_seeds(
        paths,
        dataset,
        module=module,
        facts=options.get("facts") or {},
        reading=Reading(ema=options.get("ema", False), trust=options.get("trust", False)),
    )
    name = _name(seeds.files)
    table = _measured(seeds, name, data, out, options)
    if budget is not None:
        trees = _calibrated(seeds, dataset, budget, out, show=options.get("show_progress", True))
    diagnosis = Diagnosis.of(table.configurations, trees)
    if report is not None:
        source = None if out is None else str(Path(out) / "table")
        write_report(report, table, trees=trees, highlight=name, source=source)
    return Check(
        verdict=diagnosis.verdict(0),
        table=table,
        checked=_checked(seeds, table, dataset.name),
        notes=(*seeds.notes, *_troubles(table)),
        refused=seeds.refused,
        more=tuple(_more(diagnosis, can_calibrate=seeds.architecture is not None)),
    )


def like_checkpoint(
    path: str | Path,
    data: Data,
    recipe: Mapping[str, Any],
    facts: Mapping[str, Any],
    task: Task | str | None = None,
) -> tuple[Architecture, dict[str, Any]]:
    """What `mdjax.calibrate` needs to grow small networks like a checkpoint's: its architecture, and the recipe.

    path: a file that `converters.seeds.read_seeds` reads without a module.
    data: what it was trained on, which tells the shape of its inputs.
    recipe: as `mdjax.calibrate` takes it; wins over what the file and its path tell.
    facts: as `converters.convert` takes them.
    task: what the network is asked, as for `mdjax.measure`.

    Raises InputError for what `read_seeds` raises it.
    """
    from converters.seeds import read_seeds

    seeds = read_seeds([path], dataset_of(data, task=task), facts=facts)
    assert seeds.architecture is not None  # without a module a network is of a known family or refused
    return seeds.architecture, {**_known_training(seeds), **recipe}


def _known_training(seeds: "Seeds") -> dict[str, Any]:
    """What is known of the training of a zoo's networks."""
    return {name: value for name, value in seeds.rows[0].items() if name in TRAINING and not pd.isna(value)}


def _calibrated(seeds: "Seeds", dataset: Dataset, budget: str, out: str | Path | None, *, show: bool) -> Calibration:
    """What small networks of this kind on these data say; InputError where none can be made from the files."""
    from mdjax.calibration.growing import calibrate

    if seeds.architecture is None:
        raise InputError(
            "Smaller networks of this kind cannot be made from its module alone. Calibrate in Python, "
            "mdjax.calibrate(width, build=lambda width: (model, init), ...), and give --tree its folder (trees=), with "
            "the facts width, batch_size, learning_rate and data_share."
        )
    # Where the settings are known the losses of small networks say it all; else their trees are asked.
    told = _known_training(seeds)
    is_known = {"batch_size", "learning_rate"} <= told.keys()
    with _folder(out) as folder:
        found = calibrate(
            seeds.architecture,
            data=dataset,
            out=folder / "calibration",
            budget=budget,
            recipe=told,
            landscape=not is_known,
            show_progress=show,
        )
    assert isinstance(found, Calibration)
    return found


def _measured(seeds: "Seeds", name: str, data: Data, out: str | Path | None, options: CheckOptions) -> Table:
    """The table of the models, with one configuration of that name."""
    how: dict[str, Any] = {
        "label_noise": options.get("label_noise"),
        "preset": options.get("preset", "default"),
        "seed": options.get("seed", 0),
        "show_progress": options.get("show_progress", True),
    }
    kept = None if out is None else Path(out) / "table"
    if seeds.architecture is None:
        table = measure(seeds.models, model=seeds.model, data=seeds.dataset, facts=seeds.facts, **how)
        table = _named(table, name, seeds.files)
        return table if kept is None else write_table(kept, table)
    with _folder(out) as folder:
        told = {"layout": options.get("layout"), "task": options.get("task")}
        zoo = _zoo(folder / "zoo", seeds, name, data, told)
        return measure(zoo, out=kept, data=data, num_examples=options.get("num_examples"), **told, **how)


@contextlib.contextmanager
def _folder(out: str | Path | None) -> Iterator[Path]:
    """The folder that was asked for, or one that is gone afterwards."""
    if out is not None:
        yield Path(out)
        return
    with contextlib.ExitStack() as stack:
        with writing("a temporary folder", "Name a folder that you may write to with --out (out=)."):
            folder = stack.enter_context(temporary_folder())
        yield folder


def _zoo(path: Path, seeds: "Seeds", name: str, data: Data, told: Mapping[str, Any]) -> Zoo:
    """The models as a zoo; InputError where one is there that holds others, or says something else of them."""
    source = absolute(str(data)) if isinstance(data, str | PathLike) else ""
    if source:
        own, rest = split_told(source)
        layout, task = own.layout or told["layout"], own.task or _name_of(told["task"])
        source = own._replace(layout=layout, task=task).prefix + rest
    zoo = Zoo.create(path, data=source, fingerprint=seeds.dataset.whole_fingerprint or None)
    ids = _ids(seeds.files)
    rows = [
        {**row, "model_id": ids[number], "configuration": name, "seed": number} for number, row in enumerate(seeds.rows)
    ]
    params, state = jax.tree.map(lambda *leaves: np.stack(leaves), *seeds.models)
    with zoo.writing():
        if len(zoo) == 0:
            assert seeds.architecture is not None
            zoo.append(_GROUP, seeds.architecture, rows, params, state)
        elif not _holds(zoo.manifest, rows, weights_hash(params, state)):
            raise InputError(
                f"{path} holds other models, or was told otherwise of them. Choose another folder for --out."
            )
    return zoo


def _name_of(task: Task | str | None) -> str | None:
    """What the record of a zoo calls a task; one of the user's own has no name there."""
    return task if isinstance(task, str | None) else task.name if task.name in TASKS else None


def _holds(manifest: pd.DataFrame, rows: Sequence[Mapping[str, Any]], hashes: Sequence[str]) -> bool:
    """Whether a manifest is of these models and says this of them."""
    told = pd.DataFrame(list(rows))
    if manifest["weights_hash"].tolist() != list(hashes) or not set(told) <= set(manifest):
        return False
    held, told = (frame.astype(object).where(frame.notna(), None) for frame in (manifest[told.columns], told))
    return held.to_numpy().tolist() == told.to_numpy().tolist()


def _named(table: Table, name: str, files: Sequence[Path]) -> Table:
    """The table of a list of models, called as their files are."""
    ids = {f"model{number}": model_id for number, model_id in enumerate(_ids(files))}

    def renamed(frame: pd.DataFrame) -> pd.DataFrame:
        found = frame.assign(configuration=name)
        return found.assign(**{column: found[column].replace(ids) for column in _MODEL_COLUMNS if column in found})

    return replace(
        table,
        models=renamed(table.models),
        pairs=renamed(table.pairs),
        configurations=renamed(table.configurations),
    )


def _ids(files: Sequence[Path]) -> list[str]:
    """Names of the files that tell them apart."""
    names = [path.name for path in files]
    return names if len(set(names)) == len(names) else [str(path) for path in files]


def _name(files: Sequence[Path]) -> str:
    return files[0].name if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more"


def _checked(seeds: "Seeds", table: Table, data: str) -> str:
    """One sentence: which files, of what, on which data."""
    size = f"{int(table.models['num_params'].iloc[0]):,} parameters"
    what = seeds.construction
    if seeds.architecture is not None:
        what = f"{seeds.architecture.family} of width {seeds.architecture.width}"
    named = ", ".join(map(str, seeds.files[:3])) + (f" and {len(seeds.files) - 3} more" if len(seeds.files) > 3 else "")
    count = f", {len(seeds.files)} seeds" if len(seeds.files) > 1 else ""
    return f"Checked {named}: {what}, {size}{count}, measured on {data}."


def _troubles(table: Table) -> Iterator[str]:
    """Which models no number can be had of, a sentence each; what else went wrong the verdict says."""
    for name, code, status in table.models[["model_id", "status_code", "status"]].itertuples(index=False):
        if code == StatusCode.WEIGHTS_NOT_FINITE:
            yield f"{name}: its {status}, as after a training that diverged. Take an earlier checkpoint."


def _more(diagnosis: Diagnosis, *, can_calibrate: bool) -> Iterator[str]:
    """What a verdict could be given besides, a sentence each."""
    row = diagnosis.table.iloc[0]
    if row["num_models"] < 2 and row["status_code"] != StatusCode.WEIGHTS_NOT_FINITE:
        names = {name for tree in diagnosis.trees.values() for name in tree.features if quantity(name).of_pairs}
        yield (
            "A second checkpoint, trained alike from another seed, would add how the two are connected and how alike "
            f"they are ({', '.join(sorted(names))}): mdjax check with both files."
        )
    if diagnosis.calibration is None and can_calibrate:
        yield (
            "Calibrating would grow small networks of this kind on these data, and say what each change is expected to "
            "bring and how often such answers are right: mdjax check with --calibrate 10m, --fact batch_size= and "
            "--fact learning_rate=."
        )
