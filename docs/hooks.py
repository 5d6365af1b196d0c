"""What the site takes from the code itself, so that it cannot go stale: settings, columns, commands. And formulas.

A page writes `<!-- settings: hessian -->`, `<!-- columns: hessian -->`, `<!-- command: measure -->`, or, for the public
names of a package, `<!-- api: mdjax.diagnosis -->`, on a line of its own, and formulas as `$…$`, which become MathML. A
page needs nothing from elsewhere: that is checked of each.
"""

import contextlib
import dataclasses
import functools
import importlib
import io
import os
import re
from collections.abc import Iterator
from html import unescape
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

# The numerics are only asked what they can be set to.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["COLUMNS"] = "100"

_MARK = re.compile(r"^<!-- (settings|columns|command|api): ([\w.-]+) -->$", re.M)
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)
_FOREIGN = re.compile(
    r'<(?:script|img|iframe|source)\b[^>]*\bsrc="(?:https?:)?//|<link\b(?![^>]*canonical)[^>]*\bhref="(?:https?:)?//'
)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The marks of a page, replaced by what the code says."""
    kinds = {"settings": settings_table, "columns": columns_table, "command": command_help, "api": public_names}
    return _MARK.sub(lambda mark: kinds[mark[1]](mark[2]), markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Formulas as MathML, which browsers draw by themselves."""
    display = {"span": "inline", "div": "block"}
    return _FORMULA.sub(lambda found: convert(unescape(found[2]), display=display[found[1]]), html)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse a page that would load something from elsewhere."""
    foreign = _FOREIGN.search(output)
    if foreign is not None:
        raise PluginError(f"{page.file.src_uri} loads something from elsewhere: {foreign[0]}. Put it beside the page.")
    return output


def settings_table(name: str) -> str:
    """What a metric can be set to, one row a setting: its default, and what the preset 'fast' takes instead."""
    from mdjax.metrics import METRICS

    metric = METRICS[name]
    usual, fast = (dict(_settings(metric.of_preset(preset))) for preset in ("default", "fast"))
    rows = [
        f"| `{name}.{path}` | `{value}` | {'' if fast[path] == value else f'`{fast[path]}`'} |"
        for path, value in usual.items()
    ]
    return "\n".join(["| setting | default | `fast` |", "|---|---|---|", *rows])


def _settings(settings: Any, above: str = "") -> Iterator[tuple[str, str]]:
    for field in dataclasses.fields(settings):
        value, path = getattr(settings, field.name), above + field.name
        if dataclasses.is_dataclass(value):
            yield from _settings(value, f"{path}.")
        elif callable(value):
            yield path, value.__name__
        else:
            yield path, str(value).lower() if isinstance(value, bool) else str(value)


def columns_table(name: str) -> str:
    """The features that a configuration gets from a metric."""
    from mdjax.metrics import METRICS

    rows = [f"| `{feature.name}` | {feature.title} | {feature.unit} |" for feature in METRICS[name].features]
    return "\n".join(["| column of `configurations` | what it is | unit |", "|---|---|---|", *rows])


@functools.cache
def command_help(name: str) -> str:
    """What a command says of itself."""
    from converters.cli import main as convert_main
    from mdjax.cli import main

    run = (
        functools.partial(convert_main, ["--help"]) if name == "convert" else functools.partial(main, [name, "--help"])
    )
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        run()
    return f"```text\n{told.getvalue().strip()}\n```"


def public_names(package: str) -> str:
    """The reference of everything that a package calls public."""
    names = [name for name in importlib.import_module(package).__all__ if not name.startswith("_")]
    return "\n\n".join(f"::: {package}.{name}" for name in names)
