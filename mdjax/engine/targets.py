"""The text of a target, tpu:v5e-16 or cuda:h100 → devices that programs are compiled for, though none is here.

Compilers come with packages: libtpu for TPUs, the CUDA plugin of JAX for NVIDIA's GPUs. Neither needs the device, a
driver or a network. What they compile is looked at and never run.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from mdjax.engine.chips import GPUS, TPUS, Chip
from mdjax.errors import InputError, brief, first_line
from mdjax.landscape.split_vectors import SHARDS

MODELS, DATA = "models", "data"
"""The axes of a device mesh: models are independent of each other, a batch's examples are summed over; and SHARDS,
over which parameters and vectors of their size are split."""

AXES = MODELS, DATA, SHARDS

_GPUS_OF_A_HOST = 8

_MOST_GPUS = 4096

TPU_EFFORTS = {"O0": 9, "O1": 19, "O2": 29}
"""How hard the compiler for TPUs may try: `EffortLevel` in XLA's xla_data.proto, whose usual one is O2."""

TPU_EFFORT = "O0"
"""What is usual here: O1 takes longer to compile, and with O2 the Hessian of a ResNet-18 has not been seen to end."""

_GPU_OPTIONS = {"xla_gpu_autotune_level": 0}
"""Where the GPU is not here: autotuning times kernels on it."""

