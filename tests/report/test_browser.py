"""The report in a real browser: hover, selection, table, pages of configurations, dark and light, narrow and wide.

One browser and one page for all: what a test changes it changes back. Without a browser the module is left out.
"""

import csv
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from report_tables import HOSTILE, sweep

from mdjax.diagnosis.verdicts import Diagnosis
from mdjax.report.page import write_report
from mdjax.table import Table

api = pytest.importorskip("playwright.sync_api", reason="the tests in a browser need playwright")

TIP, ROWS = "#tip", "#rows .tabulator-row"
CELLS = "#map g[aria-label='cell'] rect"


@pytest.fixture(scope="module")
def table() -> Table:
    return sweep()


@pytest.fixture(scope="module")
def file(table, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(path, table, trees="published", highlight="net-5", compare=("those of the package", "shipped"))
    return path


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        names = ("chromium", "chromium-browser", "google-chrome", "chrome")
        found = next(filter(None, map(shutil.which, names)), None) or playwright.chromium.executable_path
        if not Path(found).exists():
            pytest.skip("no Chromium is installed: apt-get install chromium, or playwright install chromium")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def opened(browser, file):
    """The page, 1400 px wide; nothing may be said on its console, and nothing may be fetched."""
    page = browser.new_page(viewport={"width": 1400, "height": 900}, accept_downloads=True)
    page.set_default_timeout(15_000)
    said, fetched = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: fetched.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready]")
    yield page
    assert not said
    assert {url.partition(":")[0] for url in fetched} <= {"file", "data", "blob"}
    assert sum(url.startswith("file") for url in fetched) == 1


def counted(page, number: int) -> None:
    api.expect(page.locator("#counted")).to_contain_text(re.compile(f"^{number} of 32"))


def test_the_page_begins_with_what_to_change(opened, table):
    top = opened.locator("#first .top > li")
    assert top.count() == 3
    assert "points" in top.first.inner_text() and "What to change: " in top.first.inner_text()
    box = opened.locator("#first .top").bounding_box()
    assert box["y"] + box["height"] < 900, "not on the first screen"
    assert "No calibration: " in opened.locator("#first .trust").inner_text()
    assert "The table holds a sweep." in opened.locator("#first .trust").inner_text()


def test_pointing_at_a_cell_tells_its_numbers(opened, table):
    opened.select_option("#controls label:has-text('Colour') select", "train_error")
    cell = opened.locator(CELLS).nth(6)
    cell.hover()
    told = opened.locator(TIP).inner_text()
    name = told.split("\n")[0]
    row = table.configurations.set_index("configuration").loc[name]
    for value in (f"{row['test_error']:.4g}", f"{row['hessian_t']:.4g} ± 0.01", f"{row['train_error']:.4g} ± 0.5"):
        assert value in told.replace("−", "-")
    assert "temperature too low" in told and "model too small" in told
    assert str(row["width"]) in told and str(row["learning_rate"]) in told
    opened.mouse.move(2, 2)
    assert opened.locator(TIP).is_hidden()


def test_axes_are_chosen(opened):
    for name, value in (("Across", "learning_rate"), ("Up", "width")):
        opened.select_option(f"#controls label:has-text('{name}') select", value)
    assert opened.locator(CELLS).count() == 8
    opened.select_option("#controls label:has-text('Panels') select", "batch_size")
    assert opened.locator(CELLS).count() == 32
    opened.select_option("#controls label:has-text('Panels') select", "")
    opened.select_option("#controls label:has-text('Across') select", "hessian_t")  # no cells: points
    assert opened.locator("#map g[aria-label='dot'] circle").count() > 0
    for name, value in (("Across", "width"), ("Up", "batch_size"), ("Colour", "cause")):
        opened.select_option(f"#controls label:has-text('{name}') select", value)


def test_cell_row_and_path_are_selected_together(opened, table):
    opened.locator(CELLS).nth(2).click()
    picked = opened.locator("#picked a").inner_text()
    assert opened.locator(f"{ROWS}.tabulator-selected a").all_inner_texts() == [picked]
    diagnosis = Diagnosis.of(table.configurations, "published")
    row = [*table.configurations["configuration"]].index(picked)
    path = [len(answer.evidence) for answer in diagnosis.verdict(row).answers if answer.label is not None]
    api.expect(opened.locator("#trees path.taken")).to_have_count(sum(path))
    opened.locator(f"{ROWS}:not(.tabulator-selected)").nth(3).click(position={"x": 400, "y": 10})
    name = opened.locator(f"{ROWS}.tabulator-selected a").inner_text()
    assert name != picked and opened.locator("#picked a").inner_text() == name
    opened.locator("#trees figure").first.locator("g[aria-label='rect'] rect").first.click()
    answered = sum(~pd.isna(diagnosis.answers["optimizer"].label) & ~diagnosis.stages.before_trees)
    api.expect(opened.locator("#counted")).to_contain_text(f"{answered} selected")
    opened.click("#clear")
    assert opened.locator(f"{ROWS}.tabulator-selected").count() == 0


