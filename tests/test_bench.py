"""Benchmarks that can run without an accelerator do run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def test_the_benchmark_of_writers_and_kills_runs():
    script = Path(__file__).parents[1] / "bench" / "kills.py"
    command = [sys.executable, str(script), "--rounds", "2", "--kills", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["rounds"] == {"append": 1, "write": 2, "convert": 1} and result["kills"] == {"convert": 1}
    assert [result[name] for name in ("lost", "doubled", "mixed", "leftovers")] == [0] * 4


@pytest.mark.slow
def test_the_benchmark_of_convolution_forms_runs():
    script = Path(__file__).parents[1] / "bench" / "convolutions.py"
    done = subprocess.run([sys.executable, str(script), "--smoke"], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert len(result["rows"]) == 2 * 4
    assert all(row["products_per_second"] > 0 for row in result["rows"])
    assert set(result["best"]) == {"1"}
