"""Plans for devices that are not here: on stand-ins, and for a TPU where its compiler is installed."""

import dataclasses
import importlib.util
import re

import jax
import numpy as np
import pytest
from helpers import digits, trained
from jax.sharding import Mesh

from mdjax.cli import main
from mdjax.engine import Target, programs, stacks, target_of
from mdjax.engine.chips import Chip
from mdjax.errors import InputError
from mdjax.sweeps import previews, target_plans
from mdjax.sweeps.previews import preview

COLUMNS = [
    *("architecture", "metric", "members", "units", "devices", "convolution", "batching", "per_call", "calls"),
    *("memory", "device_memory", "fits", "collectives", "compile_seconds", "least_seconds", "refusal"),
]
CHIP = Chip(2**30, 1e12, 1e11)


_COMPILED = {}


@pytest.fixture(autouse=True)
def _compiled_once(monkeypatch):
    """Plans keep no program of a target; these tests plan the same few again and again."""
    compiled = programs._compiled

    def kept(*arguments):
        metric, _, batching, _, mesh, stacked, *_ = arguments
        key = metric, batching, mesh, stacks.count(stacked)
        if key not in _COMPILED:
            _COMPILED[key] = compiled(*arguments)
        return _COMPILED[key]

    monkeypatch.setattr(programs, "_compiled", kept)


def stand_in(shape=(2,), chip=CHIP):
    """A target of host devices."""
    mesh = Mesh(np.array(jax.devices()[: np.prod(shape)]).reshape(shape), ("models", "data")[: len(shape)])
    return Target("tpu:v0-2", mesh, chip, "at once", {})


def models():
    architecture, params, state = trained("mlp")
    return [stacks.one((params, state), index) for index in range(3)], architecture.model("lax")


def planned(target, metrics="losses", **options):
    weights, model = models()
    return preview(weights, data=digits(), model=model, metrics=metrics, target=target, **options)


def test_what_a_plan_for_a_target_holds(capsys):
    before = jax.config.jax_enable_compilation_cache
    plan = planned(stand_in(), "losses,cka")
    assert list(plan) == COLUMNS
    assert plan["metric"].tolist() == ["losses", "cka"]
    assert (plan[["members", "devices", "per_call", "calls"]] == [3, 2, 2, 1]).all(axis=None)
    assert plan["memory"].between(2**16, 2**26).all()
    assert plan["fits"].all() and (plan["refusal"] == "").all()
    assert (plan["collectives"] == 0).all()
    assert (plan[["compile_seconds", "least_seconds"]] > 0).all(axis=None)
    assert jax.config.jax_enable_compilation_cache == before
    lines = target_plans.plan_text(plan, stand_in()).splitlines()
    assert lines[0].split() == [name for name in COLUMNS if name not in ("device_memory", "refusal")]
    assert re.fullmatch(
        r"tpu:v0-2: 2 devices with 1 GiB for programs; compiled at once in \d+ s\. All calls together take at least "
        r"[\d.e-]+ s there: a bound, not a forecast\.",
        lines[-1],
    )
    assert len(lines) == 4
    assert "compiling for tpu:v0-2 0/2" in capsys.readouterr().err


def test_the_least_time_is_that_of_operations_or_of_bytes():
    memory_bound = planned(stand_in(chip=Chip(2**30, 1e30, 1e11)))["least_seconds"][0]
    assert planned(stand_in(chip=Chip(2**30, 1e30, 2e11)))["least_seconds"][0] == pytest.approx(memory_bound / 2)
    compute_bound = planned(stand_in(chip=Chip(2**30, 1e9, 1e30)))["least_seconds"][0]
    # Two models a call on each device, one forward pass each over all examples.
    architecture = trained("mlp")[0]
    sizes = [leaf.shape for leaf in jax.tree.leaves(architecture.abstract[0]) if len(leaf.shape) == 2]
    forward = sum(2 * rows * columns for rows, columns in sizes)
    passes = len(digits().x_train) + len(digits().x_test)
    # Batches are filled up, and predictions are counted by a product, too.
    assert 1 <= compute_bound / (2 * forward * passes / 1e9) < 1.6
    halves = planned(stand_in((2, 2), Chip(2**30, 1e9, 1e30)))
    assert halves["least_seconds"][0] == pytest.approx(compute_bound / 2)
    assert halves["collectives"][0] > 0


