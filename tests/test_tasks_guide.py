"""docs/tasks.md: its table names what there is."""

import json
import re
from pathlib import Path

from mdjax.tasks import TASKS

GUIDE = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text()


def test_the_table_names_every_task():
    assert re.findall(r"^\| `([\w-]+)` \|", GUIDE, re.M) == [*TASKS]


def test_what_a_language_model_takes_is_what_was_recorded():
    found = json.loads((Path(__file__).parents[1] / "bench" / "results" / "language_model.json").read_text())
    told = " ".join(GUIDE.split())
    assert f"{found['parameters'] / 1e6:.1f} million parameters with {found['settings']['tokens']} tokens" in told
    seconds = f"{found['losses_seconds']:.0f} s for its losses on {found['settings']['examples']} examples and "
    assert f"{seconds}{found['hessian_seconds']:.0f} s for {found['hessian_products']} products" in told
    assert f"and {found['peak_mib'] / 1024:.1f} GiB in all" in told
