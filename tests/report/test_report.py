"""The report: what the page says, that names cannot break it, and that the drawn trees are the verdicts' trees."""

import html
import itertools
import json
import re
import subprocess
import sys
from base64 import b64encode
from hashlib import sha256
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest

from mdjax.cli import main
from mdjax.columns import Feature, describe
from mdjax.diagnosis.answers import question_answers
from mdjax.diagnosis.quantities import QUANTITIES
from mdjax.diagnosis.trees import load_trees
from mdjax.diagnosis.verdicts import diagnose, explain
from mdjax.errors import InputError
from mdjax.report.comparison import compare_tables
from mdjax.report.figures import feature_of, features
from mdjax.report.headline import count, number
from mdjax.report.page import phase_plot, write_report
from mdjax.report.panels import panel_grid
from mdjax.report.scripts import VENDORED, scripts, styles
from mdjax.report.sections import MAX_ROWS
from mdjax.report.tree_figures import tree_figure

FEW = ("train_error", "mode_connectivity_peak", "hessian_t")


def measured(num_widths: int = 3, num_batches: int = 3, shares=(10.0,), metrics=FEW) -> pd.DataFrame:
    """A table as `mdjax measure` writes it, one row without a curve."""
    rng = np.random.default_rng(0)
    grid = itertools.product(shares, 2 ** np.arange(4, 4 + num_widths), 2 ** np.arange(5, 5 + num_batches))
    table = pd.DataFrame(list(grid), columns=["data", "width", "bs"])
    size = len(table)
    table.insert(0, "configuration", [f"mlp-{k}" for k in range(size)])
    for name in metrics:
        table[name] = rng.random(size)
        table[f"{name}_se"] = 0.01
    table["train_error"] = np.where(rng.random(size) < 0.5, 0.0, 40 * rng.random(size))
    table["mode_connectivity_peak"] = -30 * rng.random(size)
    table["hessian_t"] = 4 + 5 * rng.random(size)
    table["num_models"], table["preset"], table["status"] = 3, "default", "ok"
    table.loc[1, "mode_connectivity_peak"] = np.nan
    table.loc[1, "status"] = "1 of 1 pairs: curve diverged"
    return table


@pytest.fixture
def page(tmp_path):
    """Writes a report and returns the page."""

    def written(table: pd.DataFrame, **options) -> str:
        write_report(tmp_path / "report.html", table, **options)
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    return written


def pictures(text: str) -> list[str]:
    """The embedded SVG files."""
    return [unquote(found) for found in re.findall(r'src="data:image/svg\+xml,([^"]+)"', text)]


def still(text: str) -> str:
    """The page without its styles, scripts and their data."""
    return re.sub(r"<(script|style)\b[^>]*>.*?</\1>", "", text, flags=re.DOTALL)


