"""A zoo × metrics → a table, in this process: work split into units, each done once and kept."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import pandas as pd

from mdjax.console import warn
from mdjax.engine import Programs, is_shortage
from mdjax.engine import measure as measure_stack
from mdjax.engine.compilation import in_32_bits, keep_compiled_programs
from mdjax.errors import InputError, check_options, check_whole, first_line
from mdjax.files import place
from mdjax.metrics import Metric, select
from mdjax.models import Model
from mdjax.progress import progress
from mdjax.statuses import Status, StatusCode
from mdjax.sweeps.aggregation import are_rows_of, compose, member_row, with_status
from mdjax.sweeps.commits import Commits
from mdjax.sweeps.noise import rise
from mdjax.sweeps.preparation import PlanOptions, copies, left_out, members_of, prepared
from mdjax.sweeps.sources import DeviceData, GivenModels, Loaded, Source, loaded, one_at_a_time, runner
from mdjax.sweeps.units import Unit, unit_name
from mdjax.table import Table, read_table, write_table
from mdjax.zoo.data import Data


class RunOptions(PlanOptions, total=False):
    """How a measurement runs: on what (`PlanOptions`); `seed` moves every random number (default 0); `show_progress`
    (default True) draws a bar."""

    seed: int
    show_progress: bool


MOST_SEED = 2**32 - 1
"""The greatest seed: JAX takes 32 bits of it, so that larger ones would be others in disguise."""


@in_32_bits
def measure(
    source: Source,
    *,
    out: str | Path | None = None,
    data: Data | None = None,
    model: Model | Any = None,
    preset: str = "default",
    metrics: str | Sequence[str | Metric] | None = None,
    settings: Sequence[str] = (),
    **options: Unpack[RunOptions],
) -> Table:
    """Measure every model of a zoo; returns the table and, with `out`, keeps it there and resumes from it.

    A model with NaN weights, a damaged group or a diverged curve becomes a row whose `status` says so. A zoo's
    finished work is kept in `out` and looked up by its content (weights, data, settings), so that a killed run or a
    further metric costs only what is missing; a list of models is measured anew, since a function has no identity
    to look it up by. Raises InputError for bad arguments and for a folder that cannot be written. Cost: see the
    metrics; the table records each metric's seconds.

    source: a zoo (or its path), or a list of (params, state) pytrees of equal shapes together with `model`; the list
        counts as seeds of one configuration, trained on all of `data` unless `facts` say otherwise. Models with equal
        weights count once.
    out: the folder of the table.
    data: a Dataset, a name, a path, or the arrays (x_train, y_train, x_test, y_test) as a tuple or a dictionary
        (default: what the zoo was trained on, where `mdjax.zoo.recorded` opens it).
    model: a pure `apply(params, state, inputs) -> logits`, or an object with `apply` and `batch_apply`
        (`mdjax.models.Model`).
    preset: "default", "reference" or "fast".
    metrics: names ("losses,hessian" or a list), or metric objects with settings of their own; the table holds what was
        asked for (default: what the trees read).
    settings: texts such as "hessian.num_samples=64" that change one setting each.
    options: `seed`, `mesh`, `layout`, `label_noise`, `facts` and `show_progress`, see `RunOptions`.
    """
    check_options("measure", options, RunOptions)
    seed = options.get("seed", 0)
    check_whole("seed", seed, 0, MOST_SEED)
    out = None if out is None else place(out)
    keep_compiled_programs()
    work = prepared(source, data, select(preset, metrics, settings), model, options)
    # The folder is tried before anything is computed.
    commits = Commits(out / "shards") if out is not None else None
    if isinstance(work.collection, GivenModels):
        commits = None
    for reason in work.collection.damaged.values():
        warn(f"{reason} Its models are left out.")
    if work.collection.fingerprint not in (None, work.dataset.fingerprint) and data is None:
        warn(f"The data {work.collection.data} has changed since the models were trained on it.")
    for text in (*work.notes, *copies(work.manifest), *left_out(work)):
        warn(text)
    read_group = one_at_a_time(work.collection.read_group)
    programs, device_data = Programs(work.plan), DeviceData(work.dataset, work.plan)
    noisy = next((unit for unit in work.units if unit.label_noise > 0), None)
    if noisy is not None and not work.is_certain:
        models = loaded(noisy, runner(noisy.architecture, model, work.plan), read_group)
        if (text := rise(noisy, models, device_data, programs, seed)) is not None:
            warn(text)
    results: dict[Metric, list[pd.DataFrame]] = {metric: [] for metric in work.metrics}
    problems: dict[str, Status] = {}
    failures = _Failures()
    total, show = len(work.manifest) * len(work.metrics), options.get("show_progress", True)
    with progress("measuring", total, show=show) as advance:
        for unit in work.units:
            members: Loaded | None = None
            for metric in work.metrics:
                advance(0, title=f"measuring {metric.name}")
                name = unit_name(metric, unit, work.dataset, seed)
                rows = commits.read(name) if commits else None
                if commits and rows is not None and not _are_kept(rows, metric, unit):
                    commits.discard(name)
                    rows = None
                if rows is None:
                    try:
                        members = members or loaded(unit, runner(unit.architecture, model, work.plan), read_group)
                        problems.update(members.problems)
                        rows = _measured(metric, members, device_data, unit, programs, seed)
                    except Exception as error:  # of one metric, which must not cost the others
                        rows = failures.rows(metric, unit.rows if members is None else members.rows, error)
                    # What a damaged group hides may be there next time, as may what failed or did not fit.
                    if commits and members is not None and not members.problems:
                        commits.commit(name, rows)
                results[metric].append(rows)
                advance(len(unit.rows))
    failures.tell(results)
    recipe = {"preset": preset, "measure_seed": seed}
    table = compose(work.manifest, results, problems, recipe, num_train=len(work.dataset.x_train))
    if out is not None:
        for text in _narrowed(out, table):
            warn(text)
        return write_table(out, table)  # exactly what anyone else reads there
    return table


class _Failures:
    """Metrics that raised: their rows say so, and where nothing else was measured the error is the user's."""

    def __init__(self) -> None:
        self._errors: dict[Metric, Exception] = {}

    def rows(self, metric: Metric, models: pd.DataFrame, error: Exception) -> pd.DataFrame:
        """The rows of a unit that failed: nothing but a status. `models` are those of the manifest."""
        if is_shortage(error):
            status = Status(StatusCode.TOO_LARGE, f"memory ran out: {_reason(error)}")
        else:
            self._errors.setdefault(metric, error)
            status = Status(StatusCode.FAILED, f"{metric.name} failed: {_reason(error)}")
        members = members_of(metric, models)
        return pd.DataFrame([member_row(models, member) | with_status({"status": status}) for member in members])

    def tell(self, results: Mapping[Metric, Sequence[pd.DataFrame]]) -> None:
        """Warn of each metric that failed or lacked memory; raise the error where all rows of all metrics failed."""
        for metric, parts in results.items():
            count = sum(int((part["status_code"] == StatusCode.TOO_LARGE).sum()) for part in parts if len(part))
            if count:
                warn(
                    f"{metric.name} lacked memory for {count} of its {metric.frame}. Their rows say so; the same "
                    "command tries them again when there is more."
                )
        frames = [part for parts in results.values() for part in parts if len(part)]
        if self._errors and all((part["status_code"] == StatusCode.FAILED).all() for part in frames):
            error = next(iter(self._errors.values()))
            raise error if isinstance(error, InputError) else InputError(f"{_reason(error)}.") from error
        for metric, error in self._errors.items():
            warn(f"{metric.name} failed: {_reason(error)}. Its rows say so in their status.")


