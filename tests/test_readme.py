"""The README's own examples run."""

import re
from pathlib import Path

import pytest

from mdjax.grids import Grid
from mdjax.training import train

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    train(Grid(width=(2, 8), batch_size=(64, 256), epochs=2, seeds=2), folder / "noisy-zoo", show_progress=False)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_run(number, zoo, capsys):
    exec(compile(EXAMPLES[number].replace("runs/demo", str(zoo)), f"README example {number}", "exec"), {})
    assert "train_error = " in capsys.readouterr().out


def test_there_are_examples_and_their_files():
    assert len(EXAMPLES) == 4
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / picture).is_file()
