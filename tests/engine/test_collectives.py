"""Collectives in compiled programs: of real ones on fake devices, and of other compilers' texts."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mdjax.engine import device_mesh
from mdjax.engine.collectives import num_collectives


@pytest.mark.parametrize(("function", "expected"), [(lambda x: jnp.sin(x), 0), (lambda x: x.sum(), 1)])
def test_those_of_a_program_on_several_devices(function, expected):
    split = NamedSharding(device_mesh(8), PartitionSpec("models"))
    program = jax.jit(function, in_shardings=split).lower(jax.ShapeDtypeStruct((8,), jnp.float32)).compile()
    assert num_collectives(program.as_text()) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("%ar = f32[8]{0:T(256)} all-reduce(f32[8]{0} %x), replica_groups={}", 1),
        ("ROOT %ag = (f32[2]{0}, f32[8]{0}) all-gather-start(f32[2]{0} %x), dimensions={0}", 1),
        (
            "%ar = (f32[8]{0}, f32[4]{0:T(4)}, /*index=5*/f32[2]{0}, /*index=10*/f32[1]{0}) all-reduce(%a, %b, %c, %d)",
            1,
        ),
        ("%done = f32[8]{0} all-gather-done((f32[2]{0}, f32[8]{0}) %ag)", 0),
        ("%r = f32[2]{0} reduce-scatter(%x), to_apply=%add", 1),
        ("%p = f32[2]{0} collective-permute(%x), source_target_pairs={{0,1}}", 1),
        ("%t = (f32[1]{0}, f32[1]{0}) all-to-all(%a, %b)", 1),
        ("%f = f32[8]{0} fusion(%all-reduce.3), kind=kLoop, calls=%all-reduce-fusion", 0),
        ('%c = f32[8]{0} copy(%all-gather), metadata={op_name="all-gather(x)"}', 0),
    ],
)
def test_what_counts_as_one(line, expected):
    assert num_collectives(f"HloModule m\n\n  {line}\n") == expected
