"""Label noise: applied where the models were trained with it on these data, said elsewhere, and settable."""

import jax
import numpy as np
import pytest

import mdjax
from mdjax.cli import main
from mdjax.columns import TRAINING
from mdjax.errors import InputError
from mdjax.metrics import Losses
from mdjax.models import Architecture
from mdjax.sweeps import noise
from mdjax.sweeps.running import Runner
from mdjax.sweeps.units import cells, units
from mdjax.table import read_table
from mdjax.zoo.data import dataset_of, load
from mdjax.zoo.grids import Grid
from mdjax.zoo.store import Zoo
from mdjax.zoo.training import architecture_of, train_stack

RANDOM = np.random.RandomState(0)
CENTRES = 4 * RANDOM.randn(3, 5)
Y = np.arange(300) % 3
X = (CENTRES[Y] + RANDOM.randn(300, 5)).astype("f4")
ARCHITECTURE = Architecture("mlp", 4, (5,), 3, 0)
GRID = Grid(width=(4,), batch_size=(16,), label_noise=(0.0,), epochs=8, seeds=2)
QUIET = {"metrics": "losses", "show_progress": False}


@pytest.fixture
def path(tmp_path):
    np.savez(tmp_path / "mine.npz", x_train=X, y_train=Y, x_test=X[:60], y_test=Y[:60])
    return tmp_path / "mine.npz"


@pytest.fixture(scope="module")
def weights():
    """Two networks that have learned clean labels."""
    data = dataset_of((X, Y, X[:60], Y[:60]))
    return train_stack(GRID.settings(), data)


@pytest.fixture
def zoo(tmp_path, weights):
    """Makes a zoo as checkpoints convert to it: what folders say of the training is all that is known."""

    def made(label_noise=0.1, data="", fingerprint=None):
        found = Zoo.create(tmp_path / f"zoo{len(list(tmp_path.iterdir()))}", data=data, fingerprint=fingerprint)
        facts = {"configuration": f"mlp-subset_noisy_10-{label_noise}", "label_noise": label_noise, "data_share": 1.0}
        rows = [{**dict.fromkeys(TRAINING), **facts, "model_id": f"m{seed}", "seed": seed} for seed in range(2)]
        found.append("g", ARCHITECTURE, rows, *weights)
        return found

    return made


def told(capsys):
    return " ".join(capsys.readouterr().err.split())


def expected(weights, label_noise, index=0):
    """The training loss by hand, in float64."""
    params, state = jax.tree.map(lambda leaf: leaf[index], weights)
    logits = np.asarray(ARCHITECTURE.model().apply(params, state, X), "f8")
    labels = dataset_of((X, Y, X[:60], Y[:60])).train_labels(label_noise)
    return np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(300), labels])


def test_other_data_get_the_known_noise_and_a_warning_that_says_so(zoo, path, weights, capsys):
    table = mdjax.measure(zoo(), data=path, **QUIET)
    text = told(capsys)
    assert "labels of mine are redrawn with the label noise that 2 of 2 models are said to have been trained" in text
    assert "(0.1)" in text and "give --label-noise 0" in text
    assert "training loss of 2 of the first 2 models rises, in the median from" in text
    assert table.models["applied_label_noise"].tolist() == [0.1, 0.1]
    assert table.configurations["applied_label_noise"].tolist() == [0.1]
    for index in range(2):
        assert table.models["train_loss"][index] == pytest.approx(expected(weights, 0.1, index), rel=1e-5)


@pytest.mark.parametrize("off", [0, "0", 0.0])
def test_it_can_be_left_out(zoo, path, weights, capsys, off):
    table = mdjax.measure(zoo(), data=path, label_noise=off, **QUIET)
    assert "warning" not in told(capsys)
    assert table.models["applied_label_noise"].tolist() == [0.0, 0.0]
    assert table.models["label_noise"].tolist() == [0.1, 0.1]
    assert table.models["train_loss"][0] == pytest.approx(expected(weights, 0.0), rel=1e-5)
    assert expected(weights, 0.1) > expected(weights, 0.0) + 0.1


def test_saying_that_it_is_right_leaves_the_jump_alone_to_tell(zoo, path, capsys):
    mdjax.measure(zoo(), data=path, label_noise="known", **QUIET)
    text = told(capsys)
    assert "are said to have been" not in text and "models rises, in the median" in text
    mdjax.measure(zoo(0.0), data=path, label_noise="known", **QUIET)
    assert "No model is known to have been trained with label noise: none is applied" in told(capsys)
    mdjax.measure(zoo(0.0), data=path, **QUIET)
    mdjax.measure(zoo(None), data=path, **QUIET)
    assert "warning" not in told(capsys)


