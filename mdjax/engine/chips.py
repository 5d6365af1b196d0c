"""Accelerators by name: memory, peak rates, and what XLA's compilers must know of them to compile without one.

Figures are the makers' own (Google's pages of each TPU version, NVIDIA's data sheets and tuning guides). Rates are
those of float32 products at `highest` precision, as curvature takes them: a TPU makes each of six in bfloat16, a GPU
leaves its TF32 units aside.
"""

from typing import NamedTuple

_GIB = 2**30

_PASSES = 6
"""Products in bfloat16 that one product in float32 takes on a TPU."""

_GPU_SHARE = 0.75
"""Part of a GPU's memory that JAX takes for itself, unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise."""


class Chip(NamedTuple):
    """One device as programs see it.

    memory: bytes that programs can have. Of a TPU what its compiler grants, of a GPU what JAX takes.
    flops: float32 operations a second at `highest` precision, at most.
    bandwidth: bytes a second from its memory, at most.
    """

    memory: int
    flops: float
    bandwidth: float


class TPU(NamedTuple):
    """A version of Google's TPUs.

    chip: one of its chips, which is one device.
    num_axes: of the grid or torus in which chips are wired.
    most_chips: in the largest slice whose sides are powers of two.
    cores: TensorCores on a chip where the usual names count them and not chips, as "v5p-64" does: 32 chips.
    options: of the topology, beside its name.
    """

    chip: Chip
    num_axes: int
    most_chips: int
    cores: int = 1
    options: tuple[tuple[str, str], ...] = ()


def _tpu_chip(gib: float, bfloat16_teraflops: float, gigabytes_a_second: float) -> Chip:
    return Chip(int(gib * _GIB), bfloat16_teraflops / _PASSES * 1e12, gigabytes_a_second * 1e9)


# The memory is what each version's compiler says it has in the message with which it refuses a program.
TPUS = {
    # Both cores of a v4 chip work as one device, as they do where JAX runs on it.
    "v4": TPU(_tpu_chip(30.75, 275, 1228), 3, 4096, 2, (("chip_config_name", "megacore"),)),
    "v5e": TPU(_tpu_chip(15.75, 197, 819), 2, 256),
    "v5p": TPU(_tpu_chip(95.74, 459, 2765), 3, 4096, 2),
    "v6e": TPU(_tpu_chip(31.25, 918, 1638), 2, 256),
}


class Multiprocessor(NamedTuple):
    """What a compute capability of NVIDIA's GPUs says of each multiprocessor, of its threads and its memory."""

    major: int
    minor: int
    threads: int
    float_units: int
    shared_kib: int
    block_kib: int


class GPU(NamedTuple):
    """A model of NVIDIA's GPUs.

    name: as its driver tells it.
    gib: of memory, by its driver's account.
    teraflops: in float32 without tensor cores.
    gigabytes_a_second: of its memory.
    kind: what its compute capability says.
    num_cores: of its multiprocessors.
    l2_mib: of the second-level cache.
    gigahertz: of its clock at most.
    """

    name: str
    gib: float
    teraflops: float
    gigabytes_a_second: float
    kind: Multiprocessor
    num_cores: int
    l2_mib: int
    gigahertz: float

    @property
    def chip(self) -> Chip:
        return Chip(int(_GPU_SHARE * self.gib * _GIB), self.teraflops * 1e12, self.gigabytes_a_second * 1e9)

    def description(self) -> str:
        """The GPU as XLA's compiler for it reads one: a GpuTargetConfigProto in text."""
        kind = self.kind
        facts = {
            "threads_per_block_limit": 1024,
            "threads_per_warp": 32,
            "shared_memory_per_block": 48 * 1024,
            "shared_memory_per_core": kind.shared_kib * 1024,
            "shared_memory_per_block_optin": kind.block_kib * 1024,
            "threads_per_core_limit": kind.threads,
            "core_count": self.num_cores,
            "fpus_per_core": kind.float_units,
            "block_dim_limit_x": 2**31 - 1,
            "block_dim_limit_y": 65_535,
            "block_dim_limit_z": 65_535,
            "memory_bandwidth": int(self.gigabytes_a_second * 1e9),
            "l2_cache_size": self.l2_mib * 2**20,
            "clock_rate_ghz": self.gigahertz,
            "device_memory_size": int(self.gib * _GIB),
            "registers_per_core_limit": 65_536,
            "registers_per_block_limit": 65_536,
        }
        lines = "\n".join(f"  {name}: {value}" for name, value in facts.items())
        capability = f"  cuda_compute_capability {{ major: {kind.major} minor: {kind.minor} }}"
        return (
            f"gpu_device_info {{\n{lines}\n{capability}\n}}\n"
            # A version of cuDNN that has all that the compiler asks for; no library is called here.
            'platform_name: "CUDA"\ndnn_version_info { major: 9 minor: 8 }\n'
            f'device_description_str: "{self.name}"\n'
        )


_TURING = Multiprocessor(7, 5, 1024, 64, 64, 64)
_AMPERE = Multiprocessor(8, 0, 2048, 64, 164, 163)
_AMPERE_SMALL = Multiprocessor(8, 6, 1536, 128, 100, 99)
_ADA = Multiprocessor(8, 9, 1536, 128, 100, 99)
_HOPPER = Multiprocessor(9, 0, 2048, 128, 228, 227)
_BLACKWELL = Multiprocessor(10, 0, 2048, 128, 228, 227)

GPUS = {
    "t4": GPU("Tesla T4", 14.5, 8.1, 320, _TURING, 40, 4, 1.59),
    "a10g": GPU("NVIDIA A10G", 22, 31.2, 600, _AMPERE_SMALL, 80, 6, 1.71),
    "l4": GPU("NVIDIA L4", 22, 30.3, 300, _ADA, 58, 48, 2.04),
    "a100-40gb": GPU("NVIDIA A100-SXM4-40GB", 39, 19.5, 1555, _AMPERE, 108, 40, 1.41),
    "a100-80gb": GPU("NVIDIA A100-SXM4-80GB", 79, 19.5, 2039, _AMPERE, 108, 40, 1.41),
    "h100": GPU("NVIDIA H100 80GB HBM3", 79, 67, 3350, _HOPPER, 132, 50, 1.98),
    "h200": GPU("NVIDIA H200", 139, 67, 4800, _HOPPER, 132, 50, 1.98),
    "b200": GPU("NVIDIA B200", 178, 75, 7700, _BLACKWELL, 148, 126, 1.97),
}
