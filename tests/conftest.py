"""Eight fake devices and 32-bit floats for every test, fixed before JAX starts."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The tests' networks are small and compile for longer than they run; unoptimised code compiles in half the time.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax

jax.config.update("jax_num_cpu_devices", 8)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "model_diagnosis"


@pytest.fixture(scope="session")
def published_data() -> Path:
    """The folder of the published Model Diagnosis Dataset; MDJAX_DATA overrides where it is looked for."""
    folder = Path(os.environ.get("MDJAX_DATA", SHARED))
    if not (folder / "basic.csv").is_file():
        pytest.skip(f"the published dataset (basic.csv, noisy.csv) is not in {folder}; set MDJAX_DATA to its folder")
    return folder
