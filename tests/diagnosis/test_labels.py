"""Labels: the published columns recompute exactly, holes and broken rows harm nobody, bad sweeps are refused."""

import time

import numpy as np
import pandas as pd
import pytest

from mdjax.diagnosis.labels import LABEL_COLUMNS, RFI_COLUMNS, Axes, failure_labels, room_for_improvement, step_gains
from mdjax.errors import InputError


def sweep(*rows: tuple[float, float, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["bs", "width", "data", "test_acc"])


@pytest.mark.parametrize("name", ["basic", "noisy"])
def test_published_columns_recompute_exactly(published_data, name):
    published = pd.read_csv(published_data / f"{name}.csv")
    shuffled = published[["bs", "width", "data", "test_acc"]].sample(frac=1, random_state=0)
    labelled = failure_labels(shuffled).loc[published.index]
    for column in (*RFI_COLUMNS, *LABEL_COLUMNS):
        assert labelled[column].tolist() == published[column].tolist()


def test_definition_by_hand():
    table = sweep((16, 4, 1, 60.0), (32, 4, 1, 70.0), (64, 4, 1, 65.0), (64, 8, 1, 80.0), (64, 4, 2, 66.0))
    rooms = room_for_improvement(table)
    assert rooms["rfi_inc_temp"].tolist() == [0, 0, 5, 0, 0]  # smaller batches
    assert rooms["rfi_dec_temp"].tolist() == [10, 0, 0, 0, 0]  # larger batches
    assert rooms["rfi_width"].tolist() == [0, 0, 15, 0, 0]
    assert rooms["rfi_data"].tolist() == [0, 0, 1, 0, 0]
    labels = failure_labels(table)
    assert labels["bs_failure"].tolist() == ["large", "optimal", "small", "optimal", "optimal"]
    assert labels["width_vs_batch"].tolist() == ["batch", "optimal", "width", "optimal", "optimal"]
    assert labels["data_vs_batch"].tolist() == ["batch", "optimal", "batch", "optimal", "optimal"]
    assert list(table.columns) == ["bs", "width", "data", "test_acc"]


def test_small_means_that_smaller_batches_help(published_data):
    table = failure_labels(pd.read_csv(published_data / "basic.csv")[["bs", "width", "data", "test_acc"]])
    assert "small" not in set(table.loc[table["bs"] == table["bs"].min(), "bs_failure"])
    assert "large" not in set(table.loc[table["bs"] == table["bs"].max(), "bs_failure"])


def test_ties_are_optimal():
    table = sweep((16, 4, 1, 70.0), (32, 4, 1, 60.0), (64, 4, 1, 70.0), (32, 8, 1, 70.0), (32, 4, 2, 70.0))
    tied = failure_labels(table).iloc[1]
    assert (tied["bs_failure"], tied["width_vs_batch"], tied["data_vs_batch"]) == ("optimal",) * 3


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_broken_row_gets_no_label_and_harms_nobody(broken):
    table = sweep((16, 4, 1, 60.0), (32, 4, 1, broken), (64, 4, 1, 65.0))
    whole = failure_labels(table.drop(index=1))
    labelled = failure_labels(table)
    assert labelled.loc[1, [*RFI_COLUMNS, *LABEL_COLUMNS]].isna().all()
    pd.testing.assert_frame_equal(labelled.drop(index=1)[list(RFI_COLUMNS)], whole[list(RFI_COLUMNS)])
    assert labelled.drop(index=1)["bs_failure"].tolist() == ["large", "optimal"]


def test_a_row_without_its_axis_gets_no_label():
    labelled = failure_labels(sweep((16, 4, 1, 60.0), (np.nan, 4, 1, 90.0), (64, 4, 1, 65.0)))
    assert labelled["rfi_dec_temp"].tolist()[::2] == [5.0, 0.0]
    assert labelled.loc[1, [*RFI_COLUMNS, *LABEL_COLUMNS]].isna().all()


def test_incomplete_grids_compare_the_rows_that_exist():
    published = pd.DataFrame(
        [(b, w, d, 50 + 7 * ((3 * b + 5 * w + 2 * d) % 11)) for b in range(4) for w in range(3) for d in range(3)],
        columns=["bs", "width", "data", "test_acc"],
    )
    table = published.sample(frac=0.6, random_state=1)
    rooms = room_for_improvement(table)
    for index, row in table.iterrows():
        cell = table[(table["width"] == row["width"]) & (table["data"] == row["data"])]
        assert rooms.loc[index, "rfi_inc_temp"] == cell[cell["bs"] <= row["bs"]]["test_acc"].max() - row["test_acc"]
        assert rooms.loc[index, "rfi_dec_temp"] == cell[cell["bs"] >= row["bs"]]["test_acc"].max() - row["test_acc"]


def test_axes_can_be_renamed_and_kept_apart():
    table = sweep((16, 4, 1, 60.0), (32, 4, 1, 70.0))
    both = pd.concat([table.assign(noise=0.0), table.assign(noise=0.1, test_acc=[50.0, 40.0])], ignore_index=True)
    renamed = both.rename(columns={"bs": "B", "width": "W", "data": "D", "test_acc": "A"})
    rooms = room_for_improvement(renamed, batch="B", width="W", data="D", accuracy="A", within=["noise"])
    assert rooms["rfi_dec_temp"].tolist() == [10, 0, 0, 0]
    assert rooms["rfi_inc_temp"].tolist() == [0, 0, 0, 10]
    with pytest.raises(InputError, match=r"4 rows share their configuration.*bs=16.*within="):
        room_for_improvement(both)


def test_an_empty_table_stays_empty():
    labelled = failure_labels(sweep())
    assert len(labelled) == 0
    assert set(RFI_COLUMNS + LABEL_COLUMNS) <= set(labelled.columns)


def test_the_index_may_repeat():
    table = sweep((16, 4, 1, 60.0), (32, 4, 1, 70.0))
    table.index = [7, 7]
    assert failure_labels(table)["rfi_dec_temp"].tolist() == [10, 0]


def test_bad_sweeps_are_refused():
    table = sweep((16, 4, 1, 60.0))
    with pytest.raises(InputError, match=r"no column data; it has bs, width, test_acc\. Name the axes"):
        failure_labels(table.drop(columns="data"))
    with pytest.raises(InputError, match=r"Column width must hold numbers"):
        failure_labels(table.assign(width="w4"))
    with pytest.raises(InputError, match=r"must be a pandas DataFrame, got list"):
        failure_labels([1, 2])  # pyright: ignore[reportArgumentType]


def test_a_hundred_thousand_rows_are_quick():
    axes = np.array(np.meshgrid(range(100), range(100), range(10))).reshape(3, -1)
    table = pd.DataFrame(axes.T, columns=["bs", "width", "data"])
    table["test_acc"] = np.random.default_rng(0).random(len(table))
    start = time.perf_counter()
    failure_labels(table)
    assert time.perf_counter() - start < 2


# --- other axes


def test_hotter_may_be_the_larger_end():
    table = sweep((16, 4, 1, 60.0), (32, 4, 1, 70.0), (64, 4, 1, 65.0))
    by_rate = table.assign(learning_rate=1 / table["bs"]).drop(columns="bs")
    labelled = failure_labels(by_rate, batch="learning_rate", hotter="larger")
    pd.testing.assert_frame_equal(
        labelled[[*RFI_COLUMNS, *LABEL_COLUMNS]], failure_labels(table)[[*RFI_COLUMNS, *LABEL_COLUMNS]]
    )
    assert step_gains(by_rate, "large", axes=Axes(batch="learning_rate", hotter="larger"))["one"].tolist() == [10, 0, 0]
    assert step_gains(table, "large")["one"].tolist() == [10, 0, 0]


def test_axes_may_be_missing_or_renamed():
    table = sweep((16, 4, 1, 60.0), (32, 4, 1, 70.0)).rename(columns={"width": "depth"}).drop(columns="data")
    labelled = failure_labels(table, width="depth", data=None)
    assert labelled["bs_failure"].tolist() == ["large", "optimal"]
    assert labelled["width_vs_batch"].tolist() == ["batch", "optimal"]
    assert labelled["data_vs_batch"].isna().all()
    with pytest.raises(InputError, match="no column for direction 'data'"):
        step_gains(table, "data", axes=Axes(width="depth", data=None))
    alone = failure_labels(table[["bs", "test_acc"]], width=None, data=None)
    assert alone["bs_failure"].tolist() == ["large", "optimal"]
    assert step_gains(table, "large", axes=Axes(width=None, data=None))["best"].tolist() == [10, 0]


def test_rows_without_accuracy_gain_nothing_that_is_known():
    table = sweep((16, 4, 1, 60.0), (32, 4, 1, np.nan), (64, 4, 1, 65.0))
    gains = step_gains(table, "large")
    assert gains.loc[1].isna().all()
    assert gains.loc[[0, 2], "best"].tolist() == [5, 0]


def test_gains_stay_within_their_group():
    both = pd.concat([sweep((16, 4, 1, 60.0)).assign(zoo="a"), sweep((32, 4, 1, 90.0)).assign(zoo="b")])
    assert (step_gains(both, "large", axes=Axes(within=("zoo",))) == 0).all(axis=None)


def test_impossible_axes_are_refused():
    with pytest.raises(InputError, match="hotter must be 'smaller' or 'larger', got 'up'"):
        Axes(hotter="up")
    with pytest.raises(InputError, match="The axes must be different columns, got batch='bs', width='bs'"):
        Axes(width="bs")
    with pytest.raises(InputError, match="The axes must be different columns"):
        Axes(None, None, None)
    with pytest.raises(InputError, match=r"no column weight_decay; it has"):
        failure_labels(sweep((16, 4, 1, 60.0)), within="weight_decay")
