"""Trees grown once for all tests, and the published tables."""

import pandas as pd
import pytest
from diagnosis_tables import sweep, zoo

from mdjax.diagnosis.growing import grow
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.questions import QUESTIONS


@pytest.fixture(scope="session")
def published_trees() -> dict[str, MDTree]:
    return {name: grow(zoo(), name, method="published", preset="reference") for name in QUESTIONS}


@pytest.fixture(scope="session")
def default_trees() -> dict[str, MDTree]:
    return {name: grow(sweep(), name) for name in QUESTIONS}


@pytest.fixture(scope="module")
def zoos(published_data) -> dict[str, pd.DataFrame]:
    return {name: pd.read_csv(published_data / f"{name}.csv").assign(zoo=name) for name in ("basic", "noisy")}