def test_a_program_larger_than_the_device_does_not_fit():
    roomy = planned(stand_in((1,)))
    less = dataclasses.replace(stand_in((1,)), chip=CHIP._replace(memory=int(roomy["memory"][0] * 0.9)))
    plan = planned(less)
    assert plan["per_call"][0] < roomy["per_call"][0] and plan["calls"][0] > roomy["calls"][0]
    tiny = dataclasses.replace(less, chip=CHIP._replace(memory=2**10))
    plan = planned(tiny)
    assert (plan["per_call"][0], plan["fits"][0]) == (1, False)
    assert "losses of given takes" in target_plans.plan_text(plan, tiny)


@pytest.mark.parametrize(("fits", "message"), [(1, ""), (0, "RESOURCE_EXHAUSTED: Ran out of memory on HBM (16G)")])
def test_what_the_compiler_refuses_is_tried_with_fewer(monkeypatch, fits, message):
    compiled, tried = programs._compiled, []

    def refuse(*arguments):
        tried.append(stacks.count(arguments[5]))
        if tried[-1] > fits:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory on HBM (16G).\nAnd more")
        return compiled(*arguments)

    monkeypatch.setattr(programs, "_compiled", refuse)
    target = stand_in((1,))
    plan = planned(target, "losses,cka")
    assert tried == [4, 2, 1] * 2
    assert (plan["per_call"] == 1).all() and (plan["calls"] == 3).all()
    assert (plan["refusal"] == message).all() and (plan["fits"] == bool(fits)).all()
    assert plan["memory"].isna().all() == (not fits)
    text = target_plans.plan_text(plan, target)
    assert ("losses of given is refused by the compiler: RESOURCE_EXHAUSTED" in text) == (not fits)
    assert ("All calls together" in text) == bool(fits)


def test_a_program_that_does_not_compile_costs_no_other(monkeypatch):
    compiled = programs._compiled

    def refuse(metric, *arguments):
        if metric.name == "losses":
            raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: sorts")
        return compiled(metric, *arguments)

    monkeypatch.setattr(programs, "_compiled", refuse)
    plan = planned(stand_in(), "losses,cka")
    assert plan["refusal"].tolist() == ["UNIMPLEMENTED: sorts", ""]
    assert "The other calls together take at least" in target_plans.plan_text(plan, stand_in())


def test_a_target_has_a_mesh_of_its_own():
    with pytest.raises(InputError, match="Both mesh and target were given"):
        planned(stand_in(), mesh=stand_in().mesh)


def test_nothing_is_measured_on_a_target(capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["measure", str(tmp_path), "--out", str(tmp_path / "table"), "--target", "tpu:v5e-16"])
    assert stopped.value.code == 2
    assert "--target tpu:v5e-16 is of devices that are not here" in capsys.readouterr().err


def test_the_command_hands_target_and_devices_on(monkeypatch, capsys, tmp_path):
    asked = []
    monkeypatch.setattr("mdjax.engine.target_of", lambda *given: asked.append(given) or stand_in())
    plan = planned(stand_in())
    monkeypatch.setattr(previews, "preview", lambda zoo, **given: asked.append((zoo, given["target"])) or plan)
    main(["measure", str(tmp_path), "--plan", "--target", "tpu:v5e-16", "--devices", "4x4"])
    assert asked == [("tpu:v5e-16", "4x4"), (str(tmp_path), stand_in())]
    assert capsys.readouterr().out.splitlines()[-1].startswith("tpu:v0-2: 2 devices")


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: mdjax[plan-tpu]")
def test_a_program_compiles_for_a_tpu_and_is_not_kept(tmp_path):
    models()  # whose training may be kept
    store = jax.config.jax_compilation_cache_dir
    target = target_of("tpu:v5e-4")
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        plan = planned(target)
    finally:
        jax.config.update("jax_compilation_cache_dir", store)
    assert (plan[["members", "devices", "per_call", "collectives"]] == [3, 4, 1, 0]).all(axis=None)
    assert plan["fits"].all()
    assert plan["memory"].between(2**16, 2**27).all()
    assert target.mesh.devices.flat[0].platform == "tpu"
    assert list(tmp_path.iterdir()) == []
