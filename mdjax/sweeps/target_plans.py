"""A sweep on devices that are not here → the rows of its plan, by compiling its programs for them."""

import time
from collections.abc import Iterator
from typing import Any

import jax
import pandas as pd

from mdjax.engine import Programs, Target
from mdjax.engine.collectives import num_collectives
from mdjax.engine.targets import DATA
from mdjax.errors import first_line
from mdjax.memory import readable
from mdjax.progress import progress, ticking
from mdjax.sweeps.plan_rows import PlanRow, plan_rows
from mdjax.sweeps.preparation import Work
from mdjax.sweeps.sources import example_shapes


def target_rows(work: Work, target: Target, model: Any) -> Iterator[dict[str, Any]]:
    """The rows of a plan for a target, compiled one after another.

    work: planned for this target.
    target: the devices.
    model: how models given in Python are called.

    Columns after `calls`: `memory`, bytes that a call takes on each device by the account of the device's own compiler
    (None where it refuses the program); `device_memory`, bytes that programs have there; `fits`; `collectives`, how
    many instructions exchange numbers between devices (0: models cost no communication); `compile_seconds` that the
    compiler took on this host, tries that did not fit included; `least_seconds` that all calls take, at least: the
    operations of products and convolutions at the device's highest rate, or the bytes that the compiler counts at the
    highest rate of its memory, whichever is more; `refusal`, what the compiler says where it makes no program, else "".
    """
    programs, rows = Programs(work.plan), list(plan_rows(work, model))
    with progress(f"compiling for {target.name}", len(rows)) as advance:
        for row in rows:
            advance(0, title=f"compiling {row.metric.name} of {row.architecture} for {target.name}")
            with ticking(advance):
                found = _columns(work, target, programs, row)
            yield found
            advance()


def _columns(work: Work, target: Target, programs: Programs, row: PlanRow) -> dict[str, Any]:
    examples = {unit.cell.data_share: example_shapes(work.dataset, unit.cell) for unit in row.units}
    arguments = row.metric, row.model, row.weights, next(iter(examples.values()))
    start = time.perf_counter()
    found: dict[str, Any] = {"memory": None, "device_memory": target.chip.memory, "fits": False, "collectives": None}
    try:
        program, need = programs.planned(*arguments, max(row.counts))
    except jax.errors.JaxRuntimeError as error:
        seconds = time.perf_counter() - start
        found |= {"compile_seconds": seconds, "least_seconds": None, "refusal": first_line(error)}
        return row.columns(work.plan, 1) | found
    found |= {
        "memory": need.bytes,
        "fits": need.bytes <= target.chip.memory,
        "collectives": num_collectives(program.as_text()),
        "compile_seconds": time.perf_counter() - start,
    }
    counted = programs.least_operations(*arguments[:3], list(examples.values()), need.chunk_size)
    operations = dict(zip(examples, counted, strict=True))
    # Each device takes so many runs one after another or side by side, and its part of the examples.
    on_each, moving = need.chunk_size / target.mesh.shape.get(DATA, 1), _bytes_moved(program) / target.chip.bandwidth
    least = 0.0
    for unit, calls in zip(row.units, row.calls(work.plan, need.chunk_size), strict=True):
        least += calls * max(on_each * operations[unit.cell.data_share] / target.chip.flops, moving)
    return row.columns(work.plan, need.chunk_size) | found | {"least_seconds": least, "refusal": ""}


def _bytes_moved(program: Any) -> float:
    """Bytes that a call reads and writes by the compiler's count, or else those of its arguments and results."""
    counted = (program.cost_analysis() or {}).get("bytes accessed", 0.0)
    account = program.memory_analysis()
    return max(counted, account.argument_size_in_bytes + account.output_size_in_bytes)


def plan_text(plan: pd.DataFrame, target: Target) -> str:
    """A plan for a target as people read it: its rows, and below what they come to."""
    shown = plan.drop(columns=["device_memory", "refusal"])
    shown["memory"] = ["-" if pd.isna(size) else readable(size) for size in plan["memory"]]
    shown["fits"] = ["yes" if fits else "NO" for fits in plan["fits"]]
    shown["collectives"] = ["-" if pd.isna(count) else f"{count:.0f}" for count in plan["collectives"]]
    shown["compile_seconds"] = [f"{seconds:.1f}" for seconds in plan["compile_seconds"]]
    shown["least_seconds"] = ["-" if pd.isna(seconds) else f"{seconds:.2g}" for seconds in plan["least_seconds"]]
    lines = [shown.to_string(index=False)]
    for _, row in plan[~plan["fits"]].iterrows():
        what = f"{row['metric']} of {row['architecture']}"
        if row["refusal"]:
            lines.append(f"{what} is refused by the compiler: {row['refusal']}.")
        else:
            size = readable(row["memory"])
            lines.append(f"{what} takes {size} for one alone, more than a device has.")
    devices = f"{target.mesh.size} devices" if target.mesh.size > 1 else "one device"
    lines.append(
        f"{target.name}: {devices} with {readable(target.chip.memory)} for programs; compiled {target.effort} in "
        f"{plan['compile_seconds'].sum():.0f} s."
    )
    known = plan["least_seconds"].notna()
    if known.any():
        whose = "All calls" if known.all() else "The other calls"
        least = plan["least_seconds"].sum()
        lines[-1] += f" {whose} together take at least {least:.2g} s there: a bound, not a forecast."
    return "\n".join(lines)
