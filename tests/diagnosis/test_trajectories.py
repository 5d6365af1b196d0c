"""Checkpoints along a training: which rows are some, in which order, and where their verdict settles."""

import numpy as np
import pandas as pd
import pytest

import mdjax
from mdjax.cli import main
from mdjax.diagnosis.trajectories import along_training, training_lines, trajectories
from mdjax.models import Architecture
from mdjax.report.page import write_report
from mdjax.report.training import training_figure
from mdjax.zoo.data import load
from mdjax.zoo.store import Zoo


def rows(**columns):
    return pd.DataFrame({"width": 8, "batch_size": 64, **columns})


def test_rows_that_differ_in_epochs_alone_are_a_trajectory():
    table = rows(epochs=[20, 5, 10, 5, 10], width=[8, 8, 8, 16, 16], learning_rate=np.nan)
    (found,) = trajectories(table)  # of width 16 there are two
    assert found.rows.tolist() == [1, 2, 0] and found.epochs.tolist() == [5, 10, 20]
    assert found.shared == {"width": "8"} and found.name == "width 8"
    assert along_training(table).tolist() == [1, 2, 0, 3, 4]
    assert trajectories(rows(epochs=[1, 2, 2])) == []  # which of them is the checkpoint nobody knows
    assert trajectories(rows(epochs=[1, np.nan, 2])) == []
    assert trajectories(rows(bs=[1, 2, 3])) == []
    assert along_training(rows(bs=[1, 2, 3])).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("causes", "position", "told"),
    [
        ("aaa", 0, "'a' at every checkpoint."),
        ("aba", 2, "'a' from 20 epochs on; before that 'a', 'b'."),
        ("bba", 2, "'a' from 20 epochs on; before that 'b'."),
        ("baa", 1, "'a' from 10 epochs on; before that 'b'."),
    ],
)
def test_a_verdict_settles_where_it_is_the_last_one_from_then_on(causes, position, told):
    table = rows(epochs=[5, 10, 20])
    assert trajectories(table)[0].settled(causes) == position
    (line,) = training_lines(table, causes)
    assert line == f"Over training (the networks; 5 to 20 epochs, 3 checkpoints): {told}"


def test_of_many_the_first_are_told():
    table = pd.concat([rows(epochs=[1, 2, 3], width=width) for width in range(10)], ignore_index=True)
    lines = list(training_lines(table, ["a"] * 30))
    assert len(lines) == 9 and lines[-1] == "And 2 more trajectories over training."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network of digits and what it was after fewer epochs, added to a zoo in another order."""
    path, data = tmp_path_factory.mktemp("training"), load("digits")
    zoo = Zoo.create(path / "zoo", data="digits", fingerprint=data.fingerprint)
    architecture = Architecture("mlp", 16, data.input_shape)
    from mdjax.zoo.grids import Setting
    from mdjax.zoo.training import train_stack

    for epochs in (12, 1, 4):
        facts = dict(family="mlp", width=16, depth=2, batch_size=64, data_share=1.0, label_noise=0.0, momentum=0.9)
        setting = Setting(**facts, learning_rate=0.02, weight_decay=0.0, epochs=epochs, seed=0)
        params, state = train_stack([setting], data, network=architecture)
        told = {"configuration": f"net-e{epochs}", "batch_size": 64, "learning_rate": 0.02, "epochs": epochs}
        zoo.append(f"e{epochs}", architecture, [{"model_id": f"e{epochs}", **told, "seed": 0}], params, state)
    return path


def test_from_checkpoints_to_the_page(folder, capsys):
    mdjax.measure(folder / "zoo", out=folder / "table", metrics="losses,hessian", preset="fast", show_progress=False)
    table = pd.read_parquet(folder / "table" / "configurations.parquet")
    assert table["epochs"].tolist() == [1, 4, 12]
    assert (np.diff(table["train_loss"]) < 0).all()
    main(["diagnose", str(folder / "table")])
    assert "Over training (the networks; 1 to 12 epochs, 3 checkpoints): '" in capsys.readouterr().out
    write_report(folder / "report.html", mdjax.table.read_configurations(folder / "table"))
    page = (folder / "report.html").read_text()
    assert "<h2>Over training</h2>" in page and "3 checkpoints" in page


def test_the_picture_has_a_line_for_each_training():
    table = rows(epochs=[1, 2, 3, 1, 2, 3], width=[4] * 3 + [8] * 3, test_error=[9.0, 5, 4, 8, 3, 2], bs=64)
    figure = training_figure(table, ["model too small"] * 6)
    assert figure is not None
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 3]
    assert [line.get_ydata().tolist() for line in lines] == [[9, 5, 4], [8, 3, 2]]
    assert training_figure(rows(bs=[1, 2]), None) is None
