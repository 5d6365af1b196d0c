"""docs/tasks.md: its code runs, and its table names what there is."""

import re
from pathlib import Path

from mdjax.tasks import TASKS

GUIDE = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text()


def test_the_task_of_ones_own_runs(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", GUIDE, re.S)
    scope = {"__name__": "guide"}
    exec(compile(block, "guide.py", "exec"), scope)
    models = scope["table"].models
    assert (models["status"] == "ok").all() and (models["task"] == "Quantile").all()
    assert "hessian_trace" in capsys.readouterr().out


def test_the_table_names_every_task():
    assert re.findall(r"^\| `([\w-]+)` \|", GUIDE, re.M) == [*TASKS]