def words(text: str) -> str:
    """What a reader sees without scripts, without tags."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", still(text))).split())


def test_headline_and_summary(page):
    table = measured(shares=(2.5, 10.0))
    text = words(page(table))
    for told in ("models measured 54", "configurations 18", "preset default", "with a failed measurement 1"):
        assert told in text
    assert "3 widths from 16 to 64, 3 batch sizes from 32 to 128, 2 data shares from 25 to 100 %" in text
    assert "1 of 1 pairs: curve diverged" in text
    for cause, num in diagnose(table)["cause"].value_counts().items():
        assert f"{cause} {num} ({100 * num / len(table):.0f} %)" in text


def test_problems_are_told_by_what_they_are(page):
    table = measured(4, 4, metrics=QUANTITIES)
    table["status"], table["status_code"] = "ok", "ok"
    table["mode_connectivity_peak"] = -3.0
    said = {
        0: ("1 of 3 models: weights are not finite", "weights_not_finite"),
        1: ("3 of 3 models: Group g is damaged", "group_damaged"),
        2: ("1 of 1 pairs: curve diverged", "diverged"),
        3: ("1 of 3 models: hessian failed: TypeError", "failed"),
        4: ("1 of 3 models: hessian_trace is not finite", "not_finite"),
        5: ("2 of 3 pairs: CKA is undefined", "undefined"),
    }
    for row, (status, code) in said.items():
        table.loc[row, ["status", "status_code"]] = status, code
    table.loc[6:9, "hessian_t"] = np.nan
    seen = words(page(table))
    for told in (
        "with a damaged model 2",
        "with a failed measurement 3",
        "not fully measured 5",
        "2 configurations with a damaged model: 1 of 3 models: weights are not finite (1 configuration)",
        "5 configurations not fully measured: missing hessian_t (4 configurations) 2 of 3 pairs: CKA is",
    ):
        assert told in seen
    assert "with a problem" not in seen
    whole = words(page(measured(4, 4, metrics=QUANTITIES).assign(status="ok", mode_connectivity_peak=-3.0)))
    assert not any(kind in whole for kind in ("with a damaged model", "failed measurement", "not fully measured"))


def test_a_table_with_nothing_to_tell_is_refused(page, tmp_path):
    table = measured(metrics=QUANTITIES)
    for kept in (["configuration", "status"], ["configuration", "width", "bs", "num_models", "preset"]):
        with pytest.raises(InputError, match="no feature to report on; it has configuration, .*Measure some first"):
            page(table[kept])
    assert not list(tmp_path.iterdir())


def test_every_metric_is_drawn_with_an_alt_text_and_nothing_is_fetched(page):
    table = measured(metrics=QUANTITIES)
    table.loc[0, ["train_loss", "test_loss"]] = 1e-6, 0.03
    text = page(table)
    for name in QUANTITIES:
        assert f'alt="{feature_of(name).label} over width (16 to 64)' in text
    assert "Known labels: what the sweep itself shows" in text  # a grid with test errors
    assert len(pictures(text)) == 2 + len(QUANTITIES) + 3
    assert not any("$" in picture for picture in pictures(text)), "a formula that nothing sets"
    assert not re.search(r"<link|@import|url\((?!%23)|\son\w+=", still(text))
    assert set(re.findall(r'(?:src|href)="(.{5})', still(text))) == {"data:"}
    own = [f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in scripts()]
    policy = html.unescape(re.findall(r'Content-Security-Policy" content="([^"]*)"', text)[0])
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {' '.join(own)}"
    assert not re.search(r"@import|url\((?!data:|#)", styles())


def test_every_feature_that_a_table_describes_is_drawn(page):
    table = measured()
    table["roughness"], table["train_error_at_night"] = np.geomspace(1e-6, 1, 9), 3.0
    known = len(pictures(page(table)))
    table = describe(
        table,
        [
            Feature("roughness", "Roughness of the loss", "1/m", log_colours=True),
            Feature("hessian_t", "Trace", "ln"),
            Feature("absent", "Absent"),
        ],
    )
    text = page(table)
    assert len(pictures(text)) == known + 1
    assert 'alt="Roughness of the loss (1/m) over width' in text and "<figcaption>Roughness of the loss (1/m)" in text
    assert 'alt="Trace (ln) over width' in text and 'alt="Hessian trace' not in text
    assert list(features(table)) == ["train_error", "hessian_t", "mode_connectivity_peak", "roughness"]


def test_names_are_escaped(page):
    table = measured()
    nasty = '<script>alert("1")</script> $\\frac{1}$ & ]]>'
    table.loc[[0, 2], "configuration"] = nasty
    table["preset"] = table["status"] = nasty
    accuracies = pd.DataFrame({nasty: [nasty]})
    text = page(table, title=nasty + "\udcff", highlight=nasty, source=nasty, accuracies=accuracies)
    assert "<script" not in still(text) and still(text).count("&lt;script&gt;") > 5
    # A script ends at the first end tag, whatever it is in: nothing but the page's own scripts, and their data.
    found = re.findall(r"<script[^>]*>(.*?)</script", text, flags=re.DOTALL | re.IGNORECASE)
    assert found[1:] == [*scripts()] and text.lower().count("<script") - len(found) == text.count("<script>\\n")
    told = json.loads(found[0])
    assert told["names"][0] == nasty and not set("<>&") & set(found[0])


def test_same_input_gives_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_report(tmp_path / f"{name}.html", measured(2, 2), highlight="mlp-3")
        phase_plot(measured(2, 2), tmp_path / f"{name}.png")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.png", "b.html", "b.png"]


@pytest.mark.parametrize("question", ["optimizer", "width", "data"])
def test_tree_figure_lists_thresholds_and_shares(question):
    tree = load_trees()[question]
    texts = [text.get_text().replace("−", "-") for text in tree_figure(tree).axes[0].texts]
    for split in tree.tree_:
        assert sum(f"≤ {split.threshold:.4g}" in text for text in texts) >= 1
    for leaf, counts in zip(tree.leaves_, tree.leaf_counts_):
        own = counts[list(tree.classes_).index(leaf.label)]
        expected = f"[{leaf.label}]\n{100 * own / counts.sum():.0f} % of {counts.sum():,}"
        assert any(expected in text for text in texts)
    assert texts.count("yes") == texts.count("no") == len(tree.tree_)


@pytest.mark.parametrize("row", [0, 1, 4, 8])
def test_highlighted_path_is_the_verdicts(page, row):
    table, trees = measured(), load_trees()
    text = page(table, highlight=f"mlp-{row}")
    verdict = explain(table.iloc[row])
    for answer, picture in zip(verdict.answers, pictures(text)[-3:], strict=True):
        splits = list(question_answers(trees[answer.question], table).speaker(row).tree.tree_)
        taken = [
            (splits[int(i)].feature, splits[int(i)].threshold, way == "yes")
            for i, way in re.findall(r'id="taken-(\d+)-(yes|no)"', picture)
        ]
        assert sorted(taken) == sorted((step.feature, step.threshold, step.at_most) for step in answer.evidence)
    seen = words(text)
    assert f"What to change: {verdict.recommendation}." in seen
    for flag in verdict.flags:
        assert flag in seen
    for step in (step for answer in verdict.answers for step in answer.evidence):
        title = feature_of(step.feature).label
        side = "at or below" if step.at_most else "above"
        value = "not measured" if step.value is None else number(step.value)
        numbers = f"{number(step.standard_error, 2)} {side} {number(step.threshold)} {number(step.distance, 3)}"
        assert f"{title} {value} {numbers}" in seen


def test_no_path_without_an_answer(page):
    table = measured()
    table[["train_error", "hessian_t", "hessian_e", "train_loss", "mode_connectivity_peak"]] = np.nan
    text = page(table, highlight="mlp-3")
    assert "taken-" not in "".join(pictures(text))
    assert "Unknown" in words(text)


def test_one_row_is_explained(page):
    text = page(measured().iloc[[5]])
    assert explain(measured().iloc[5]).recommendation in text
    assert "Nothing to draw" in text


@pytest.mark.parametrize(
    "kept",
    [
        ["train_error"],
        ["configuration", "hessian_t", "width"],
        ["width", "bs", "CKA"],
        ["width", "bs", "train_error", "mode_connectivity_peak"],
    ],
    ids="-".join,
)
def test_missing_columns_are_left_out(page, kept):
    text = page(measured(metrics=QUANTITIES)[kept], highlight="mlp-2" if "configuration" in kept else "row 3")
    drawn = {"width", "bs"} <= set(kept)
    diagnosed = bool({"train_error", "hessian_t"} & set(kept))
    assert len(pictures(text)) == 3 + drawn * (len(set(kept) & set(QUANTITIES)) + diagnosed)
    assert ("No diagnosis" in still(text)) is not diagnosed
    assert "% of the data" not in "".join(pictures(text))
    assert "configurations</dt><dd>9" in text


def test_features_that_are_all_missing_or_infinite(page):
    table = measured(metrics=(*FEW, "CKA", "train_loss"))
    table["hessian_t"], table["CKA"], table["train_loss"] = np.nan, np.inf, 0.0
    text = page(table)
    assert "CKA similarity (0 to 1) over" not in text and "Hessian trace (ln) over" not in text
    assert "Training loss (nats) over" in text
    assert ">nan<" not in text and ">inf<" not in text


def test_labels_are_drawn_where_known(page):
    table = measured()
    table["bs_failure"] = ["small", "large", "optimal"] * 3
    table["width_vs_batch"] = [None, "width", "batch"] * 3
    text = page(table)
    assert "Known labels" in text
    labels = pictures(text)[1]
    assert "temperature too low" in labels and "optimal" in labels and "not measured" in labels


def test_long_tables_are_capped(page, tmp_path):
    table = measured(13, 13)
    text = page(table, source="runs/table")
    assert f"Those with most to gain: {MAX_ROWS} of 169 configurations" in text and "runs/table" in text
    rows = still(text).split("<h2>Verdicts</h2>")[1]
    assert rows.count('<th scope="row">') == MAX_ROWS
    assert (tmp_path / "report.html").stat().st_size < 5e6


def test_accuracies(page):
    table = pd.DataFrame(
        {"MD tree": [87.66, 80.0], "majority class": [51.0, np.nan], "num_rows": [1690, 12]},
        index=pd.Index(["optimizer", "width"], name="question"),
    )
    seen = words(page(measured(), accuracies=table))
    assert "question MD tree majority class num rows optimizer 87.7 51.0 1,690 width 80.0 – 12" in seen


def test_one_slice_of_several_settings_is_drawn(page):
    table = measured()
    noisy = table.iloc[:2].assign(label_noise=0.1)
    grid = panel_grid(pd.concat([noisy, table.assign(label_noise=0.0), table.iloc[:3].assign(label_noise=0.0)]))
    assert grid is not None
    assert sorted(grid.drawn()) == list(range(2, 11))
    assert "label_noise = 0.0" in grid.notes[0] and "3 configurations share" in grid.notes[1]
    shares = panel_grid(measured(shares=range(1, 11)))
    assert shares is not None
    assert [title for title, _ in shares.panels] == [f"{share} % of the data" for share in (10, 50, 100)]


def test_cells_without_a_value_are_blank():
    table = measured(metrics=(*FEW, "CKA"))
    table.loc[0, "CKA"] = np.nan
    grid = panel_grid(table.drop(index=2).reset_index(drop=True))
    assert grid is not None
    cells = grid.cells(table.drop(index=2)["CKA"].to_numpy(), 0)
    assert np.argwhere(np.isnan(cells)).tolist() == [[0, 0], [2, 0]]
    assert cells[1, 0] == table["CKA"][1]


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_phase_plot(tmp_path, ending, start):
    path = tmp_path / "new" / f"phase.{ending}"
    phase_plot(measured(), path, columns=["train_error", "hessian_t"])
    assert path.read_bytes().startswith(start)


def test_refusals(tmp_path):
    table = measured()
    (tmp_path / "file").touch()
    for call in (
        lambda path: write_report(path / "report.html", table.iloc[[0]]),
        lambda path: phase_plot(table, path / "phase.png"),
    ):
        with pytest.raises(InputError, match="Cannot write .* Choose a file in a folder that you may write to"):
            call(tmp_path / "file")
    with pytest.raises(InputError, match="Cannot write"):
        write_report(tmp_path, table.iloc[[0]])
    with pytest.raises(InputError, match="no rows"):
        write_report(tmp_path / "report.html", table.iloc[:0])
    with pytest.raises(InputError, match="must be a pandas DataFrame, got list"):
        write_report(tmp_path / "report.html", [])  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="no configuration 'mlp-99' in the table. Choose one of mlp-0, "):
        write_report(tmp_path / "report.html", table, highlight="mlp-99")
    with pytest.raises(InputError, match="ending must be one of .png"):
        phase_plot(table, tmp_path / "phase.gif")
    with pytest.raises(InputError, match="no column sharpness"):
        phase_plot(table, tmp_path / "phase.png", columns=["hessian_t", "sharpness"])
    with pytest.raises(InputError, match="no grid to draw"):
        phase_plot(table.drop(columns="bs"), tmp_path / "phase.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_keeps_the_page_before(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("before")

    def full(self, data):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_report(path, measured().iloc[[0]])
    assert path.read_text() == "before" and len(list(tmp_path.iterdir())) == 1


def test_numbers():
    assert [number(value) for value in (0.0, -0.0, -1.5, 12345.6, 1 / 3, None, np.nan)] == [
        "0", "0", "−1.5", "12,346", "0.3333", "–", "–",
    ]  # fmt: skip
    assert (count(1, "leaf", "leaves"), count(1690, "row")) == ("1 leaf", "1,690 rows")


def test_reports_load_neither_jax_nor_pyplot():
    code = "import sys, mdjax.report; sys.exit(bool({'jax', 'matplotlib.pyplot'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_published_table(page, published_data):
    text = page(pd.read_csv(published_data / "basic.csv"), highlight="row 700")
    assert "configurations</dt><dd>1,690" in text and "not recorded" in text
    assert "Those with most to gain: 50 of 1,690 configurations" in text
    assert "3 of 10 data shares are drawn" in text


def test_vendored_files_are_those_of_their_checksums():
    told = json.loads((VENDORED / "versions.json").read_text())
    files = {name: digest for entry in told for name, digest in entry["sha256"].items()}
    found = {path.name: sha256(path.read_bytes()).hexdigest() for path in VENDORED.glob("*.min.*")}
    assert found == files
    for entry in told:
        licence = (VENDORED / f"LICENSE-{entry['package'].split('/')[-1]}.txt").read_text()
        assert entry["licence"] in ("MIT", "ISC") and "Permission" in licence and entry["version"] in entry["source"]
    assert all("\r" not in script and "</script" not in script.lower() and "<!--" not in script for script in scripts())


def test_two_tables_are_compared_by_name_or_settings(page):
    table = measured(2, 2)
    other = table.iloc[[2, 0, 1]].assign(train_error=1.0, hessian_t=5.0)
    seen = words(page(table, compare=("another", other)))
    assert "Against another 3 configurations of 4 have one of the same name in another." in seen
    theirs, own = (
        diagnose(other).set_index("configuration")["cause"],
        diagnose(table).set_index("configuration")["cause"],
    )
    same = sum(theirs[name] == own[name] for name in theirs.index)
    assert f"The verdicts are the same for {same} of 3 configurations." in seen
    compared = compare_tables(table, None, other.assign(configuration=list("abc")), None, "another")
    assert compared.rows.tolist() == [1, 2, 0, -1] and "settings (width, bs)" in compared.lines[0]
    assert compared.differences["train_error"][:3].tolist() == (table["train_error"][:3] - 1).tolist()
    with pytest.raises(InputError, match="No configuration of the table is found in another"):
        page(table, compare=("another", other.assign(configuration=list("abc"), width=1)))
    shipped = words(page(table, trees="published", compare=("those of the package", "shipped")))
    assert "Against those of the package The verdicts are the same for" in shipped


def test_a_folder_of_reports_has_an_index(tmp_path, capsys):
    for name in ("a", "b"):
        measured(2, 2, metrics=("train_error", "hessian_t")).to_csv(tmp_path / f"{name}.csv", index=False)
    main(["report", str(tmp_path / "a.csv"), str(tmp_path / "b.csv"), "--out", str(tmp_path / "reports")])
    assert sorted(path.name for path in (tmp_path / "reports").iterdir()) == ["a.html", "b.html", "index.html"]
    index = (tmp_path / "reports" / "index.html").read_text()
    assert 'href="a.html"' in index and 'href="b.html"' in index and "<script" not in index
    for arguments, message in (
        (["b.csv", "--configuration", "mlp-1"], "--configuration is for a report on one table"),
        (["b.csv", "--out", "one.html"], "one.html is one page, and 2 tables are given"),
        (["a.csv"], "a.csv is given twice. Give each table once"),
    ):
        with pytest.raises(SystemExit):
            main(["report", str(tmp_path / "a.csv"), str(tmp_path / arguments[0]), *arguments[1:]])
        assert message in capsys.readouterr().err
