"""Targets: texts → devices that are not here, what each can do, and the sentences where that cannot be had."""

import importlib.util
import math
import os
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh

from mdjax.engine import default_plan, target_of, targets
from mdjax.engine.chips import GPUS, TPUS
from mdjax.engine.plan import memory_budget
from mdjax.errors import InputError

GIB = 2**30


@pytest.fixture
def asked(monkeypatch):
    """What the compilers are asked for, as if both were installed: (name, platform, options)."""
    calls = []

    def described(name, platform, **options):
        calls.append((name, platform, options, dict(os.environ)))
        sides = (options["topology"] if platform == "cuda" else name.split(":")[1]).split("x")
        kind = {"cuda": "gpu"}.get(platform, platform)
        devices = [SimpleNamespace(platform=kind, id=number) for number in range(math.prod(map(int, sides)))]
        return SimpleNamespace(devices=devices)

    monkeypatch.setattr(topologies, "get_topology_desc", described)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    # Devices of these tests are no devices of JAX.
    monkeypatch.setattr(targets, "Mesh", lambda grid, axes: SimpleNamespace(devices=grid, axis_names=axes))
    return calls


@pytest.mark.parametrize(
    ("text", "grid", "options"),
    [
        ("tpu:v5e-1", "v5e:1x1", {"chips_per_host_bounds": [1, 1, 1]}),
        ("tpu:v5e-2", "v5e:1x2", {"chips_per_host_bounds": [1, 2, 1]}),
        ("tpu:v5e-8", "v5e:2x4", {}),
        ("tpu:v5e-16", "v5e:4x4", {}),
        ("tpu:v5litepod-256", "v5e:16x16", {}),
        ("tpu:v6e-32", "v6e:4x8", {}),
        # These count TensorCores, two on each chip.
        ("tpu:v5p-8", "v5p:2x2x1", {}),
        ("tpu:v5p-64", "v5p:2x4x4", {}),
        ("tpu:v5p-128", "v5p:4x4x4", {}),
        ("tpu:v4-16", "v4:2x2x2", {"chip_config_name": "megacore"}),
        ("tpu:v5p-2x2x8", "v5p:2x2x8", {}),
    ],
)
def test_a_tpu_is_the_slice_that_its_name_means(asked, text, grid, options):
    target = target_of(text)
    assert [call[:3] for call in asked] == [(grid, "tpu", options)]
    assert target.mesh.axis_names == ("models",)
    assert target.mesh.devices.shape == (math.prod(map(int, grid.split(":")[1].split("x"))),)
    assert target.chip == TPUS[grid.split(":")[0]].chip
    assert target.compiler_options == {}


@pytest.mark.parametrize(("text", "topology"), [("h100", "1x1x1"), ("a100-80gb-8", "1x1x8"), ("h200-32", "1x4x8")])
def test_a_gpu_is_described_to_its_compiler(asked, text, topology):
    target = target_of(f"cuda:{text}")
    ((_, platform, options, _),) = asked
    assert (platform, options["topology"]) == ("cuda", topology)
    name = text if text in GPUS else text.rpartition("-")[0]
    assert f'device_description_str: "{GPUS[name].name}"' in options["target_config"]
    assert target.chip.memory < GPUS[name].gib * GIB


