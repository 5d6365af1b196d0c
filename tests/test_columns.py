"""Descriptions of features travel with their table; and the names of settings are the same everywhere."""

import dataclasses

import pandas as pd
import pytest

from mdjax.columns import (
    ARCHITECTURE,
    CONFIGURATION,
    EXAMPLES,
    FEATURES,
    RECIPE,
    TASK,
    TRAINING,
    Feature,
    describe,
    described,
)
from mdjax.models import Architecture
from mdjax.zoo import grids
from mdjax.zoo.recipes import Recipe

LISTED = [
    Feature(
        "hessian_t", "Hessian trace", "log", column="hessian_trace", own_error="hessian_trace_se", scale="signed_log"
    ),
    Feature("CKA", "similarity", log_colours=True),
]


def frame() -> pd.DataFrame:
    return pd.DataFrame({"configuration": ["a"], "CKA": [0.5]})


def test_descriptions_survive_the_file(tmp_path):
    describe(frame(), LISTED).to_parquet(tmp_path / "table.parquet")
    assert described(pd.read_parquet(tmp_path / "table.parquet")) == {feature.name: feature for feature in LISTED}


@pytest.mark.parametrize("entries", [None, 3, "CKA", {"name": "CKA"}, [], [None], [3], [{}], [{"title": "x"}]])
def test_what_is_no_description_is_not_described(entries):
    table = frame()
    assert described(table) == {}
    table.attrs[FEATURES] = entries
    assert described(table) == {}


@pytest.mark.parametrize(
    "entry",
    [{"name": "b", "title": "B", "future": 1}, {"name": "b"}, {"name": 3, "title": "B"}, {"name": "b", "title": None}],
)
def test_a_description_of_another_version_does_not_spoil_the_others(entry):
    table = describe(frame(), LISTED)
    table.attrs[FEATURES].append(entry)
    assert set(described(table)) == {"hessian_t", "CKA"}


def test_a_feature_has_a_source_and_a_label():
    assert [feature.source for feature in LISTED] == ["hessian_trace", "CKA"]
    assert [feature.label for feature in LISTED] == ["Hessian trace (log)", "similarity"]


def test_the_names_of_settings_agree():
    """Those of a manifest's columns with the fields of what is trained, and the keys of a grid's file."""
    settings = {field.name for field in dataclasses.fields(grids.Setting)}
    grid = {field.name for field in dataclasses.fields(grids.Grid)}
    architecture = {field.name for field in dataclasses.fields(Architecture)} - {"input_shape"}
    assert set(ARCHITECTURE) == architecture | {"num_params"}
    assert set(RECIPE) == {field.name for field in dataclasses.fields(Recipe)}
    assert set(TRAINING) == settings - architecture - {"seed", "recipe"}
    assert {*TRAINING, *RECIPE} == grid - architecture - {"data", "seeds"}
    assert settings - {"seed", "recipe"} == grid - {"data", "seeds", *RECIPE}
    assert set(CONFIGURATION) == {*ARCHITECTURE, TASK, EXAMPLES, *TRAINING, *RECIPE, "preset"}
