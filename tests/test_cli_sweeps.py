"""The commands on a table that is a sweep of its own: grow, and what diagnose and report say beside the verdicts."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from diagnosis_tables import sweep

from mdjax.cli import main
from mdjax.diagnosis.labels import LABEL_COLUMNS, RFI_COLUMNS
from mdjax.diagnosis.trees import load_trees


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A sweep over learning rate, depth and data as a file, beside which the commands run."""
    monkeypatch.chdir(tmp_path)
    rows = sweep().drop(columns=[*RFI_COLUMNS, *LABEL_COLUMNS]).assign(learning_rate=lambda rows: 1 / rows["bs"])
    rows = rows.assign(depth=rows["width"] // 8, data_share=rows["data"] / 10, weight_decay=0.0)
    rows.drop(columns=["bs", "width", "data"]).to_csv("sweep.csv", index=False)
    return rows


def test_grow_and_diagnose_by_what_was_grown(table, capsys):
    main(["grow", "sweep.csv", "--out", "trees.json"])
    text = capsys.readouterr().out
    assert "temperature by learning_rate (larger is hotter), size by depth, data by data_share." in text
    for question in ("optimizer", "width", "data"):
        assert f"\n{question}: Is the" in text
    assert len(re.findall(r"leaving out one depth of 4 at a time: [\d.]+ % balanced accuracy", text)) == 3
    assert text.rstrip().endswith("trees.json")
    assert set(load_trees("trees.json")) == {"optimizer", "width", "data"}
    main(["diagnose", "sweep.csv", "--tree", "trees.json"])
    assert "Trees were grown on this very sweep" in capsys.readouterr().out


def test_grow_takes_axes_questions_and_a_method(table, capsys):
    axes = "batch=learning_rate,hotter=smaller,width=none,within=depth"
    main(["grow", "sweep.csv", "--out", "t.json", "--axes", axes, "--questions", "optimizer", "--method", "published"])
    text = capsys.readouterr().out
    assert "temperature by learning_rate (smaller is hotter), data by data_share; compared where depth agree." in text
    (tree,) = load_trees("t.json").values()
    assert (tree.question, tree.method) == ("optimizer", "published")
    assert tree.provenance_["axes"]["within"] == ["depth"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep.csv", "--axes", "width"], "Cannot read the axes 'width' at 'width'"),
        (["sweep.csv", "--axes", "width=height"], "has no column height, named as an axis"),
        (["sweep.csv", "--questions", "widht"], "There is no question 'widht'"),
        (["sweep.csv", "--method", "best"], "There is no method 'best'"),
        (["one.csv"], "The table is no sweep: .* each has one value .*--axes width=COLUMN"),
        (["bare.csv"], "neither test_acc nor test_error.*--metrics losses"),
        (["none.csv"], "none.csv is no table"),
    ],
)
def test_what_cannot_be_grown_is_told_in_one_sentence(table, arguments, message, capsys):
    rows = pd.read_csv("sweep.csv")
    pd.concat([rows.iloc[:1]] * 2).to_csv("one.csv", index=False)
    rows.drop(columns="test_acc").to_csv("bare.csv", index=False)
    with pytest.raises(SystemExit) as stop:
        main(["grow", *arguments, "--out", "trees.json"])
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and len(error.splitlines()) == 1
    assert re.search(message, error), error


def test_diagnose_tells_agreement_and_writes_the_sweep(table, capsys):
    main(["diagnose", "sweep.csv", "--out", "verdicts.csv"])
    text = capsys.readouterr().out
    assert "How often the answers agree with what the table's own sweep shows:" in text
    assert len(re.findall(r"% balanced accuracy, \d+ of \d+ right; always '", text)) == 3
    written = pd.read_csv("verdicts.csv")
    expected = sweep()
    for name, label in zip(("optimizer", "width", "data"), LABEL_COLUMNS, strict=True):
        assert written[f"sweep_{name}"].tolist() == expected[label].tolist()
    gains = written[["gain_inc_temp", "gain_dec_temp", "gain_width", "gain_data"]]
    np.testing.assert_allclose(gains, expected[list(RFI_COLUMNS)], atol=1e-9)


def test_one_configuration_is_held_against_the_sweep(table, capsys):
    main(["diagnose", "sweep.csv", "--out", "verdicts.csv"])
    written = pd.read_csv("verdicts.csv")
    said = []
    for name in written["configuration"]:
        capsys.readouterr()
        main(["diagnose", "sweep.csv", "--configuration", name])
        said.append(capsys.readouterr().out)
        assert "What the sweep itself shows, points of test accuracy gained at best by: more depth " in said[-1]
        if len(said) == 12:
            break
    assert any("Verdict and sweep disagree: " in text for text in said)


def test_the_report_shows_the_sweep(table):
    main(["report", "sweep.csv", "--configuration", "c0", "--out", "report.html"])
    page = " ".join(re.sub(r"<[^>]+>", " ", Path("report.html").read_text(encoding="utf-8")).split())
    assert "How often the answers agree with what the sweep itself shows" in page
    assert "What the sweep itself shows, points of test accuracy gained at best by: more depth" in page
    main(["diagnose", "sweep.csv", "--out", "verdicts.csv"])
    verdicts, labels = pd.read_csv("verdicts.csv"), sweep()["bs_failure"]
    asked = labels.isin(["small", "large"])
    right = 100 * (verdicts["optimizer_answer"] == labels)[asked].mean()
    assert f"too low or too high? {asked.sum()} {right:.1f} " in page


def test_a_table_without_a_sweep_is_told_nothing_of_it(table, capsys):
    pd.read_csv("sweep.csv").drop(columns="test_acc").to_csv("bare.csv", index=False)
    main(["diagnose", "bare.csv"])
    main(["report", "bare.csv"])
    assert "sweep" not in capsys.readouterr().out.replace("In the sweep that the tree was grown on", "")
    assert "agree with what the sweep" not in Path("report.html").read_text(encoding="utf-8")
