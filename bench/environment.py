"""What every benchmark records about where it ran, and the arrays they share."""

import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import zoom

from mdjax.zoo.data import Dataset, load


def environment(*packages: str) -> dict:
    """Commit, date, versions, device and cores."""
    root = Path(__file__).parents[1]
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    versions = {}
    for name in ("mdjax", "jax", "flax", *packages):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    device = jax.devices()[0]
    kind = _cpu_name() if device.platform == "cpu" else device.device_kind
    return {
        "commit": commit.stdout.strip(),
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "versions": versions,
        "device": f"{len(jax.devices())} x {kind}",
        "cores": len(os.sched_getaffinity(0)),
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def matmul_peak(size: int = 2048, repeats: int = 5) -> float:
    """The machine's float32 matrix product rate in FLOP/s: the best of some products of size × size."""
    with jax.default_matmul_precision("highest"):
        product = jax.jit(lambda a: a @ a)
        matrix = jnp.ones((size, size))
        product(matrix).block_until_ready()
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            product(matrix).block_until_ready()
            seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def large_digits(num_train: int) -> Dataset:
    """The digits at 32 × 32, `num_train` of them to train on; beyond the 1,437 there are, copies shifted by pixels."""
    digits = load("digits")
    x_train, x_test = (zoom(x, (1, 4, 4, 1), order=1) for x in (digits.x_train, digits.x_test))
    copies = [x_train]
    for shift in range(1, -(-num_train // len(x_train))):
        copies.append(np.roll(x_train, (shift, -shift), axis=(1, 2)))
    labels = np.tile(digits.y_train, len(copies))[:num_train]
    return Dataset("digits32", np.concatenate(copies)[:num_train], labels, x_test, digits.y_test, 10)
