"""Backend, memory and devices → how models are run: the one place that decides."""

import contextlib
import dataclasses
import functools
import math
from typing import Any, Literal

import jax
from jax.sharding import AxisType, Mesh

from mdjax.engine.targets import AXES, DATA, MODELS, SHARDS, TPU_EFFORT, TPU_EFFORTS, Target, device_shape, mesh_of
from mdjax.errors import InputError
from mdjax.landscape.limits import USUAL_LIMITS, ProductLimits
from mdjax.memory import free_memory
from mdjax.models.layers import Convolution

_MOST_HOST_DEVICES = 256
"""Most devices that are made of a host, each with threads of its own."""

_MEMORY_SHARE = 0.8

_CONVOLUTIONS: dict[str, Convolution] = {"cpu": "examples_last", "gpu": "batched", "tpu": "looped"}

_LIGHT_ON_CPU = (("xla_cpu_use_fusion_emitters", False),)
"""Each fusion is then compiled from LLVM's code for its elements, without a stage in MLIR before."""

_BRIEF_ON_CPU = (("xla_backend_optimization_level", 0), *_LIGHT_ON_CPU)

_FEW_NUMBERS = 2**20
"""That even code of a compiler that does not try makes in less time than trying would have taken."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How stacked models are run.

    `chunk_size` models go through one compiled call on each device, batched by "vmap" or one after another inside
    it by "map" (`jax.lax.map`); with a `chunk_size` of 1 both are the plain program of one model. `convolution`
    says how convolutions are computed. A `mesh` has the axis "models" and perhaps "data" and "shards".

    The Hessian's products can be taken from intermediates of one forward and backward pass, the residuals, kept in
    memory: `residual_bytes` is how much of each device's memory all models of a call may together use for that; with
    less than they need every product computes them anew, which costs half as much again. `vectors_at_once` is how
    many vectors are multiplied side by side, and `loops_over_batches` whether a loop over batches holds one product,
    rather than the program one for each batch (`mdjax.landscape.limits`).

    `effort` is how hard the compiler of a TPU tries (`mdjax.engine.targets.TPU_EFFORTS`); others try as hard as ever.

    With a `target`, whose mesh it is, programs are compiled for devices that are not here, and none is run.
    """

    batching: Literal["vmap", "map"] = "vmap"
    chunk_size: int = 32
    convolution: Convolution = "lax"
    mesh: Mesh | None = None
    residual_bytes: int = USUAL_LIMITS.residual_bytes
    vectors_at_once: int = USUAL_LIMITS.vectors_at_once
    loops_over_batches: bool = USUAL_LIMITS.loops_over_batches
    effort: Literal["O0", "O1", "O2"] = TPU_EFFORT
    target: Target | None = None

    def __post_init__(self) -> None:
        if self.mesh is None:
            return
        if MODELS not in self.mesh.axis_names or not set(self.mesh.axis_names) <= set(AXES):
            raise InputError(
                f"The mesh has the axes {tuple(self.mesh.axis_names)}. Name them 'models' and, if a batch's examples "
                "are to be split as well, 'data', and 'shards' if parameters are."
            )
        # Who asked for another type of axis meant other programs than these.
        types = (AxisType.Auto,) * len(self.mesh.axis_names)
        object.__setattr__(self, "mesh", Mesh(self.mesh.devices, self.mesh.axis_names, axis_types=types))

    def batching_of(self, num_models: int) -> Literal["vmap", "map", "single"]:
        """How that many models of one call on a device are run."""
        if num_models == 1:
            return "single"
        # Batched LAPACK calls on several host devices wait for each other's threads for ever. The grouped convolutions
        # that a GPU makes of several models gather all examples of a batch that is split over devices.
        # Models whose parameters are split are large enough alone.
        if self.mesh is not None and (
            self.platform == "cpu" or (self.platform != "tpu" and self.splits_batches) or self.num_shards > 1
        ):
            return "map"
        return self.batching

    def limits_of(self, num_models: int) -> ProductLimits:
        """The limits for the curvature products of each of that many models of one call on a device."""
        together = num_models if self.batching_of(num_models) == "vmap" else 1
        # Vectors side by side become one axis with the examples of a batch: where that is split over devices, all of
        # their activations would travel. Where parameters are split, memory is what there is too little of.
        vectors = 1 if self.splits_batches or self.num_shards > 1 else self.vectors_at_once
        return ProductLimits(self.residual_bytes // together, vectors, self.loops_over_batches)

    @property
    def splits_batches(self) -> bool:
        """Whether each batch's examples are split over devices, between which only sums are to travel."""
        return _size_of(self.mesh, DATA) > 1

    @property
    def num_shards(self) -> int:
        """Over how many devices each model's parameters are split."""
        return _size_of(self.mesh, SHARDS)

    @property
    def platform(self) -> str:
        """What the devices are: "cpu", "gpu" or "tpu"."""
        return platform_of(self.mesh)

    @property
    def compiler_options(self) -> dict[str, Any] | None:
        """What `jax.stages.Lowered.compile` is told; the same of a TPU that is here and of one that is not."""
        own = {"optimization_level": TPU_EFFORTS[self.effort]} if self.platform == "tpu" else {}
        return own | dict(self.target.compiler_options if self.target is not None else {}) or None

    def compiler_options_of(self, compiles_lightly: bool) -> dict[str, Any] | None:
        """`compiler_options` for the program of a metric that says so (`mdjax.metrics.Metric.compiles_lightly`)."""
        light = _known(_LIGHT_ON_CPU) if compiles_lightly and self.platform == "cpu" else {}
        return (self.compiler_options or {}) | light or None

    @property
    def num_groups(self) -> int:
        """Over how many devices, or groups that share the same models, the models are spread."""
        return _size_of(self.mesh, MODELS)

    @property
    def models_per_call(self) -> int:
        """How many models one compiled call takes, on all devices together."""
        return self.chunk_size * self.num_groups


def default_plan(mesh: Mesh | None = None, target: Target | None = None) -> Plan:
    """The plan for the devices of a mesh or of a target, or else for the default backend.

    CPU: one model a call. Batched over models a convolution becomes a grouped one, many times slower; matrix networks
    gain from batching only at mini-batches far smaller than those measured with here; and a model's row is then the
    same to the last bit whatever else is measured. Accelerators batch, since small models are bound by launches there:
    on an H100 a Hessian of 32 ResNets of width 2 takes 19 ms a model so, their narrow convolutions as batched products
    of patches, and 66 ms by grouped convolutions (`bench/batches_vs_torch.py`; not compared for wider ones). For the
    same reason a block of four products runs side by side on GPUs, and a quarter of the memory may hold their
    residuals. A TPU's compiler takes its time: there programs are as small as they can be, with one product for all
    batches and for one vector at a time, which moves as many bytes a vector as four side by side and takes two thirds
    of the memory.
    """
    if target is None and platform_of(mesh) == "cpu":
        return Plan("vmap", 1, usual_convolution(mesh), mesh)
    if target is not None:
        mesh, limit = target.mesh, target.chip.memory
    else:
        limit = (_device(mesh).memory_stats() or {}).get("bytes_limit", 2**32)
    is_tpu = platform_of(mesh) == "tpu"
    return Plan(
        "vmap",
        32,
        usual_convolution(mesh),
        mesh,
        residual_bytes=limit // 4,
        vectors_at_once=1 if is_tpu else 4,
        loops_over_batches=is_tpu,
        target=target,
    )


def usual_convolution(mesh: Mesh | None = None) -> Convolution:
    """The form of convolutions that suits the devices of a mesh, or else the default backend.

    CPU: with the examples last, which copies images less often than patches do and leaves no lane of a vector empty
    (`bench/connectivity_vs_torch.py`; XLA's own weight gradient is slow inside loops); as patches where the mesh splits
    the examples, since the other form makes them one axis with the pixels. XLA's own wherever parameters are split:
    patches would put channels that lie on several devices side by side.
    """
    found = _CONVOLUTIONS.get(platform_of(mesh), "lax")
    if _size_of(mesh, SHARDS) > 1 and found != "looped":
        return "lax"
    return "patches" if found == "examples_last" and _size_of(mesh, DATA) > 1 else found


@functools.cache
def _known(options: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Those of XLA's own options that this release has: they come and go, and change no result."""

    def is_known(name: str, value: Any) -> bool:
        try:
            jax.jit(lambda: 0).lower().compile({name: value})
        except Exception:  # of which type, that differs between releases, too
            return False
        return True

    return {name: value for name, value in options if is_known(name, value)}


def _size_of(mesh: Mesh | None, axis: str) -> int:
    return 1 if mesh is None else dict(mesh.shape).get(axis, 1)


def brief_options(results: Any) -> dict[str, Any] | None:
    """What a CPU's compiler is told of a program that runs once, by its results' shapes: of few not to try hard."""
    is_brief = jax.default_backend() == "cpu" and sum(leaf.size for leaf in jax.tree.leaves(results)) <= _FEW_NUMBERS
    return _known(_BRIEF_ON_CPU) if is_brief else None


def device_mesh(devices: str | int) -> Mesh | None:
    """A mesh from "N" (N devices share the models), "NxM" (each of N groups of M splits its batches) or "NxMxS" (and
    each of those is S devices, which split the parameters); None for 1.

    On a CPU backend that has not started yet, as many host devices as asked for are made. InputError where the
    text is no such number or there are not that many devices.
    """
    count = math.prod(device_shape(devices))
    if count == 1:
        return None
    if count <= _MOST_HOST_DEVICES:
        with contextlib.suppress(RuntimeError):  # a backend that is running has the devices it has
            jax.config.update("jax_num_cpu_devices", count)
    available = jax.local_devices()  # those of other hosts have models of their own
    return mesh_of(available, devices, f"this {available[0].platform} backend")


def memory_budget(plan: Plan) -> int:
    """Bytes that one call may take on each device: four fifths of what is free there now, or of what a target has."""
    if plan.target is not None:
        return int(_MEMORY_SHARE * plan.target.chip.memory)
    statistics = _device(plan.mesh).memory_stats()
    if statistics and "bytes_limit" in statistics:
        return int(_MEMORY_SHARE * (statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)))
    # Devices of a CPU backend share the host's memory.
    return int(_MEMORY_SHARE * free_memory()) // (1 if plan.mesh is None else plan.mesh.size)


def platform_of(mesh: Mesh | None) -> str:
    """What the devices of a mesh are, or those of the default backend: "cpu", "gpu" or "tpu"."""
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def _device(mesh: Mesh | None) -> Any:
    return jax.local_devices()[0] if mesh is None else mesh.devices.flat[0]
