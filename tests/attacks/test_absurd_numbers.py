"""Numbers that nobody can mean, wherever numbers come in: a sentence before memory or time is spent on them."""

import jax
import numpy as np
import pandas as pd
import pytest
from diagnosis_tables import zoo as labelled_table

import mdjax
from mdjax.calibration.growing import calibrate
from mdjax.checking import check
from mdjax.diagnosis.populations import FEATURES, Population
from mdjax.engine import device_mesh
from mdjax.errors import InputError
from mdjax.metrics import Surface, select
from mdjax.models import Architecture, sequence
from mdjax.report.figures import feature_figure, rendered
from mdjax.report.panels import panel_grid
from mdjax.sweeps.facts import read_facts
from mdjax.zoo.grids import MOST_MODELS, Grid, load_grid
from mdjax.zoo.training import train

RANDOM = np.random.RandomState(0)
X, Y = RANDOM.randn(30, 4).astype("f4"), (np.arange(30) % 3).astype("i4")
DATA = (X, Y, X, Y)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("width = 1000000000", "width holds 1000000000. Give a whole number of at least 1 and at most 1,048,576"),
        ("width = [4, 1e400]", "width holds inf"),
        ("depth = 100000", "depth holds 100000.* at most 1,000"),
        ("seeds = 10000000", "seeds is 10000000. Give a whole number of at least 1 and at most 1,000,000"),
        ("seeds = 1000000\nwidth = [2, 4]", "The grid has 6,000,000 models, but at most 1,000,000 are grown"),
        ("epochs = 9999999999", "epochs is 9999999999. Give .* at most 2,147,483,647"),
        ("batch_size = 1" + "0" * 300, r"batch_size holds 1000.*\.\.\.\. Give"),
        ("learning_rate = 1e31", r"learning_rate holds 1e\+31.* at most 1e\+30"),
        ("learning_rate = nan", "learning_rate holds nan"),
        ("width = " + "[" * 90_000, "is not valid TOML"),
        ("width = " + "9" * 5000, "is not valid TOML"),
        ("data = 7", "data is 7. Give a name or a path"),
        ("warmup = " + "9" * 400, "warmup is 999"),
        ("optimizer = [[]]", "optimizer is"),
    ],
)
def test_a_grid_of_absurd_numbers_is_refused_before_its_settings_are_listed(tmp_path, text, message):
    (tmp_path / "grid.toml").write_text(text)
    with pytest.raises(InputError, match=message) as told:
        load_grid(tmp_path / "grid.toml")
    assert len(str(told.value)) < 400


def test_a_grid_that_fits_no_memory_is_refused_before_a_zoo_is_made(tmp_path, monkeypatch):
    with pytest.raises(
        InputError, match=r"Training a mlp of width 1,000,000 would take 1[45]\.. TiB of memory, but at most"
    ):
        train(Grid(width=(10**6,), batch_size=(8,), seeds=1), tmp_path / "zoo", dataset=DATA)
    assert not (tmp_path / "zoo").exists()
    with pytest.raises(InputError, match=r"2,147,483,647 epochs of .* are 6,442,450,941 steps"):
        train(Grid(width=(2,), batch_size=(8,), epochs=2**31 - 1, seeds=1), tmp_path / "zoo", dataset=DATA)
    monkeypatch.setenv("MDJAX_MEMORY", "1KiB")
    with pytest.raises(InputError, match="MDJAX_MEMORY="):
        train(Grid(width=(64,), batch_size=(8,), seeds=1), tmp_path / "zoo", dataset=DATA)


def test_the_largest_grid_is_counted_without_being_listed():
    assert len(Grid(width=(1,), batch_size=(1,), seeds=MOST_MODELS)) == MOST_MODELS


@pytest.mark.parametrize("devices", ["10000000", "9" * 5000, "1000000x1000000", "-1", "1x2x3x4"])
def test_more_devices_than_can_be_are_refused_without_making_them(devices, monkeypatch):
    monkeypatch.setattr(jax.config, "update", lambda *given: pytest.fail("devices were made"))
    with pytest.raises(InputError, match=r"Cannot use .{1,90}") as told:
        device_mesh(devices)
    assert len(str(told.value)) < 300