def _reason(error: Exception) -> str:
    return first_line(error) if isinstance(error, InputError) else f"{type(error).__name__}: {first_line(error)}"


def _narrowed(out: Path, table: Table) -> Iterator[str]:
    """What the table in the folder holds and the new one does not."""
    try:
        old = read_table(out)
    except InputError:
        return
    before, now = (
        {str(name).removesuffix("_seconds") for name in (*one.models, *one.pairs) if str(name).endswith("_seconds")}
        for one in (old, table)
    )
    if before - now:
        yield (
            f"The table {out} held {', '.join(sorted(before - now))} too, which this run was not asked for and leaves "
            "out. Name them in --metrics: what was measured is kept and not measured again."
        )
    for column, what in (("preset", "preset"), ("measure_seed", "seed")):
        was = sorted({str(value) for frame in (old.models, old.pairs) if column in frame for value in frame[column]})
        new = {str(value) for value in table.models[column]}
        if was and not set(was) <= new:
            yield f"The table {out} held {what} {', '.join(was)}; it now holds {what} {', '.join(sorted(new))} alone."


def _are_kept(rows: pd.DataFrame, metric: Metric, unit: Unit) -> bool:
    """Whether rows that were kept are a metric's of a unit, whose models stand in the order of loading."""
    models = unit.rows.sort_values(["configuration", "seed"])
    return are_rows_of(rows, metric, models, members_of(metric, models))


def _measured(
    metric: Metric, models: Loaded, data: DeviceData, unit: Unit, programs: Programs, seed: int
) -> pd.DataFrame:
    """The rows of one metric on one unit: of models, or of pairs."""
    members = members_of(metric, models.rows)
    if not members:
        return pd.DataFrame()
    found = measure_stack(metric, models.stack, data.examples(unit), members, seed=seed, programs=programs, timed=True)
    rows = zip(members, found, strict=True)
    return pd.DataFrame([member_row(models.rows, member) | with_status(columns) for member, columns in rows])