def test_the_table_sorts_filters_searches_and_is_saved(opened, table, tmp_path):
    frame = table.configurations
    column = opened.locator("#rows .tabulator-col", has_text="Test error (%)").first
    column.locator(".tabulator-col-title").click()
    first = frame.sort_values("test_error", ascending=False)["configuration"].iloc[0]
    assert opened.locator(f"{ROWS} a").first.inner_text() == first
    column.locator("input").press_sequentially("10..20")
    wanted = frame[frame["test_error"].between(10, 20)]
    counted(opened, len(wanted))
    with opened.expect_download() as waiting:
        opened.click("#save")
    waiting.value.save_as(tmp_path / "saved.csv")
    with (tmp_path / "saved.csv").open(encoding="utf-8-sig", newline="") as lines:
        saved = list(csv.DictReader(lines))
    assert sorted(row["configuration"] for row in saved) == sorted(wanted["configuration"])
    here = wanted.set_index("configuration")
    for row in saved:
        assert float(row["test_error"]) == pytest.approx(here.loc[row["configuration"], "test_error"], rel=1e-6)
        assert float(row["train_error_se"]) == 0.5
    opened.click("#clear")
    opened.fill("#search", "net-1")
    wanted = frame["configuration"].str.contains("net-1")
    counted(opened, wanted.sum())
    opened.click("#clear")


def test_a_configuration_has_a_page_of_its_own(opened, table):
    opened.evaluate("location.hash = '#configuration=net-5'")
    page = opened.locator("#page")
    page.wait_for()
    seen = page.inner_text()
    verdict = Diagnosis.of(table.configurations, "published").verdict(5)
    assert f"What to change: {verdict.recommendation}." in seen and opened.title().startswith("net-5 · ")
    assert opened.locator("#all").is_hidden()
    for step in (step for answer in verdict.answers for step in answer.evidence):
        side = "at or below" if step.at_most else "above"
        error = "" if step.standard_error is None else f" ± {step.standard_error:.2g}"
        text = f"{step.value:.4g}{error} is {side} the threshold {step.threshold:.4g}".replace("-", "−")
        assert text in seen.replace("e−0", "e−")
    for title in (
        "Spectral density of the Hessian",
        "Eigenvalues of the hessian",
        "Curvature by layer",
        "Loss around the network",
        "Error (%) between a and b",
        "CKA between its networks",
    ):
        assert title in seen
    assert "barrier 2" in page.locator("svg", has_text="barrier").first.text_content()
    width = table.configurations.set_index(["width", "batch_size", "learning_rate"])["test_error"]
    own = table.configurations.iloc[5]
    there = width[(32, own["batch_size"], own["learning_rate"])]
    gained = own["test_error"] - there
    assert f"{gained:+.3g}".replace("-", "−") in page.locator(".neighbours").inner_text()
    opened.go_back()
    opened.locator("#all").wait_for()


def test_hostile_names_stay_text(opened):
    opened.evaluate("name => { location.hash = '#configuration=' + encodeURIComponent(name) }", HOSTILE)
    opened.locator("#page").wait_for()
    assert opened.locator("#page h1").inner_text() == HOSTILE
    opened.go_back()
    opened.locator("#all").wait_for()
    assert "taken" not in opened.title() and opened.locator("img[onerror]").count() == 0
    opened.fill("#search", "onerror")
    counted(opened, 1)
    assert opened.locator(f"{ROWS} a").inner_text() == HOSTILE
    opened.click("#clear")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_every_width_and_colour_scheme(opened, width, scheme):
    opened.set_viewport_size({"width": width, "height": 800})
    opened.emulate_media(color_scheme=scheme)
    opened.wait_for_timeout(100)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    for place in ("body", ".tabulator-row", "#first .top > li"):
        red = f"getComputedStyle(document.querySelector('{place}')).backgroundColor.match(/[0-9]+/g).map(Number)[0]"
        assert (opened.evaluate(red) < 60) is (scheme == "dark"), place
    box = opened.locator("#first .top").bounding_box()
    assert box["y"] + box["height"] < 3 * 800, "further than two screens down"
    assert opened.locator(CELLS).count() == 16
    opened.emulate_media(color_scheme="light")
    opened.set_viewport_size({"width": 1400, "height": 900})


def test_without_scripts_every_figure_is_there(browser, file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator("#explore").is_hidden()
    for title in ("Over width and batch size", "The trees", "Verdicts", "Measured of net-5"):
        assert page.locator("h2", has_text=title).is_visible()
    assert page.locator("figure img").count() == page.locator("figure img:visible").count() > 10
    context.close()
