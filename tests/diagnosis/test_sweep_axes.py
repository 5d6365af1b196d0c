"""The axes of a table's own sweep: chosen by what varies, named by the user, refused where there are none."""

import itertools

import numpy as np
import pandas as pd
import pytest

from mdjax.diagnosis.labels import RFI_COLUMNS, Axes, failure_labels
from mdjax.diagnosis.sweep_axes import axes_text, labelled, parse_axes, sweep_axes
from mdjax.errors import InputError


def table(**axes) -> pd.DataFrame:
    """A full grid as `mdjax measure` writes it, with random accuracies."""
    settings = {"width": [8], "depth": [2], "batch_size": [64], "data_share": [1.0], "learning_rate": [0.1]}
    settings |= {"label_noise": [0.0], "weight_decay": [0.0]} | axes
    rows = pd.DataFrame(list(itertools.product(*settings.values())), columns=list(settings))
    rows["num_params"], rows["preset"] = rows["width"] ** 2, "default"
    rows["bs"], rows["data"] = rows["batch_size"], 10 * rows["data_share"]
    rows["data_amount"] = 1000 * rows["data_share"]
    rows["test_acc"] = np.random.default_rng(0).uniform(50, 90, len(rows))
    return rows


@pytest.mark.parametrize(
    ("varied", "expected"),
    [
        (
            {"width": [4, 8], "batch_size": [16, 32], "data_share": [0.5, 1.0]},
            Axes("batch_size", "width", "data_share"),
        ),
        ({"learning_rate": [0.1, 0.2], "depth": [2, 3]}, Axes("learning_rate", "depth", None, hotter="larger")),
        (
            {
                "learning_rate": [0.1, 0.2],
                "batch_size": [16, 32],
                "depth": [2, 3],
                "width": [4, 8],
                "preset": ["a", "b"],
            },
            Axes("batch_size", "width", None, within=("depth", "learning_rate")),
        ),
        ({"width": [4, 8], "label_noise": [0.0, 0.1]}, Axes(None, "width", None, within=("label_noise",))),
        ({"data_share": [0.5, 1.0]}, Axes(None, None, "data_share")),
    ],
)
def test_axes_are_chosen_by_what_varies(varied, expected):
    assert sweep_axes(table(**varied)) == expected


def test_layers_that_say_the_width_again_are_no_axis():
    rows = table(width=[4, 8], batch_size=[16, 32])
    rows["family"] = "sequence"
    rows["variant"] = [f"dense{width} relu dense10" for width in rows["width"]]
    assert sweep_axes(rows) == Axes("batch_size", "width", None)
    rows["variant"] = [f"dense{width} {'relu' if width == 4 else 'tanh'} dense10" for width in rows["width"]]
    assert sweep_axes(rows).within == ("variant", "width")


def test_the_published_table_has_the_published_axes(published_data):
    published = pd.read_csv(published_data / "basic.csv")
    assert sweep_axes(published) == Axes()
    rooms = labelled(published.drop(columns=list(RFI_COLUMNS)))
    assert rooms[list(RFI_COLUMNS)].equals(published[list(RFI_COLUMNS)])


def test_axes_that_vary_together_are_none():
    together = table(batch_size=[16, 32], width=[4, 8])
    together["learning_rate"] = together["batch_size"] / 100  # the linear scaling rule
    assert sweep_axes(together) == Axes(None, "width", None, within=("learning_rate", "batch_size"))
    with pytest.raises(InputError, match="No two configurations of the table differ in batch_size or width alone"):
        sweep_axes(together.iloc[[0, 3]])


def test_rows_without_an_accuracy_do_not_make_an_axis():
    rows = table(width=[4, 8])
    rows.loc[0, "test_acc"] = np.nan
    with pytest.raises(InputError, match=r"is no sweep: 1 of its 2 rows have a test accuracy"):
        sweep_axes(rows)


def test_an_error_does_for_the_accuracy():
    rows = table(width=[4, 8], batch_size=[16, 32])
    errors = rows.assign(test_error=100 - rows["test_acc"]).drop(columns="test_acc")
    expected = failure_labels(rows, batch="batch_size", data=None)
    assert labelled(errors)["width_vs_batch"].tolist() == expected["width_vs_batch"].tolist()


def test_named_parts_win():
    rows = table(learning_rate=[0.1, 0.2], batch_size=[16, 32], depth=[2, 3], width=[4, 8], weight_decay=[0.0, 0.1])
    named = parse_axes("batch=learning_rate, width=depth,within=weight_decay+width+batch_size")
    assert named == {
        "batch": "learning_rate",
        "width": "depth",
        "within": ("weight_decay", "width", "batch_size"),
    }
    axes = sweep_axes(rows, named)
    assert axes == Axes("learning_rate", "depth", None, within=named["within"], hotter="larger")
    assert "temperature by learning_rate (larger is hotter), size by depth; compared where weight_decay, width" in (
        axes_text(axes)
    )
    by_decay = sweep_axes(rows, parse_axes("batch=weight_decay,hotter=larger"))
    assert (by_decay.batch, by_decay.hotter) == ("weight_decay", "larger")
    assert set(by_decay.within) == {"depth", "batch_size", "learning_rate"}
    none = sweep_axes(rows, parse_axes("batch=none"))
    assert none.batch is None and {"batch_size", "learning_rate"} <= set(none.within)
    published = table(batch_size=[16, 32], width=[4, 8]).drop(columns="batch_size")
    assert sweep_axes(published, {"batch": None}).within == ("bs",)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("batch", r"Cannot read the axes 'batch' at 'batch'\. Write part=column, like batch=learning_rate"),
        ("size=width", "at 'size=width'"),
        ("width=depth,width=width", "at 'width=width'"),
        ("width=", "at 'width='"),
        ("width=depht", r"no column depht, named as an axis; it has width, depth"),
        ("within=nothing", "no column nothing, named as an axis"),
        ("batch=weight_decay", r"Whether smaller or larger values of weight_decay train hotter is not known\. Add"),
        ("hotter=up", "hotter must be 'smaller' or 'larger', got 'up'"),
    ],
)
def test_wrong_names_are_refused(named, message):
    with pytest.raises(InputError, match=message):
        sweep_axes(table(width=[4, 8], weight_decay=[0.0, 0.1]), parse_axes(named))


def test_what_is_no_sweep_is_refused():
    with pytest.raises(
        InputError, match=r"no sweep: of batch size.* each has one value \(batch_size 64, bs 64, learning"
    ):
        sweep_axes(pd.concat([table(), table()]))
    with pytest.raises(InputError, match=r"the table has none of them\. Train configurations that differ"):
        sweep_axes(pd.DataFrame({"test_acc": [1.0, 2.0]}))
    with pytest.raises(InputError, match=r"neither test_acc nor test_error.*Measure the losses"):
        sweep_axes(table(width=[4, 8]).drop(columns="test_acc"))
    with pytest.raises(InputError, match="must be a pandas DataFrame, got dict"):
        sweep_axes({})  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"have no part 'temperature'\. Name some of batch"):
        sweep_axes(table(width=[4, 8]), {"temperature": "bs"})
