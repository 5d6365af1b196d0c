"""'make notebooks': the guides that are notebooks as well, run, with what they print and draw.

    python docs/notebooks.py [NAME ...]

A page's blocks become cells: its Python as it is, its commands behind %%sh, its files behind %%writefile, its prose as
Markdown.
tests/test_documents.py holds cells and pages equal, and runs them.
"""

import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

DOCS = Path(__file__).resolve().parent
PAGES = ("guides/checkpoint.md", "guides/jax.md", "guides/sweep.md")
_FENCE = re.compile(r"^```([\w-]*)([^\n]*)\n(.*?)^```$", re.S | re.M)
_ESCAPE = re.compile(r"\x1b\[[?\d;]*[A-Za-z]")


def notebook(page: str) -> nbformat.NotebookNode:
    """A page as a notebook that has not been run."""
    text = (DOCS / page).read_text(encoding="utf-8")
    cells, begin = [], 0

    def prose(until: int) -> None:
        if part := _without_links(text[begin:until].strip()):
            cells.append(nbformat.v4.new_markdown_cell(part))

    for fence in _FENCE.finditer(text):
        language, rest, code = fence[1], fence[2], fence[3].rstrip("\n")
        title = re.search(r'title="([^"]+)"', rest)
        if title is None and language not in ("python", "sh"):
            continue
        prose(fence.start())
        begin = fence.end()
        if title is not None:
            code = f"%%writefile {title[1]}\n{code}"
        elif language == "sh":
            # Not "!": that would put Python's variables where commands have braces.
            code = f"%%sh\n{code}"
        cells.append(nbformat.v4.new_code_cell(code))
    prose(len(text))
    made = nbformat.v4.new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
    for number, cell in enumerate(made.cells):
        cell.id = f"cell{number}"
    return made


def run(made: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with its outputs, from an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(made, timeout=1800, resources={"metadata": {"path": folder}}).execute()
    for cell in made.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = kept(cell.outputs)
    made.metadata = {"language_info": {"name": "python"}}
    return made


def kept(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """What is printed, returned and drawn, without progress bars."""
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    lines = [_ESCAPE.sub("", line.rstrip().rpartition("\r")[2]) for line in printed.split("\n")]
    text = "\n".join(line for line in lines if "━" not in line).strip()
    shown = [nbformat.v4.new_output("stream", name="stdout", text=f"{text}\n")] if text else []
    drawn = [one for one in outputs if one.output_type == "execute_result" or "image/png" in one.get("data", {})]
    return shown + drawn


def _without_links(prose: str) -> str:
    """Links to pages of the site lead nowhere from a notebook, which lies elsewhere."""
    return re.sub(r"\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", prose)


def main() -> None:
    for page in [page for page in PAGES if not sys.argv[1:] or Path(page).stem in sys.argv[1:]]:
        target = DOCS / "notebooks" / f"{Path(page).stem}.ipynb"
        target.parent.mkdir(exist_ok=True)
        nbformat.write(run(notebook(page)), target)
        sys.stdout.write(f"{target}\n")


if __name__ == "__main__":
    main()