def test_a_zoo_that_names_a_file_given_at_its_conversion_is_no_more_certain(zoo, path, capsys):
    data = load(path)
    mdjax.measure(zoo(data=str(path), fingerprint=data.fingerprint), **QUIET)
    assert "are redrawn with the label noise" in told(capsys)


@pytest.mark.parametrize(("features", "width", "memorised"), [(100, 16, True), (5, 2, False)])
def test_models_that_learned_the_noise_get_no_wrong_advice(features, width, memorised, capsys, tmp_path):
    """By heart: the redrawn labels have the lower loss. Not so: the higher one, but the confidence fits them."""
    inputs = X if features == 5 else RANDOM.randn(300, features).astype("f4")
    data = dataset_of((inputs, Y, inputs[:60], Y[:60]))
    settings = Grid(width=(width,), batch_size=(16,), label_noise=(0.1,), epochs=60 if memorised else 8, seeds=1)
    params, state = train_stack(settings.settings(), data)
    made = Zoo.create(tmp_path / "learned", data="")
    row = {"model_id": "a", "configuration": "c", "seed": 0, "label_noise": 0.1}
    made.append("g", architecture_of(settings.settings()[0], data), [row], params, state)
    mdjax.measure(made, data=data, **QUIET)
    text = told(capsys)
    assert "are redrawn with the label noise" in text and "may not be the labels" not in text
    assert ("fits their confidence better" in text) == (not memorised)


def test_what_mdjax_trained_on_the_same_data_is_certain(path, tmp_path, capsys):
    grid = Grid(data=str(path), width=(2,), batch_size=(16,), label_noise=(0.1,), epochs=1, seeds=1)
    grown = mdjax.train(grid, tmp_path / "grown", show_progress=False)
    for data in (None, path, load(path), (X, Y, X[:60], Y[:60])):
        table = mdjax.measure(grown, data=data, **QUIET)
        assert table.models["applied_label_noise"].tolist() == [0.1]
    assert "warning" not in told(capsys)
    mdjax.measure(grown, data=(X + 1, Y, X[:60], Y[:60]), **QUIET)
    assert "training labels of data are redrawn" in told(capsys)


def test_the_official_data_of_a_layout_are_certain(zoo):
    made, data = zoo(data="cifar10"), load("digits")
    assert noise.is_certain(made, None, data)
    assert noise.is_certain(made, "cifar10:somewhere", data)
    for other in ("mine.npz", data, (X, Y, X, Y), {"x_train": X}):
        assert not noise.is_certain(made, other, data)


def test_the_noise_is_part_of_the_name_of_finished_work(zoo, path, tmp_path, monkeypatch):
    made, data = zoo(), load(path)
    names = set()
    for option in ("known", 0):
        manifest = made.manifest.assign(label_noise=noise.applied_noise(made.manifest, option))
        names |= {unit.name for cell in cells(manifest, data) for unit in units(Losses(), cell, 16, data, 0)}
    assert len(names) == 2
    done = []
    original = Runner.run
    monkeypatch.setattr(Runner, "run", lambda self, unit: (done.append(1), original(self, unit))[1])
    first = mdjax.measure(made, data=path, out=tmp_path / "t", **QUIET)
    second = mdjax.measure(made, data=path, out=tmp_path / "t", label_noise=0, **QUIET)
    assert len(done) == 2 and first.models["train_loss"][0] > second.models["train_loss"][0] + 0.1


@pytest.mark.parametrize("value", ["none", 1, 0.1, True, False, "0.1"])
def test_another_value_is_refused(zoo, path, value):
    with pytest.raises(InputError, match=r"label_noise is .*\. Give 'known' .* or 0"):
        mdjax.measure(zoo(), data=path, label_noise=value, **QUIET)


def test_the_command_line_sets_it(zoo, path, tmp_path, capsys):
    made = str(zoo().path)
    arguments = ["measure", made, "--data", str(path), "--metrics", "losses"]
    main([*arguments, "--out", str(tmp_path / "a"), "--label-noise", "0"])
    assert "warning" not in told(capsys)
    main([*arguments, "--out", str(tmp_path / "b")])
    assert "give --label-noise 0" in told(capsys)
    with pytest.raises(SystemExit):
        main([*arguments, "--plan", "--label-noise", "2"])
    assert "label_noise is '2'" in told(capsys)
    tables = [read_table(tmp_path / name) for name in "ab"]
    assert [table.models["applied_label_noise"][0] for table in tables] == [0.0, 0.1]