@pytest.mark.parametrize("seed", [2**63, 2**32, -1, 1.5, True, "1"])
def test_seeds_beyond_32_bits_are_refused_where_they_would_be_others(seed):
    with pytest.raises(InputError, match="seed is .* Give a whole number of at least 0 and at most 4,294,967,295"):
        mdjax.measure([({"w": X}, {})], model=lambda p, s, x: x, data=DATA, seed=seed)
    with pytest.raises(InputError, match="seed is "):
        check("net.pt", data=DATA, seed=seed)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("hessian.max_steps=1000000000", "hessian.max_steps is 1000000000.* at most 1,000,000"),
        ("surface.num_points=999999999", "surface.num_points is 999999999|num_points is"),
        ("mode_connectivity.settings.num_steps=" + "9" * 30, "num_steps is 999"),
        ("cka.batch_size=100000000000", "cka.batch_size is"),
    ],
)
def test_settings_of_absurd_numbers_are_refused(setting, message):
    with pytest.raises(InputError, match=message):
        select("default", setting.partition(".")[0], [setting])
    with pytest.raises(InputError, match="at most 1,000,000 points"):
        Surface(dimensions=2, num_points=1001)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Architecture("mlp", 10**10), "width is 10000000000"),
        (lambda: Architecture("mlp", 2.5), "width is 2.5"),
        (lambda: Architecture("mlp", 2, (10**12,)), "input_shape is 1000000000000"),
        (lambda: Architecture("mlp", 2, (0, 4)), "input_shape is 0"),
        (lambda: Architecture("mlp", 2, (4,), 2**40), "num_classes is"),
        (lambda: Architecture("mlp", 2, (4,), 3, 10**6), "depth is 1000000"),
        (lambda: Architecture("mlp", 2, 7), "input_shape is 7"),
        (lambda: sequence("dense99999999999", (4,)), "describes no layer"),
        (lambda: sequence("relu " * 9999 + "dense3", (4,)), "at most 2000"),
        (lambda: read_facts({"width": "1e300"}), "width is 1e.300"),
        (lambda: read_facts({"batch_size": 10**400}), "batch_size is"),
        (lambda: calibrate("mlp-w8", data=DATA, out="x", seeds=10**7), "seeds is 10000000"),
        (lambda: calibrate("mlp-w8", data=DATA, out="x", recipe={"epochs": 10**12}), "epochs is"),
    ],
)
def test_networks_and_facts_of_absurd_numbers_are_refused(make, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        make()
    assert not list(tmp_path.iterdir())


HUGE = [1e308, -1e308, 1.7e308, 1e155]


@pytest.mark.parametrize("name", ["test_error", "hessian_t", "CKA"])
def test_a_network_of_huge_numbers_is_outside_a_population(name):
    table = labelled_table()
    population = Population.of(table)
    found = population.distances(table.head(len(HUGE)).assign(**{name: HUGE}))
    assert (found.p_value < 0.01).all()
    assert (found.furthest == FEATURES.index(name)).all()
    assert ((found.nearest >= 0) & (found.nearest < len(table))).all()


def test_huge_numbers_are_in_no_population():
    table = labelled_table()
    without = Population.of(table.iloc[len(HUGE) :])
    table.loc[: len(HUGE) - 1, "hessian_t"] = HUGE
    assert Population.of(table).key == without.key
    with pytest.raises(InputError, match=r"0 rows have all of .* in numbers up to 1e\+100"):
        Population.of(table.assign(CKA=1e308))
    entry = without.to_dict()
    entry["values"]["CKA"][3] = 1e308
    with pytest.raises(ValueError, match="its population is not whole"):
        Population.from_dict(entry)


@pytest.mark.parametrize("values", [[1e308] * 4, [1e308, -1e308, 1, 2], [-1.7e308] * 4, [1e308, 1, 2, 3]])
def test_huge_numbers_are_drawn(values):
    table = pd.DataFrame({"width": [2, 2, 4, 4], "batch_size": [8, 16, 8, 16], "train_loss": values})
    assert rendered(feature_figure(table, "train_loss", panel_grid(table)), "svg").startswith(b"<?xml")
