"""A zoo that grows: what was measured stays, what is new is measured, and the table is that of the whole zoo."""

import jax
import numpy as np
import pytest

import mdjax
from mdjax.models import Architecture
from mdjax.sweeps.running import Runner
from mdjax.zoo.store import Zoo

SMALL = Architecture("mlp", 3, (8, 8, 1), 10)
OPTIONS = {"metrics": "losses,similarity", "show_progress": False}


def add(zoo, group, configuration, seeds, start=0):
    rows = [
        {"model_id": f"{configuration}{seed}", "configuration": configuration, "seed": seed}
        for seed in range(start, start + seeds)
    ]
    keys = jax.random.split(jax.random.key(sum(map(ord, group))), seeds)
    zoo.append(group, SMALL, rows, *jax.vmap(SMALL.init)(keys))


@pytest.fixture
def done(monkeypatch):
    """The members that are measured, by metric."""
    found, run = {"losses": [], "similarity": []}, Runner.run

    def noted(self, unit):
        names = [tuple(unit.cell.models[index][0] for index in member) for member in unit.members]
        found[unit.metric.name] += names
        return run(self, unit)

    monkeypatch.setattr(Runner, "run", noted)
    return found


def test_only_what_is_new_is_measured(tmp_path, done):
    zoo = Zoo.create(tmp_path / "zoo", data="digits")
    add(zoo, "m", "b", 3)
    mdjax.measure(zoo, out=tmp_path / "table", **OPTIONS)
    assert sorted(done["similarity"]) == [("b0", "b1"), ("b0", "b2"), ("b1", "b2")]
    for found in done.values():
        found.clear()
    add(zoo, "a", "b", 1, start=3)  # a seed more, in a group that comes before the first
    add(zoo, "z", "c", 2)
    add(zoo, "c", "a", 1)
    grown = mdjax.measure(Zoo(zoo.path), out=tmp_path / "table", **OPTIONS)
    assert sorted(done["losses"]) == [("a0",), ("b3",), ("c0",), ("c1",)]
    assert sorted(done["similarity"]) == [("b0", "b3"), ("b1", "b3"), ("b2", "b3"), ("c0", "c1")]
    whole = mdjax.measure(Zoo(zoo.path), **OPTIONS)
    for name in ("models", "pairs"):
        frame, expected = getattr(grown, name), getattr(whole, name)
        for column in expected:
            if expected[column].dtype.kind == "f" and not column.endswith("_seconds"):
                np.testing.assert_allclose(frame[column], expected[column], rtol=1e-6, err_msg=column)


def test_another_zoo_of_the_same_models_is_known(tmp_path, done):
    first, second = (Zoo.create(tmp_path / name, data="digits") for name in ("first", "second"))
    add(first, "g", "b", 2)
    params, state = first.read_group("g")
    for number in (1, 0):
        row = {"model_id": f"b{number}", "configuration": "b", "seed": number}
        weights = jax.tree.map(lambda leaf, k=number: leaf[k : k + 1], (params, state))
        second.append(f"h{number}", SMALL, [row], *weights)
    mdjax.measure(first, out=tmp_path / "table", **OPTIONS)
    for found in done.values():
        found.clear()
    table = mdjax.measure(second, out=tmp_path / "table", **OPTIONS)
    assert not any(done.values())
    assert (table.models["status_code"] == "ok").all() and len(table.pairs) == 1
