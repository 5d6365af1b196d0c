"""Programs for accelerators that are not here: each metric lowers for them, and those for a TPU are small."""

import dataclasses
import importlib.util
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import digits, trained

from mdjax.engine import Plan, Programs, default_plan, device_mesh, programs, target_of
from mdjax.engine.programs import arguments_of
from mdjax.metrics import METRICS, Examples, Hessian, Losses, Surface
from mdjax.metrics.registry import select

NEEDS_LIBTPU = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: mdjax[plan-tpu]"
)


def example_shapes():
    data = digits()
    arrays = data.x_train, data.y_train, np.int32(0), data.x_test, data.y_test
    return Examples(*(jax.eval_shape(jnp.asarray, array) for array in arrays))


def weight_shapes(stacked):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), stacked)


@pytest.mark.parametrize("preset", ["default", "reference"])
def test_every_metric_lowers_for_gpus_and_tpus(preset):
    architecture, *stacked = trained("mlp")
    for name, metric in METRICS.items():
        metric, usual = metric.of_preset(preset), metric.of_preset("default")
        if preset != "default" and type(metric) is type(usual):
            continue
        run, shared = arguments_of(metric, weight_shapes(tuple(stacked)), example_shapes())
        two = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype), run)
        function = programs._over_runs(metric, architecture.model("looped"), "vmap")
        with jax.default_matmul_precision("highest"):
            exported = jax.export.export(jax.jit(function), platforms=("cuda", "tpu"))(two, shared)
        assert exported.platforms == ("cuda", "tpu"), name
        assert all(shape.shape[0] == 2 for shape in exported.out_avals), name


def kinds_of_collectives(program):
    return set(
        re.findall(r" (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)\b", program.as_text())
    )


def test_only_sums_travel_between_devices_that_share_a_batch():
    architecture, *stacked = trained("cnn")
    plan = Plan("vmap", 1, "patches", device_mesh("2x4"))
    # Three batches, the last one filled up.
    for metric in (Hessian(num_samples=72, batch_size=32), Surface(num_samples=72, batch_size=32), Losses()):
        program, _ = Programs(plan).planned(
            metric, architecture.model("patches"), weight_shapes(tuple(stacked)), example_shapes(), 2
        )
        assert kinds_of_collectives(program) == {"all-reduce"}, metric.name


@NEEDS_LIBTPU
@pytest.mark.slow
def test_the_default_metrics_of_a_small_network_are_small_programs_for_a_tpu():
    architecture, *stacked = trained("mlp")
    plan = dataclasses.replace(default_plan(target=target_of("tpu:v5e-1")), chunk_size=8)
    assert plan.compiler_options == {"optimization_level": 9}
    assert dataclasses.replace(plan, effort="O1").compiler_options == {"optimization_level": 19}
    most = {"losses": 1_500, "hessian": 8_000, "mode_connectivity": 5_000, "cka": 1_500}
    for metric in select("default"):
        model = architecture.model(plan.convolution)
        program, need = Programs(plan).planned(metric, model, weight_shapes(tuple(stacked)), example_shapes(), 8)
        assert need.chunk_size == 8
        assert program.as_text().count(" = ") < most[metric.name], metric.name
        assert need.bytes < 2**28, metric.name
