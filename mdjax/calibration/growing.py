"""A small zoo of the user's own task, grown within a time: trained, measured, and learnt from."""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack

import jax
import numpy as np
import pandas as pd
from scipy.optimize import nnls

from mdjax.calibration.design import Cell, cells
from mdjax.calibration.growers import LostError, check_growers, growing_apart
from mdjax.calibration.targets import VARIED, Build, Target, target_of
from mdjax.calibration.trust import AXES, accuracies, surface_of
from mdjax.columns import RECIPE, TASK
from mdjax.console import warn
from mdjax.diagnosis.calibrations import Calibration
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.sweep_trees import grow_sweep
from mdjax.durations import seconds_of
from mdjax.engine import is_shortage
from mdjax.engine.compilation import in_32_bits, keep_compiled_programs, num_operations
from mdjax.engine.plan import usual_convolution
from mdjax.errors import InputError, check_options, check_whole
from mdjax.files import make_writable, place, replacing, writing
from mdjax.inputs import expect_damage
from mdjax.locks import LOCK, one_writer
from mdjax.models import Architecture
from mdjax.parquet import read_frame, write_frame
from mdjax.progress import progress
from mdjax.statuses import StatusCode
from mdjax.subprocesses import leave_accelerators_alone
from mdjax.sweeps.descriptions import described
from mdjax.sweeps.local import measure
from mdjax.tasks import CLASSIFICATION, Classification, Task
from mdjax.zoo.data import Data, Dataset, dataset_of, split_told
from mdjax.zoo.store import Zoo
from mdjax.zoo.training import Network, train_stack

PyTree = Any

_LOSSES, _LANDSCAPE = "losses", "losses,hessian,mode_connectivity,cka"
_COUNTED = 8
"""Examples of a forward pass whose operations are counted."""

_MOST_SEEDS = 1000
"""Of a configuration: what a calibration learns by them is known to a hundredth of their spread then."""

_SPEED = 2e9
"""Operations in a second that are expected of training small networks before any was timed."""


class CalibrateOptions(TypedDict, total=False):
    """How a calibration is grown.

    `recipe`: numbers and names of the training that win over those of `like` (`mdjax.calibration.targets.target_of`).
    `task`: what the networks are asked, as for `mdjax.measure`. `vary`: "learning_rate" (the default) or "batch_size",
    what sets the temperature. `seeds` of each configuration, default 2. `landscape` (default True): measure the loss
    landscape too and grow trees, for networks whose settings are not known; without it the budget goes further.
    `plan_only`: time the smallest networks, and say what would be grown. `show_progress` (default True) draws a bar.
    `workers`: 1 grows each cell in a process of its own, which may die alone (default 0: this one does); it needs
    networks by name, and data by name or path.
    """

    recipe: Mapping[str, Any] | None
    task: Task | str | None
    vary: str
    seeds: int
    landscape: bool
    plan_only: bool
    show_progress: bool
    workers: int | str


class Plan(NamedTuple):
    """What a calibration grows: all its cells, those that are there, and the seconds that each takes or took."""

    chosen: list[Cell]
    done: dict[Cell, float]
    seconds: dict[Cell, float]
    num_models: dict[Cell, int]

    def to_text(self) -> str:
        """A line a cell, and the sum."""
        lines = [f"{'width':>8} {'data':>8} {'networks':>9} {'seconds':>8}"]
        for cell in self.chosen:
            state = " grown" if cell in self.done else ""
            share, seconds = f"{100 * cell.data_share:.3g} %", self.seconds[cell]
            lines.append(f"{cell.width:>8} {share:>8} {self.num_models[cell]:>9} {seconds:>8.0f}{state}")
        models, seconds = (sum(values[cell] for cell in self.chosen) for values in (self.num_models, self.seconds))
        return "\n".join([*lines, f"{'in all':>17} {models:>9} {seconds:>8.0f}"])


