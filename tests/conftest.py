"""Eight fake devices, 32-bit floats and one store of compiled programs for every test, fixed before JAX starts."""

import gc
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The tests' networks are small and compile for longer than they run. Unoptimised, without the emitters of whole fusions
# and in one piece, a program compiles in a third of the time; its numbers are held to the same tolerances.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    # Later releases end the process where they do not know a flag.
    + (" --xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""),
)
# A worker of pytest takes a core. On matrices as small as the tests', LAPACK would wake a thread for every other core,
# and they wait busily for each other: seven times the processor time of one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch
# Workers and the processes that tests start compile many of the same programs: what one has compiled the others read.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    STORE = tempfile.mkdtemp(prefix="mdjax-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = STORE
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
else:
    STORE = ""  # the user's, or that of the process which started this one

import jax

jax.config.update("jax_num_cpu_devices", 8)
# Tracing makes many small objects that last: looking through all of them each time takes a twentieth of a run.
gc.set_threshold(20_000, 20, 20)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "model_diagnosis"


def pytest_collection_modifyitems(items: list[pytest.Item]):
    """Modules with slow tests first: at the end, where one worker waits for the other, a test is short."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    # What was imported lasts as long as the process: it need not be looked through again.
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    if STORE:
        shutil.rmtree(STORE, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Every program takes some dozens of a process's memory mappings, and at 65,530 of them Linux refuses more."""
    yield
    from mdjax.engine.program_cache import PROGRAMS

    PROGRAMS.clear()
    jax.clear_caches()


@pytest.fixture(scope="session")
def published_data() -> Path:
    """The folder of the published Model Diagnosis Dataset; MDJAX_DATA overrides where it is looked for."""
    folder = Path(os.environ.get("MDJAX_DATA", SHARED))
    if not (folder / "basic.csv").is_file():
        pytest.skip(f"the published dataset (basic.csv, noisy.csv) is not in {folder}; set MDJAX_DATA to its folder")
    return folder
