"""The engine: company, padding, batching, broken models, compilations; and the registry of metrics."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from helpers import examples, forms, measured, trained

from mdjax.engine import Plan, Programs, device_mesh, measuring, programs, stacks
from mdjax.engine.program_cache import PROGRAMS
from mdjax.errors import InputError
from mdjax.metrics import METRICS, PRESETS, Hessian, Losses, select

NAMES = ["a", "b", "c"]


def measure_any(metric, model, params, state, names=NAMES, **options):
    return measured(metric, model, params, state, examples(200), names, **options)


HESSIAN = Hessian(num_samples=64, max_probes=16)
SMALL = {"losses": Losses(), "hessian": HESSIAN}


@pytest.mark.parametrize("name", ["losses", "hessian"])
def test_a_model_alone_is_the_same_to_the_last_bit(name):
    architecture, params, state = trained("cnn")
    model = architecture.model("patches")
    together = measure_any(SMALL[name], model, params, state)
    alone = measure_any(SMALL[name], model, *stacks.take((params, state), [1]), ["b"])
    assert alone[0] == together[1]


def test_a_broken_model_harms_nobody():
    architecture, params, state = trained("mlp")
    broken = jax.tree.map(np.array, params)
    broken["linear"]["kernel"][1] = np.nan
    for metric in SMALL.values():
        for plan in (forms()["single"], forms()["vmap"]):
            clean = measure_any(metric, architecture.model(), params, state, plan=plan)
            rows = measure_any(metric, architecture.model(), broken, state, plan=plan)
            assert rows[0] == clean[0]
            assert rows[2] == clean[2]
            assert any(np.isnan(value) for value in rows[1].values() if isinstance(value, float))


def test_one_compilation_per_shape():
    architecture, params, state = trained("cnn")
    model, plan = architecture.model(), Plan("vmap", 4)

    def compiled_by(count, num_train):
        before = PROGRAMS.num_compiled
        stacked = stacks.take((params, state), range(count))
        measured(Losses(), model, *stacked, examples(num_train), NAMES[:count], plan=plan)
        return PROGRAMS.num_compiled - before

    assert compiled_by(3, 100) <= 1
    compilations = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **_: compilations.append(event) if "backend_compile" in event else None
    )
    assert compiled_by(3, 300) == 0
    assert compilations == []
    # Two models take the program of two, one more shape.
    assert compiled_by(2, 100) == 1
    assert compiled_by(2, 300) == 0
    jax.monitoring.clear_event_listeners()


@pytest.mark.parametrize(("share", "expected"), [(0.9, 2), (0.3, 1)])
def test_fewer_models_go_together_where_memory_is_short(monkeypatch, share, expected):
    architecture, params, state = trained("cnn", 3)
    model, plan = architecture.model(), Plan("vmap", 4)
    clean = measure_any(Losses(), model, params, state, plan=plan)
    need = Programs(plan).need(Losses(), model, single_shapes((params, state)), examples(200), 3)
    assert need.chunk_size == 4
    monkeypatch.setattr(programs, "memory_budget", lambda plan: int(share * need.bytes))
    less = Programs(plan).need(Losses(), model, single_shapes((params, state)), examples(200), 3)
    assert less.chunk_size <= expected
    assert less.bytes < need.bytes
    data = sum(leaf.nbytes for leaf in jax.tree.leaves(examples(200)))
    assert need.bytes - need.added_bytes == less.bytes - less.added_bytes == data
    for row, other in zip(clean, measure_any(Losses(), model, params, state, plan=plan), strict=True):
        assert row == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize("change", [{"residual_bytes": 0}, {"vectors_at_once": 4}], ids=["recomputed", "side by side"])
def test_the_plan_says_what_products_keep_and_how_many_run_side_by_side(change):
    architecture, params, state = trained("cnn", 2)
    metric, model = HESSIAN, architecture.model("patches")
    plans = Plan("vmap", 2, "patches"), Plan("vmap", 2, "patches", **change)
    usual, changed = (measure_any(metric, model, params, state, NAMES[:2], plan=plan) for plan in plans)
    for row, other in zip(usual, changed, strict=True):
        assert row["hessian_eigenvalue"] == pytest.approx(other["hessian_eigenvalue"], rel=1e-5)
        assert row["hessian_trace"] == pytest.approx(other["hessian_trace"], rel=1e-4)
    shapes = single_shapes((params, state))
    needs = [Programs(plan).need(metric, model, shapes, examples(200), 2).bytes for plan in plans]
    assert needs[0] != needs[1]


@pytest.mark.parametrize("fits", [2, 1, 0])
def test_backs_off_when_the_device_refuses(monkeypatch, fits):
    architecture, params, state = trained("cnn", 3)
    model, plan, call = architecture.model(), Plan("vmap", 4), measuring._call
    clean = measure_any(Losses(), model, params, state, plan=plan)

    def refuse(program, stacked, shared):
        if stacks.count(stacked) > fits:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return call(program, stacked, shared)

    monkeypatch.setattr(measuring, "_call", refuse)
    rows = measure_any(Losses(), model, params, state, plan=plan)
    for row, other in zip(rows, clean, strict=True):
        if fits:
            assert row == pytest.approx(other, rel=1e-5)
        else:
            assert row == {"status": measuring.TOO_LARGE}


@pytest.mark.parametrize("fits", [2, 1, 0])
def test_backs_off_when_the_compiler_refuses(monkeypatch, fits):
    architecture, params, state = trained("cnn", 3)
    model, plan, compiled = architecture.model(), Plan("vmap", 4), programs._compiled
    clean = measure_any(Losses(), model, params, state, plan=plan)
    PROGRAMS.clear()

    def refuse(*arguments):
        if stacks.count(arguments[5]) > fits:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory on HBM")
        return compiled(*arguments)

    monkeypatch.setattr(programs, "_compiled", refuse)
    rows = measure_any(Losses(), model, params, state, plan=plan)
    for row, other in zip(rows, clean, strict=True):
        assert row == (pytest.approx(other, rel=1e-5) if fits else {"status": measuring.TOO_LARGE})
    if fits:
        need = Programs(plan).need(Losses(), model, single_shapes((params, state)), examples(200), 3)
        assert need.chunk_size == fits


def test_what_else_a_compiler_says_is_not_taken_for_a_lack_of_memory(monkeypatch):
    architecture, params, state = trained("cnn", 3)

    def refuse(*_):
        raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: no such operation")

    monkeypatch.setattr(programs, "_compiled", refuse)
    PROGRAMS.clear()
    with pytest.raises(jax.errors.JaxRuntimeError, match="UNIMPLEMENTED"):
        measure_any(Losses(), architecture.model(), params, state, plan=Plan("vmap", 4))


def test_the_seconds_of_a_metric_are_those_of_its_calls(monkeypatch):
    architecture, params, state = trained("cnn", 3)
    now, copied = [0.0], measuring._weights

    def copying(*given):
        now[0] += 1000
        return copied(*given)

    monkeypatch.setattr(measuring, "_weights", copying)
    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    rows = measure_any(Losses(), architecture.model(), params, state, timed=True)
    assert now[0] >= 1000 and [row["losses_seconds"] for row in rows] == [0, 0, 0]


def single_shapes(stacked):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), stacked)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("slow", None), "Unknown preset 'slow'. Choose one of default, reference, fast."),
        (("default", "hesian"), "Unknown metric 'hesian'. Choose from losses, hessian"),
    ],
)
def test_unknown_names_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        select(*arguments)


def test_presets_hold_every_metric_once():
    for preset in PRESETS:
        assert [metric.name for metric in select(preset)] == ["losses", "hessian", "mode_connectivity", "cka"]
        assert all(metric.of_preset(preset).name == name for name, metric in METRICS.items())
    assert [metric.name for metric in select("fast", "cka, losses")] == ["losses", "cka"]


def test_models_batched_on_several_host_devices_do_not_wait_for_each_other():
    architecture, params, state = trained("mlp")
    arguments = (Hessian(num_samples=32, max_probes=8), architecture.model(), params, state, examples(), NAMES)
    mesh = device_mesh("2x4")
    rows = measured(*arguments, plan=Plan("vmap", 2, "patches", mesh))
    expected = measured(*arguments, plan=Plan("map", 2, "patches", mesh))
    assert [row["hessian_trace"] for row in rows] == [row["hessian_trace"] for row in expected]