@in_32_bits
def calibrate(
    like: Zoo | str | Path | Architecture | int,
    *,
    data: Data,
    out: str | Path,
    budget: str | float = "10m",
    build: Build | None = None,
    **options: Unpack[CalibrateOptions],
) -> Calibration | Plan:
    """Grow a small zoo like the networks to be diagnosed, and learn from it what changes would bring them.

    like: a zoo or its folder, an `Architecture`, a name such as "mlp-w64"; with `build`, the width of the networks.
    data: what they are trained on, as for `mdjax.measure`.
    out: the folder of the calibration, for `--tree` and `diagnose(table, out)`; an interrupted one goes on there.
    budget: of time, like "10m", or seconds.
    build: width → (model, init) of networks that are no family of mdjax's: a `Model` or an apply function, and a
        function of a random key that gives (params, state). Their size is to be one number.
    options: see `CalibrateOptions`.

    Returns the calibration; with `plan_only` the plan. Leaves `calibration.json`, `trees.json`, the measured table
    `zoo.parquet`, and a file for each cell of width and data in `cells`, which a later call takes from there. Raises
    InputError for networks, data or a recipe that cannot be trained, a budget that is too small, a folder that cannot
    be written, that holds another calibration or that another process is writing.
    """
    check_options("calibrate", options, CalibrateOptions)
    limit = seconds_of(budget if isinstance(budget, str) else f"{budget}s")
    vary, seeds = options.get("vary", VARIED[0]), options.get("seeds", 2)
    if vary not in VARIED:
        raise InputError(f"vary is {vary!r}. Choose one of {', '.join(VARIED)}.")
    check_whole("seeds", seeds, 1, _MOST_SEEDS)
    target = target_of(like, build, options.get("recipe"))
    task = options.get("task")
    if is_apart := check_growers(options.get("workers", 0), data, target, task):
        leave_accelerators_alone()
    keep_compiled_programs()
    dataset = dataset_of(data, task=task)
    if not dataset.reads_floats:
        raise InputError(f"The inputs of {dataset.name} are {dataset.input_form}. Calibrate on floats, or pixels.")
    if not len(jax.tree.leaves(dataset.x_test)[0]):
        raise InputError(f"{dataset.name} has no test examples, which a calibration learns from. Give some.")
    if type(dataset.task).error is Task.error:
        raise InputError(
            f"The task {dataset.task.name} says no error. Define error, a fraction of 1 or more, to calibrate on it."
        )
    target.recipe.check(dataset.input_shape)
    landscape = options.get("landscape", True)
    out = place(out)
    with writing(f"the calibration {out}", "Choose a folder that you may write."):
        make_writable(out)
    with one_writer(out / LOCK, f"the calibration {out}"), contextlib.ExitStack() as stack:
        kept = _Kept(out, target, dataset, (vary, seeds, landscape))
        grower = CellGrower(target, dataset, vary, seeds, landscape)
        if is_apart and isinstance(data, str | Path):
            source = f"{task}:{data}" if task and split_told(str(data))[0].task is None else data
            told = (source, dataset.fingerprint, target, (vary, seeds, landscape), out)
            grow = stack.enter_context(growing_apart(*told)).grown
        else:
            grow = grower.grown
        plan_only, show = options.get("plan_only", False), options.get("show_progress", True)
        return grower.run(kept, grow, limit, plan_only=plan_only, show=show)


class _Kept:
    """The cells of a calibration's folder, which all are of one target, data and options."""

    def __init__(self, out: Path, target: Target, dataset: Dataset, options: tuple[Any, ...]):
        self._folder, self.out = out / "cells", out
        facts = target.facts()
        del facts["width"]  # of wider networks the same small ones are grown
        told = [1, facts, dataset.fingerprint, options]
        if dataset.task != CLASSIFICATION:
            told.append(described(dataset.task))
        content = json.dumps(told, sort_keys=True)
        self._digest = hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
        with writing(f"the calibration {out}", "Choose a folder that you may write."):
            self._folder.mkdir(parents=True, exist_ok=True)
            marker = self._folder / "digest.txt"
            if not marker.exists():
                with replacing(marker) as temporary:
                    temporary.write_text(self._digest + "\n")
        if marker.read_text().strip() != self._digest:
            raise InputError(
                f"{out} holds a calibration of other networks, data or options. Choose another folder for --out (out=)."
            )

    def read(self) -> dict[Cell, pd.DataFrame]:
        """The cells that are there, without damaged ones; InputError where one cannot be read just now."""
        found = {}
        for path in sorted(self._folder.glob("*.parquet")):
            try:
                rows = read_frame(path)
                found[Cell(int(rows["width"].iloc[0]), float(rows["data_share"].iloc[0]))] = rows
            except Exception as error:  # pyarrow raises many types for a cut file
                expect_damage(error, str(path))
        return found

    def write(self, cell: Cell, rows: pd.DataFrame) -> None:
        path = self._folder / f"w{cell.width}-data{cell.data_share:g}.parquet"
        with writing(str(path), "Free space, then run the same command again."), replacing(path) as temporary:
            write_frame(rows, temporary)