_LIBTPU_SETTINGS = {
    # No server of metadata is asked, and no TPU is looked for.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    # Whoever computes on a TPU locks it against others; compiling alone need not.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
}


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices that programs are compiled for and nothing is run on.

    name: the text, as it was given.
    mesh: of its devices, with the axis "models" and perhaps "data" and "shards".
    chip: what each device has and can do.
    effort: how hard its compiler tries, for people to read.
    compiler_options: what `jax.stages.Lowered.compile` is told beside a plan's effort.
    """

    name: str
    mesh: Mesh
    chip: Chip
    effort: str
    compiler_options: Mapping[str, Any]


def target_of(text: str, devices: str | int | None = None) -> Target:
    """The target of a text such as "tpu:v5e-16", "tpu:v5p-2x4x4", "cuda:h100" or "cuda:h100-8".

    text: a TPU by its type, as Google names slices (v4 and v5p count TensorCores, two a chip), or by the chips on each
        side; a GPU by its name and, where there is more than one, how many.
    devices: over how many of them models are spread, or "NxM" or "NxMxS", as `device_mesh` reads it (default: models
        over all).

    InputError where a text names no target that is known, where there are not that many devices, and where the
    compiler is not installed. Cost: the first TPU loads libtpu, a second.
    """
    platform, _, rest = str(text).lower().partition(":")
    if platform == "tpu":
        found, chip = _tpus(text)
        how = f"with effort {TPU_EFFORT}", {}
    elif platform == "cuda":
        found, chip = _gpus(text, rest)
        how = "without autotuning", _GPU_OPTIONS
    else:
        raise _unknown(text)
    return Target(text, mesh_of(found, devices or len(found), text), chip, *how)


def device_shape(devices: str | int) -> tuple[int, ...]:
    """(models,) from "N", (models, data) from "NxM", + (shards,) from "NxMxS"; else InputError."""
    try:
        shape = tuple(int(part) for part in str(devices).lower().split("x"))
        if len(shape) > len(AXES) or min(shape) < 1:
            raise ValueError
    except ValueError:
        raise InputError(
            f"Cannot use devices {brief(devices)}. Give a number, models x data like '4x2', or models x data x shards "
            "of the parameters like '4x2x8'."
        ) from None
    return shape


def mesh_of(available: list[Any], devices: str | int, whose: str) -> Mesh:
    """A mesh of the first of these devices, of the shape that a text gives; InputError where there are fewer."""
    shape = device_shape(devices)
    count = math.prod(shape)
    if count > len(available):
        raise InputError(f"Cannot use {brief(count)} devices: {whose} has {len(available)}. Ask for at most that many.")
    return Mesh(np.array(available[:count]).reshape(shape), AXES[: len(shape)])


def _unknown(text: str) -> InputError:
    return InputError(
        f"Cannot read the target {brief(text)}. Give a TPU like tpu:v5e-16 or tpu:v5p-2x4x4 ({', '.join(TPUS)}), or a "
        f"GPU like cuda:h100 or cuda:h100-8 ({', '.join(GPUS)})."
    )


def _tpus(text: str) -> tuple[list[Any], Chip]:
    name, sides = tpu_slice(text)
    tpu, count = TPUS[name], math.prod(sides)
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise InputError(
            f"Cannot compile for {text}: its compiler libtpu is not installed. Install it: "
            "pip install 'mdjax[plan-tpu]'."
        )
    options: dict[str, Any] = dict(tpu.options)
    if count < 4:
        options["chips_per_host_bounds"] = [*sides, 1][:3]
    grid = f"{name}:{'x'.join(map(str, sides))}"
    try:
        with _environment(_LIBTPU_SETTINGS):
            found = topologies.get_topology_desc(grid, "tpu", **options).devices
    except RuntimeError as error:
        if "lockfile" in str(error):
            raise InputError(
                f"Cannot compile for {text}: another process of this host has loaded libtpu, and this one had tried to "
                "before. Start with JAX_PLATFORMS=cpu, or when the other has ended."
            ) from error
        raise InputError(
            f"Cannot compile for {text}: libtpu says {first_line(error)!r}. Give a slice that exists, and the libtpu "
            "of this release of JAX: pip install 'mdjax[plan-tpu]'."
        ) from error
    return list(found), tpu.chip


def tpu_slice(text: str) -> tuple[str, tuple[int, ...]]:
    """A TPU's version and the chips on each side of a slice, from "tpu:v5e-16", "v5e-16" or "v5p-2x4x4".

    InputError where there is no such slice.
    """
    name, _, size = text.lower().removeprefix("tpu:").replace("v5litepod", "v5e").partition("-")
    tpu = TPUS.get(name)
    if tpu is None or not re.fullmatch(r"\d{1,5}(x\d{1,5})*", size):
        raise _unknown(text)
    sides = tuple(map(int, size.split("x")))
    if len(sides) == 1:
        sides = _sides(sides[0] // tpu.cores, tpu.num_axes) if sides[0] % tpu.cores == 0 else ()
    if len(sides) != tpu.num_axes or not 1 <= math.prod(sides) <= tpu.most_chips:
        least = tpu.cores * (1 if tpu.num_axes == 2 else 4)
        raise InputError(
            f"There is no target {brief(text)}. Give a power of two from {name}-{least} to "
            f"{name}-{tpu.most_chips * tpu.cores}, or its chips on {tpu.num_axes} sides, like "
            f"{name}-{'x'.join('244'[-tpu.num_axes :])}."
        )
    return name, sides


def _sides(count: int, num_axes: int) -> tuple[int, ...]:
    """The chips on each side of the usual slice of so many; none where that is no power of two, or too few."""
    power = count.bit_length() - 1
    if count < 1 or count != 2**power or (num_axes == 3 and count < 4):
        return ()
    if count == 4 and num_axes == 3:
        return 2, 2, 1
    return tuple(2 ** ((power + axis) // num_axes) for axis in range(num_axes))


def _gpus(text: str, rest: str) -> tuple[list[Any], Chip]:
    matched = re.fullmatch(rf"({'|'.join(map(re.escape, GPUS))})(?:-(\d{{1,5}}))?", rest)
    if matched is None:
        raise _unknown(text)
    gpu, count = GPUS[matched[1]], int(matched[2] or 1)
    hosts = -(-count // _GPUS_OF_A_HOST)
    if not 1 <= count <= _MOST_GPUS or count % hosts or (hosts > 1 and count % _GPUS_OF_A_HOST):
        raise InputError(
            f"There is no target {brief(text)}. Give 1 to {_GPUS_OF_A_HOST} GPUs, or a multiple of "
            f"{_GPUS_OF_A_HOST} up to {_MOST_GPUS}."
        )
    try:
        found = topologies.get_topology_desc(
            "", "cuda", topology=f"1x{hosts}x{count // hosts}", target_config=gpu.description()
        ).devices
    except NotImplementedError:
        raise InputError(
            f"Cannot compile for {text}: its compiler, JAX's CUDA plugin, is not installed. Install it, in an "
            "environment of its own where there is no GPU: pip install 'mdjax[plan-cuda]'."
        ) from None
    except RuntimeError as error:
        raise InputError(
            f"Cannot compile for {text}: JAX's CUDA plugin says {first_line(error)!r}. Install that of this release of "
            "JAX: pip install 'mdjax[plan-cuda]'."
        ) from error
    return list(found), gpu.chip


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """With these variables set where the user has not, as long as a compiler is loaded; its processes keep theirs."""
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
