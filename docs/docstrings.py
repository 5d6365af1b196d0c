"""Docstrings as Markdown: lines "name: what it is" become a list, cost and source paragraphs of their own."""

import re
from typing import Any

import griffe

_ENTRY = re.compile(r"^( *)([*]{0,2}[a-z]\w*(?:, [*]{0,2}[a-z]\w*)*): (.*)$")
_TOPIC = re.compile(r"(?<!\n)\n(?=(?:Cost|Source|Columns|Raises|Inputs):? )")


class Lists(griffe.Extension):
    """Rewrites each docstring when its object has been read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """A docstring with its lists of arguments as lists."""
    # Outside code "x[i][j]" would be a link.
    parts = [part if number % 2 else part.replace("][", "]\\[") for number, part in enumerate(text.split("`"))]
    return "\n\n".join(_listed(paragraph) for paragraph in _TOPIC.sub("\n\n", "`".join(parts)).split("\n\n"))


def _listed(paragraph: str) -> str:
    lines = paragraph.strip("\n").split("\n")
    first = _ENTRY.match(lines[0])
    if first is None:
        return paragraph
    indent, made = first[1], []
    for line in lines:
        entry = _ENTRY.match(line)
        if entry is not None and entry[1] == indent:
            names = ", ".join(f"`{name}`" for name in entry[2].split(", "))
            made.append(f"- {names}: {entry[3]}")
        elif line.startswith(f"{indent}    "):
            made.append(f"  {line.strip()}")
        else:
            return paragraph
    return "\n".join(made)