class CellGrower:
    """Trains and measures cells, knows what they cost, and decides which of them to grow."""

    def __init__(self, target: Target, dataset: Dataset, vary: str, seeds: int, landscape: bool):
        self._target, self._dataset, self._vary, self._seeds = target, dataset, vary, seeds
        self._landscape = landscape
        self._operations: dict[int, float] = {}
        self._networks: dict[int, Network] = {}  # the same objects each time, which share their compiled programs

    def run(
        self, kept: _Kept, grow: Callable[[Cell], pd.DataFrame], limit: float, *, plan_only: bool, show: bool
    ) -> Calibration | Plan:
        """Grow what fits the limit in seconds, in all calls together, by `grow`, keep it, and learn from it."""
        grown = kept.read()
        smallest = Cell(self._target.widths()[0], self._target.shares(self._dataset)[0])
        with progress("calibrating", round(limit), done=round(min(limit, _spent(grown))), show=show) as advance:
            while (cell := self._next(grown, smallest, limit)) is not None:
                if plan_only and cell != smallest:
                    break
                advance(0, title=f"growing width {cell.width} on {100 * cell.data_share:.3g} % of the data")
                try:
                    grown[cell] = grow(cell)
                except LostError as error:
                    warn(f"networks of width {cell.width} are not grown: {error}. Growing ends before them.")
                    break
                except Exception as error:
                    if not is_shortage(error):
                        raise
                    # Nothing that is true of the task: not kept, and tried again by the next call.
                    warn(f"networks of width {cell.width} do not fit the memory: growing ends before them.")
                    break
                kept.write(cell, grown[cell])
                advance(min(limit, _spent(grown)) - min(limit, _spent({k: v for k, v in grown.items() if k != cell})))
        if plan_only:
            return self._plan(grown, limit)
        return self._learnt(grown, kept.out)

    def _next(self, grown: dict[Cell, pd.DataFrame], smallest: Cell, limit: float) -> Cell | None:
        """The cheapest cell of the plan that is not there and still fits; None where there is none."""
        if smallest not in grown:
            return smallest
        if _spent(grown) >= limit and _is_enough(grown):
            return None
        plan = self._plan(grown, limit)
        missing = [cell for cell in plan.chosen if cell not in grown]
        fits = bool(missing) and _spent(grown) + plan.seconds[missing[0]] <= limit
        return missing[0] if fits else None

    def _plan(self, grown: dict[Cell, pd.DataFrame], limit: float) -> Plan:
        widths, shares = self._target.widths(), self._target.shares(self._dataset)
        done = {cell: float(rows["cell_seconds"].iloc[0]) for cell, rows in grown.items()}
        everything = [Cell(width, share) for width in widths for share in shares]
        overhead, pace = self._pace(done)
        seconds = {cell: done.get(cell, overhead + pace * self._work(cell)) for cell in everything}
        chosen = cells(widths, shares, lambda cell: seconds[cell], limit)
        counts = {cell: len(self._temperatures(cell)) * self._seeds for cell in everything}
        return Plan(chosen, done, seconds, counts)

    def _pace(self, done: Mapping[Cell, float]) -> tuple[float, float]:
        """Seconds of a cell without work, most of them compilation, and seconds an operation, from those timed."""
        if not done:
            return 0.0, 1 / _SPEED
        if len(done) < 3:
            return max(done.values()), 1 / _SPEED
        work = np.array([self._work(cell) for cell in done])
        scale = work.max()
        (overhead, pace), _ = nnls(np.column_stack([np.ones(len(work)), work / scale]), np.array(list(done.values())))
        return float(overhead), float(pace / scale)

    def _network(self, width: int) -> Network:
        if width not in self._networks:
            self._networks[width] = self._target.network(width, self._dataset)
        return self._networks[width]

    def _temperatures(self, cell: Cell) -> list[float]:
        return self._target.temperatures(self._vary, self._dataset.subset_size(cell.data_share))

    def _work(self, cell: Cell) -> float:
        """Operations of a cell's training."""
        if cell.width not in self._operations:
            self._operations[cell.width] = _forward_operations(self._network(cell.width), self._dataset)
        models = len(self._temperatures(cell)) * self._seeds
        examples = self._dataset.subset_size(cell.data_share) * self._target.training["epochs"]
        return 3 * self._operations[cell.width] * models * examples

    def grown(self, cell: Cell) -> pd.DataFrame:
        """A cell's networks trained and measured: a row for each temperature."""
        started = time.monotonic()
        network = self._network(cell.width)
        model = network.model(usual_convolution())
        values = self._temperatures(cell)
        settings = {
            value: self._target.settings(self._vary, value, cell.width, cell.data_share, self._seeds)
            for value in values
        }
        # Learning rates are trained together; another batch size is another program.
        groups = [values] if self._vary == "learning_rate" else [[value] for value in values]
        frames = []
        for group in groups:
            members = [setting for value in group for setting in settings[value]]
            params, state = train_stack(members, self._dataset, network=network)
            for number, value in enumerate(group):
                seeds = range(number * self._seeds, (number + 1) * self._seeds)
                models = [jax.tree.map(lambda leaf, i=i: leaf[i], (params, state)) for i in seeds]
                frames.append(self._measured(model, models, cell, settings[value][0]))
        return pd.concat(frames, ignore_index=True).assign(cell_seconds=time.monotonic() - started)

    def _measured(self, model: Any, models: list[tuple[PyTree, PyTree]], cell: Cell, setting: Any) -> pd.DataFrame:
        numbers = {name: getattr(setting, name) for name in ("batch_size", "learning_rate", "label_noise", "epochs")}
        table = measure(
            models,
            model=model,
            data=self._dataset,
            metrics=_LANDSCAPE if self._landscape else _LOSSES,
            preset="fast",
            label_noise="known" if setting.label_noise else None,
            facts={"width": cell.width, "data_share": cell.data_share, **numbers},
            show_progress=False,
        )
        for frame in (table.models, table.pairs):
            if len(frame) and (frame["status_code"] == StatusCode.TOO_LARGE).any():
                raise MemoryError(str(frame["status"].iloc[0]))
        recipe = {name: getattr(self._target.recipe, name) for name in RECIPE}
        shared = {"family": self._target.family, "num_classes": self._dataset.num_classes, **recipe}
        # A network that broke down is one that guesses.
        chance = 100 / self._dataset.num_classes if isinstance(self._dataset.task, Classification) else 0.0
        accuracy = (100 - table.configurations["test_error"]).fillna(chance)
        return table.configurations.assign(
            configuration=setting.configuration,
            test_acc=accuracy,
            temperature=setting.learning_rate / setting.batch_size,
            cost=self._work(cell),
            **shared,
        )

    def _learnt(self, grown: dict[Cell, pd.DataFrame], out: Path) -> Calibration:
        if not _is_enough(grown):
            raise InputError(
                f"{len(grown)} of the cells of width and data were grown within the budget, of one width or one amount "
                "of data alone. Give a larger --budget (budget=)."
            )
        table = pd.concat([grown[cell] for cell in sorted(grown)], ignore_index=True)
        path = out / "zoo.parquet"
        with writing(str(path), "Free space, then run the same command again."), replacing(path) as temporary:
            write_frame(table, temporary)
        network = self._network(self._target.width)
        facts = self._target.facts() | {
            "depth": network.depth if isinstance(network, Architecture) else None,
            "data": self._dataset.name,
            "num_classes": self._dataset.num_classes,
            TASK: self._dataset.task.name,
            "varied": self._vary,
            "family": None if self._target.build is not None else self._target.family,
        }
        num_models = len(table) * self._seeds
        calibration = Calibration(surface_of(table), facts, accuracies(table), num_models, self._trees(table))
        calibration.save(out)
        return calibration

    def _trees(self, table: pd.DataFrame) -> dict[str, MDTree]:
        if not self._landscape:
            return {}
        try:
            return grow_sweep(table, axes=AXES, min_width=0).trees
        except InputError as error:  # too small a zoo for trees is none for its surface
            warn(f"no trees were grown: {error}")
            return {}


def _is_enough(grown: Mapping[Cell, pd.DataFrame]) -> bool:
    """Whether there are two widths and two amounts of data to learn from."""
    return min(len({cell.width for cell in grown}), len({cell.data_share for cell in grown})) > 1


def _spent(grown: Mapping[Cell, pd.DataFrame]) -> float:
    return float(sum(rows["cell_seconds"].iloc[0] for rows in grown.values()))


def _forward_operations(network: Network, dataset: Dataset) -> float:
    """Operations of one example's forward pass, by the compiler's count; of its parameters where that is silent."""
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    inputs = jax.ShapeDtypeStruct((_COUNTED, *dataset.input_shape), np.float32)
    least = 2.0 * sum(np.prod(leaf.shape, dtype=float) for leaf in jax.tree.leaves(shapes[0]))
    return max(least, num_operations(network.model("lax").apply, *shapes, inputs) / _COUNTED)
