"""README and the pages of the documentation: their code runs, their commands are taken, their links lead somewhere."""

import json
import re
import sys
import tomllib
from pathlib import Path

import documents
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import yaml
from documents import NOT_OURS, ROOT, blocks, commands, notebook_blocks, pages, prose_commands, run_blocks, text_of

from converters.cli import _parser as convert_parser
from mdjax import cli
from mdjax.calibration import targets
from mdjax.metrics import METRICS, select
from mdjax.models.families import FAMILIES
from mdjax.own_code import run_file
from mdjax.report.plots import Plots

matplotlib.use("Agg")

SMALLER = {
    "docs/start.md": {"epochs = 10": "epochs = 2", "width = [4, 16]": "width = [4]"},
    "docs/guides/transformers.md": {"range(2)": "range(1)"},
    "docs/guides/calibrate.md": {"calibrate(8,": "calibrate(4,"},
}
"""Page → what takes less time in place of what its readers are told."""

TESTED_ELSEWHERE = {
    "docs/metrics.md": "tests/metrics/test_registry.py",
    "docs/diagnosis.md": "tests/diagnosis/test_protocols.py",
}
"""Pages whose code takes for granted what another test has made."""

NOTEBOOKS = {f"docs/guides/{path.stem}.md": path for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))}

RUN = [
    page
    for page in pages()
    if page not in TESTED_ELSEWHERE and any(block.language in ("python", "sh") for block in blocks(page))
]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    """Of a page that is a notebook as well the notebook's cells, which are the page's blocks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(targets, "_SHARES", 2)  # each amount of data is another program
    np.random.seed(0)  # noqa: NPY002  # the examples' own generator
    parts = notebook_blocks(NOTEBOOKS[page]) if page in NOTEBOOKS else blocks(page)
    scope = {"__name__": "page"}
    families = dict(FAMILIES)
    try:
        run_blocks(parts, page, tmp_path, scope, SMALLER.get(page, {}))
    finally:
        FAMILIES.clear()
        FAMILIES.update(families)
    if "table" in scope:
        assert (scope["table"].models["status"] == "ok").all()
    plt.close("all")
    for block in parts:
        sys.modules.pop(Path(block.title).stem, None)


def test_pages_that_run_elsewhere_do():
    for page, test in TESTED_ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", NOTEBOOKS)
def test_a_notebook_has_the_code_of_its_page(page):
    assert [block.text for block in notebook_blocks(NOTEBOOKS[page])] == [
        block.text for block in blocks(page) if block.title or block.language in ("python", "sh")
    ]
    assert Path(NOTEBOOKS[page]).name in text_of(page)
    told = json.loads(NOTEBOOKS[page].read_text(encoding="utf-8"))
    assert not [cell for cell in told["cells"] if any(one["output_type"] == "error" for one in cell.get("outputs", ()))]


def taken(words):
    """The options of a command line, as the command reads them."""
    if words[0] == "mdjax-convert":
        return convert_parser().parse_args(words[1:])
    return cli._parser().parse_args(words[1:])


@pytest.mark.parametrize("page", pages())
def test_the_commands_of_a_page_are_taken(page):
    for block in blocks(page):
        if block.language not in ("", "sh", "bash") or block.title:
            continue
        for words in commands(block.text):
            starts = [place for place, word in enumerate(words) if word in ("mdjax", "mdjax-convert")]
            if words[0] == "pip" or not starts:
                assert words[0] in NOT_OURS, f"{page}: {words}"
                continue
            options = taken(words[starts[0] :])
            if hasattr(options, "metrics") and ".py:" not in (options.metrics or ""):
                assert getattr(options, "plan", False) or options.out is not None
                select(options.preset, options.metrics, options.set)


@pytest.mark.parametrize("page", pages())
def test_the_options_that_prose_names_are_there(page):
    for words in prose_commands(page):
        parser = convert_parser() if words[0] == "mdjax-convert" else cli._parser()
        known = set(parser._option_string_actions)
        if words[0] == "mdjax" and len(words) > 1 and not words[1].startswith("-"):
            (subparsers,) = (action for action in parser._actions if action.choices and action.dest == "==SUPPRESS==")
            known = set(subparsers.choices[words[1]]._option_string_actions)
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, f"{page}: {words}"


def test_other_languages_are_well_formed():
    readers = {"toml": tomllib.loads, "yaml": lambda text: list(yaml.safe_load_all(text)), "json": json.loads}
    told = {block.language for page in pages() for block in blocks(page)}
    assert told <= {"", "python", "sh", "bash", "text", *readers}
    for page in pages():
        for block in blocks(page):
            readers.get(block.language, str)(block.text)


def slugs(text):
    """The anchors of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", documents.without_fences(text), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*pages(), "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]*)\)", documents.without_fences(text_of(page))):
        if target.startswith(("http:", "https:")):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.is_file(), f"{page}: {target}"
        if anchor:
            text = path.read_text(encoding="utf-8")
            included = re.fullmatch(r'--8<-- "(.*)"\s*', text)
            assert anchor in slugs(text_of(included[1]) if included else text), f"{page}: {target}"


def test_every_metric_and_command_has_its_page():
    for name in METRICS:
        text = text_of(f"docs/metrics/{name}.md")
        assert f"<!-- settings: {name} -->" in text or not METRICS[name].of_preset("default").__dataclass_fields__
        assert all(f"## {title}" in text for title in ("Definition", "Columns", "Settings", "Cost", "Source"))
    (commands,) = (
        action.choices for action in cli._parser()._actions if action.dest == "==SUPPRESS==" and action.choices
    )
    told = re.findall(r"<!-- command: (\S+) -->", text_of("docs/commands.md"))
    assert set(told) == {*commands, "convert"}


def test_the_gallery_shows_every_picture_of_a_table():
    gallery = run_file(str(ROOT / "docs" / "gallery.py"), "the gallery")
    pictures = {**gallery.PICTURES, **gallery.OF_MANY}
    assert set(pictures) == {name for name in vars(Plots) if not name.startswith("_")}
    told = text_of("docs/gallery.md")
    for name in pictures:
        assert f"(gallery/{name}.png)" in told and f"table.plot.{name}()" in "".join(map(text_of, pages()))


def test_readme_is_short_and_its_pictures_are_there():
    text = text_of("README.md")
    assert len(text.splitlines()) <= 200
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert pictures and all((ROOT / picture).is_file() for picture in pictures)