def test_libtpu_is_told_that_it_only_compiles_and_nobody_else_is(asked, monkeypatch):
    monkeypatch.setenv("TPU_LOG_DIR", "mine")
    monkeypatch.delenv("ALLOW_MULTIPLE_LIBTPU_LOAD", raising=False)
    before = dict(os.environ)
    target_of("tpu:v5e-4")
    seen = asked[0][3]
    assert (seen["TPU_LOG_DIR"], seen["ALLOW_MULTIPLE_LIBTPU_LOAD"]) == ("mine", "1")
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5e-16", "Cannot read the target 'v5e-16'. Give a TPU like tpu:v5e-16"),
        ("tpu:v9-16", "Cannot read the target 'tpu:v9-16'"),
        ("tpu:v5e", "Cannot read the target 'tpu:v5e'"),
        ("tpu:v5e-x4", "Cannot read the target 'tpu:v5e-x4'"),
        ("tpu:v5e--4", "Cannot read the target 'tpu:v5e--4'"),
        ("cuda:h1000", "Cannot read the target 'cuda:h1000'"),
        ("cuda:", "Cannot read the target 'cuda:'. Give a TPU like .* or a GPU like cuda:h100"),
        ("rocm:mi300", "Cannot read the target 'rocm:mi300'"),
        ("", "Cannot read the target ''"),
        ("tpu:v5e-0", "There is no target 'tpu:v5e-0'. Give a power of two from v5e-1 to v5e-256"),
        ("tpu:v5e-12", "There is no target 'tpu:v5e-12'"),
        ("tpu:v5e-512", "There is no target 'tpu:v5e-512'"),
        ("tpu:v5p-4", "There is no target 'tpu:v5p-4'. Give a power of two from v5p-8 to .* like v5p-2x4x4"),
        ("tpu:v5p-9", "There is no target 'tpu:v5p-9'"),
        ("tpu:v5p-4x4", "There is no target 'tpu:v5p-4x4'"),
        ("tpu:v5e-99999x99999", "There is no target"),
        ("cuda:h100-0", "There is no target 'cuda:h100-0'. Give 1 to 8 GPUs, or a multiple of 8 up to 4096."),
        ("cuda:h100-12", "There is no target 'cuda:h100-12'"),
    ],
)
def test_a_wrong_target_is_refused(asked, text, message):
    with pytest.raises(InputError, match=message):
        target_of(text)
    assert asked == []


@pytest.mark.parametrize(("devices", "shape"), [("8", (8,)), ("4x4", (4, 4)), (None, (16,))])
def test_the_shape_of_a_mesh_is_chosen_with_its_target(asked, devices, shape):
    assert target_of("tpu:v5e-16", devices).mesh.devices.shape == shape


def test_a_target_has_the_devices_it_has(asked):
    with pytest.raises(InputError, match="Cannot use 32 devices: tpu:v5e-16 has 16. Ask for at most that many."):
        target_of("tpu:v5e-16", "8x4")
    with pytest.raises(InputError, match="Give a number, models x data like '4x2', or"):
        target_of("tpu:v5e-16", "many")


def test_what_a_missing_compiler_is_called_and_how_it_is_installed(monkeypatch):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"libtpu is not installed\. Install it: pip install 'mdjax\[plan-tpu\]'\.$"):
        target_of("tpu:v5e-16")

    def unknown(*_, **__):
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr(topologies, "get_topology_desc", unknown)
    with pytest.raises(InputError, match=r"CUDA plugin, is not installed\. .*: pip install 'mdjax\[plan-cuda\]'\.$"):
        target_of("cuda:h100")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("ABORTED: Internal error when accessing libtpu multi-process lockfile.", "another process of this host has"),
        ("INVALID_ARGUMENT: Topology layout", "libtpu says 'INVALID_ARGUMENT: Topology layout'. Give a slice"),
    ],
)
def test_what_libtpu_says_becomes_a_sentence(monkeypatch, said, message):
    def refuse(*_, **__):
        raise jax.errors.JaxRuntimeError(said)

    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    for text in ("tpu:v5e-16", "tpu:v5p-8"):
        with pytest.raises(InputError, match=message):
            target_of(text)
    with pytest.raises(InputError, match="JAX's CUDA plugin says"):
        target_of("cuda:h100")


def test_the_plan_of_a_target_asks_no_device():
    chip = TPUS["v5e"].chip
    mesh = Mesh(np.array(jax.devices()[:2]), ("models",))
    target = targets.Target("tpu:v5e-2", mesh, chip, "", {})
    plan = default_plan(target=target)
    assert (plan.convolution, plan.chunk_size, plan.num_groups) == ("examples_last", 32, 2)
    assert plan.residual_bytes == chip.memory // 4
    assert memory_budget(plan) == int(0.8 * chip.memory)
    assert plan.compiler_options is None
    assert default_plan(mesh).compiler_options is None


@pytest.mark.parametrize("chip", [tpu.chip for tpu in TPUS.values()] + [gpu.chip for gpu in GPUS.values()])
def test_figures_of_chips_are_of_a_size_that_exists(chip):
    assert 8 * GIB < chip.memory < 200 * GIB
    assert 5e12 < chip.flops < 500e12
    assert 200e9 < chip.bandwidth < 10e12
