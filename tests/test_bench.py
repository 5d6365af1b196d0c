"""Benchmarks that can run without an accelerator do run."""

import json
import os
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


@pytest.mark.slow
def test_a_few_mutated_and_crafted_files_of_some_formats_come_to_no_fault():
    script = Path(__file__).parents[1] / "bench" / "fuzz.py"
    chosen = "npz,group.json,calibration,grid,grids,calibrations"
    command = [sys.executable, str(script), "--count", "3", "--crafted", "3", "--formats", chosen]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert list(result["counts"]) == chosen.split(",")
    assert all(sum(found.values()) == 3 for found in result["counts"].values())
    assert set(result["total"]) == {"silent", "traceback", "crash", "hang", "memory"}
    assert not any(result["total"].values())


@pytest.mark.slow
def test_the_benchmark_of_language_models_runs(tmp_path):
    script = Path(__file__).parents[1] / "bench" / "language_model.py"
    sizes = ["--width", "16", "--layers", "1", "--tokens", "50", "--length", "8", "--examples", "16", "--samples", "4"]
    command = [sys.executable, str(script), *sizes, "--out", str(tmp_path / "result.json")]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["parameters"] > 0 and abs(result["train_loss"] - result["chance_loss"]) < 0.5
