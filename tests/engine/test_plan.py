"""The plan: meshes from text, memory, and where compiled programs are kept."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from mdjax import memory
from mdjax.engine import plan, programs
from mdjax.errors import InputError


@pytest.mark.parametrize(
    ("text", "axes", "shape"),
    [
        ("8", ("models",), (8,)),
        ("4x2", ("models", "data"), (4, 2)),
        ("2x1x4", ("models", "data", "shards"), (2, 1, 4)),
        (2, ("models",), (2,)),
    ],
)
def test_a_mesh_from_text(text, axes, shape):
    mesh = plan.device_mesh(text)
    assert (mesh.axis_names, mesh.devices.shape) == (axes, shape)
    made = plan.Plan("vmap", 4, mesh=mesh)
    assert made.num_groups == shape[0]
    assert made.num_shards == (shape[2] if len(shape) > 2 else 1)
    assert made.models_per_call == 4 * shape[0]
    assert plan.memory_budget(made) <= plan.memory_budget(plan.Plan()) / np.prod(shape) * 1.5


def test_one_device_needs_no_mesh():
    assert plan.device_mesh("1") is None
    assert plan.Plan().num_groups == 1


@pytest.mark.parametrize("text", ["0", "4x", "2x2x2x1", "many", "-1"])
def test_a_wrong_number_of_devices_is_refused(text):
    with pytest.raises(InputError, match="Give a number, models x data like '4x2', or"):
        plan.device_mesh(text)


def test_a_mesh_needs_an_axis_of_models():
    with pytest.raises(InputError, match="Name them 'models'"):
        plan.Plan(mesh=Mesh(np.array(jax.devices()), ("batch",)))


def test_other_axis_types_become_automatic():
    mesh = jax.make_mesh((4, 2), ("models", "data"), axis_types=(AxisType.Explicit,) * 2)
    assert plan.Plan(mesh=mesh).mesh.axis_types == (AxisType.Auto,) * 2


def test_models_batched_together_share_what_may_be_kept():
    together = plan.Plan("vmap", 8, residual_bytes=800, vectors_at_once=4)
    assert together.limits_of(8) == (100, 4, False)
    assert plan.Plan("map", 8, residual_bytes=800).limits_of(8) == (800, 1, False)


def test_a_process_that_is_limited_plans_with_its_limit(monkeypatch):
    whole = memory.free_memory()
    assert 0 < whole <= memory.usable()
    monkeypatch.setattr(memory, "usable", lambda: 2**27)
    assert memory.free_memory() == 2**27 or whole < 2**27
    assert 0 < plan.memory_budget(plan.Plan("map", 1)) < 2**27


def test_vectors_of_a_split_batch_are_multiplied_one_at_a_time():
    settings = {"vectors_at_once": 4, "residual_bytes": 800}
    assert plan.Plan("vmap", 8, mesh=plan.device_mesh("4x2"), **settings).limits_of(1) == (800, 1, False)
    for devices in ("4", "4x1"):
        assert plan.Plan("vmap", 8, mesh=plan.device_mesh(devices), **settings).limits_of(1) == (800, 4, False)


@pytest.mark.parametrize(("size", "is_brief"), [(2**19, True), (2**20, False)])
def test_only_a_program_of_few_results_is_compiled_without_effort(size, is_brief):
    results = jax.eval_shape(lambda: (jnp.zeros(size), jnp.zeros((size // 2, 1)), jnp.zeros(())))
    assert (plan.brief_options(results) is not None) == is_brief


def test_a_metric_may_ask_a_cpus_compiler_for_less():
    own = plan.default_plan()
    assert own.compiler_options_of(False) is None
    assert own.compiler_options_of(True) in ({"xla_cpu_use_fusion_emitters": False}, None)  # gone from JAX 0.12


def test_options_that_a_release_of_xla_does_not_have_are_left_out():
    wanted = (("xla_backend_optimization_level", 0), ("xla_cpu_no_such_option", True))
    assert plan._known(wanted) == {"xla_backend_optimization_level": 0}


def test_groups_of_host_devices_that_would_wait_for_each_other_are_refused():
    program = types.SimpleNamespace(as_text=lambda: "  %p = f32[2] collective-permute(%x), channel_id=1")
    for text in ("8", "4x2", "1x2x4"):
        programs._check_exchanges(program, plan.device_mesh(text))
    with pytest.raises(InputError, match="Give devices as 1x2x2."):
        programs._check_exchanges(program, plan.device_mesh("2x2x2"))
