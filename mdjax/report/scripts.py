"""The scripts and styles that a page carries, and its data as JSON that no browser takes for markup.

Libraries lie in `static/vendored` with their licences; `versions.json` says which, from where, and their checksums.
A page names the digest of every script that it holds in its content security policy, so that no other one can run.
"""

import base64
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from markupsafe import Markup

_STATIC = Path(__file__).with_name("static")
VENDORED = _STATIC / "vendored"
_LIBRARIES = ("d3.min.js", "plot.umd.min.js", "tabulator.min.js")
_OWN = ("data", "tip", "explorer", "table", "trees", "figures", "page", "main")

STILL = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The content security policy of a page without scripts."""

_ESCAPED = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


@functools.cache
def scripts() -> tuple[Markup, ...]:
    """The page's scripts in the order in which they run."""
    notices = [
        f"{entry['package']} {entry['version']}, {entry['licence']}; licence: see {entry['source']}"
        for entry in json.loads((VENDORED / "versions.json").read_text(encoding="utf-8"))
    ]
    texts = [(VENDORED / name).read_text(encoding="utf-8") for name in _LIBRARIES]
    own = "\n".join((_STATIC / "explorer" / f"{name}.js").read_text(encoding="utf-8") for name in _OWN)
    own = f'(() => {{\n"use strict";\n{own}\n}})();\n'
    licences = "\n".join(path.read_text(encoding="utf-8") for path in sorted(VENDORED.glob("LICENSE-*.txt")))
    head = "/*\n{}\n\n{}\n*/\n".format("\n".join(notices), licences.replace("*/", "* /"))
    return tuple(Markup(text) for text in (head + texts[0], *texts[1:], own))


@functools.cache
def styles() -> Markup:
    """The page's styles: the table's, and its own."""
    table = (VENDORED / "tabulator_simple.min.css").read_text(encoding="utf-8")
    own = ((_STATIC / name).read_text(encoding="utf-8") for name in ("report.css", "explorer.css"))
    return Markup("\n".join([table, *own]))


def policy() -> str:
    """The content security policy: nothing is fetched, and no scripts run but these."""
    digests = " ".join(f"'sha256-{_digest(text)}'" for text in scripts())
    return f"{STILL}; script-src {digests}"


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def json_text(data: Any) -> Markup:
    """Plain values as JSON for a script element: in ASCII, and without a sign that could end it."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), sort_keys=False)
    return Markup(text.translate(_ESCAPED))
