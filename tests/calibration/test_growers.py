"""Calibrations whose cells are grown in another process."""

import dataclasses
import sys

import numpy as np
import pytest
from helpers import digits

from mdjax.calibration import growers
from mdjax.calibration.design import Cell
from mdjax.calibration.growers import check_growers, growing_apart
from mdjax.calibration.growing import CellGrower, calibrate
from mdjax.calibration.targets import target_of
from mdjax.errors import InputError
from mdjax.zoo.data import load

CELL = Cell(2, 0.125)
OPTIONS = ("learning_rate", 1, False)
DYING = """
import os
from mdjax.pools import serve
serve(lambda setup: lambda what, advance: os.abort())
"""


def target():
    return target_of("mlp-w4", None, {"epochs": 1, "batch_size": 64})


def test_a_cell_grown_apart_is_that_of_this_process(tmp_path):
    data = load("digits")
    with growing_apart("digits", data.fingerprint, target(), OPTIONS, tmp_path) as grower:
        found = grower.grown(CELL)
    expected = CellGrower(target(), data, *OPTIONS).grown(CELL)
    assert list(found) == list(expected) and len(found) == 6
    for column in expected:
        if expected[column].dtype.kind == "f" and not column.endswith("seconds"):
            np.testing.assert_allclose(found[column], expected[column], rtol=1e-4, atol=1e-5, err_msg=column)
    assert not list(tmp_path.iterdir())


def test_a_cell_at_which_processes_die_ends_the_growing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(growers, "_COMMAND", [sys.executable, "-c", DYING])
    with pytest.raises(InputError, match="0 of the cells of width and data were grown"):
        calibrate("mlp-w4", data="digits", out=tmp_path, budget="1m", workers=1, show_progress=False)
    said = " ".join(capsys.readouterr().err.split())
    assert "networks of width 1 are not grown: its process ended 3 times: SIGABRT. Growing ends before them" in said


@pytest.mark.parametrize(
    ("asked", "data", "message"),
    [
        (2, "digits", "workers is 2, but a calibration measures the time of one cell after another. Give 0 or 1"),
        (-1, "digits", "workers is -1"),
        ("many", "digits", "workers is 'many'"),
        (1, None, "need data by name or path"),
    ],
)
def test_what_cannot_be_grown_apart_is_told(asked, data, message):
    with pytest.raises(InputError, match=message):
        check_growers(asked, data or digits(), target())


def test_networks_of_a_function_are_grown_here():
    with pytest.raises(InputError, match="need networks by name"):
        check_growers(1, "digits", dataclasses.replace(target(), build=lambda width: None))
    assert check_growers("auto", "digits", target()) and not check_growers(0, digits(), target())
