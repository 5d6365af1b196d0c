"""A calibration's folder: its two files belong together."""

import json

import numpy as np
import pytest
from killed_writers import leftover_of_a_killed_writer

from mdjax import file_sets
from mdjax.diagnosis.calibrations import FILE, TREES, Calibration
from mdjax.diagnosis.surface import Points, Surface
from mdjax.diagnosis.trees import load_trees, save_trees
from mdjax.errors import InputError


@pytest.fixture
def calibration():
    random = np.random.default_rng(0)
    points = Points(*(random.uniform(0.1, 1, 12) for _ in range(3)))
    return Calibration(Surface.fitted(points, random.uniform(30, 60, 12)), {}, {}, 12, load_trees())


def test_trees_of_another_calibration_are_not_taken_for_its_own(calibration, tmp_path, monkeypatch):
    monkeypatch.setattr(file_sets.time, "sleep", lambda seconds: None)
    leftover_of_a_killed_writer(tmp_path, is_folder=True)
    calibration.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE, TREES]
    assert Calibration.load(tmp_path).trees.keys() == calibration.trees.keys()
    save_trees(list(calibration.trees.values())[:1], tmp_path / TREES)
    with pytest.raises(
        InputError, match=r"trees.json is of another calibration than calibration.json .*calibrate again"
    ):
        Calibration.load(tmp_path)
    content = json.loads((tmp_path / FILE).read_text())
    del content["trees"]  # as earlier versions wrote it
    (tmp_path / FILE).write_text(json.dumps(content))
    assert len(Calibration.load(tmp_path).trees) == 1


def test_a_calibration_without_trees_has_none_of_an_earlier_one(calibration, tmp_path):
    calibration.save(tmp_path)
    Calibration(calibration.surface, {}, {}, 12).save(tmp_path)
    assert Calibration.load(tmp_path).trees == {}


def test_what_a_killed_writer_had_committed_counts(calibration, tmp_path):
    Calibration(calibration.surface, {}, {}, 11).save(tmp_path)
    calibration.save(tmp_path / file_sets.PENDING)
    (tmp_path / file_sets.PENDING / TREES).replace(tmp_path / TREES)  # moved before the kill
    found = Calibration.load(tmp_path)
    assert found.num_models == 12 and found.trees.keys() == calibration.trees.keys()
