"""README and the pages under docs/ as blocks of code, and how a page is run.

A fence of ```python is run, its blocks one after another in one namespace a page; one of ```sh is a list of commands
of mdjax, which are run in this process. A fence with title="NAME" is a file that the page asks its reader to write.
Commands in fences without a language, and in code spans, are read by the parser of the command line alone: they name
files, machines and buckets that are not here. `NOT_OURS` are the other programs that pages tell people to run.
"""

import dataclasses
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import converters.cli
import mdjax.cli

ROOT = Path(__file__).resolve().parents[1]
NOT_OURS = frozenset(["aws", "cd", "export", "gcloud", "git", "make", "pip", "pre-commit", "ray", "sbatch", "srun"])
_FENCE = re.compile(r"^```([\w-]*)([^\n]*)\n(.*?)^```$", re.S | re.M)
_TITLE = re.compile(r'title="([^"]+)"')


@dataclasses.dataclass(frozen=True)
class Block:
    """A fence: its language ("" where it has none), the file that it is, its text and its first line's number."""

    language: str
    title: str
    text: str
    line: int


def pages() -> list[str]:
    """README and every page, by their paths from the repository's root."""
    return ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    text = text_of(page)
    found = []
    for fence in _FENCE.finditer(text):
        title = _TITLE.search(fence[2])
        found.append(Block(fence[1], title[1] if title else "", fence[3], text.count("\n", 0, fence.start()) + 2))
    return found


def python_blocks(page: str) -> list[str]:
    """The text of the page's Python, without the files that it has its reader write."""
    return [block.text for block in blocks(page) if block.language == "python" and not block.title]


def written_file(page: str, title: str) -> str:
    """The text of a file that the page has its reader write."""
    return next(block.text for block in blocks(page) if block.title == title)


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command line of a block, without comments; lines that end in a backslash go on."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def without_fences(text: str) -> str:
    return _FENCE.sub("", text)


def prose_commands(page: str) -> Iterator[list[str]]:
    """The words of commands of mdjax in code spans, which may be parts of a whole one."""
    for span in re.findall(r"`(mdjax(?:-convert)?(?: [^`]*)?)`", without_fences(text_of(page))):
        yield shlex.split(span, comments=True)


def notebook_blocks(path: Path) -> list[Block]:
    """The code cells of a notebook as blocks: commands come after a line %%sh, files after %%writefile."""
    found = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text, language, title = "".join(cell["source"]) + "\n", "python", ""
        if cell["cell_type"] != "code":
            continue
        if text.startswith("%%sh\n"):
            text, language = text.removeprefix("%%sh\n"), "sh"
        elif text.startswith("%%writefile "):
            first, _, text = text.partition("\n")
            title = first.removeprefix("%%writefile ")
        found.append(Block(language, title, text, 1))
    return found


def run_command(words: list[str]) -> None:
    """One command of mdjax in this process; SystemExit where it fails."""
    mains: Mapping[str, Callable[[list[str]], None]] = {"mdjax": mdjax.cli.main, "mdjax-convert": converters.cli.main}
    try:
        mains[words[0]](words[1:])
    except SystemExit as end:
        if end.code:
            raise


def run_blocks(
    parts: Sequence[Block], page: str, folder: Path, scope: dict[str, Any], smaller: Mapping[str, str]
) -> None:
    """Everything of a page that is run, in `folder`, which is the working folder.

    scope: names that the page takes for granted.
    smaller: text of the page → what stands in its place, to take less time; each has to be there.
    """
    missing = [old for old in smaller if not any(old in block.text for block in parts)]
    assert not missing, f"{page} has no {missing}"
    for block in parts:
        text = block.text
        for old, new in smaller.items():
            text = text.replace(old, new)
        if block.title:
            (folder / block.title).write_text(text, encoding="utf-8")
        elif block.language == "sh":
            for words in commands(text):
                run_command(words)
        elif block.language == "python":
            # Lines keep their numbers in the page.
            exec(compile("\n" * (block.line - 1) + text, page, "exec"), scope)
