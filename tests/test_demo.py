"""The demo, on smaller zoos: from nothing to the report and the picture, and again from what is there."""

import pandas as pd
import pytest

from mdjax import demo
from mdjax.cli import main

SMALL = {"width": (2, 32), "batch_size": (16, 128), "data_share": (0.25, 1.0), "seeds": 2, "epochs": 6}


@pytest.mark.slow
def test_the_demo_leaves_what_it_says_and_resumes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "AXES", demo.AXES | SMALL)
    main(["demo", "--out", str(tmp_path)])
    first = capsys.readouterr().out
    assert "accuracy in %" in first
    assert "What the sweep itself shows" in first
    assert "What small networks of this task say that one step would bring" in first
    assert f"The whole story: {tmp_path / 'report.html'}" in first
    for name in ("trees.json", "report.html", "phase.png", "calibration/calibration.json"):
        assert (tmp_path / name).stat().st_size > 500
    for zoo in demo.ZOOS:
        for name, rows in (("models", 16), ("configurations", 8)):
            frame = pd.read_parquet(tmp_path / f"{zoo}-table" / f"{name}.parquet")
            assert len(frame) == rows
    main(["demo", "--out", str(tmp_path)])
    assert capsys.readouterr().out.split("The whole story")[0] == first.split("The whole story")[0]
