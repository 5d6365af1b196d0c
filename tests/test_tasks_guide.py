"""docs/tasks.md: its transformers are grown, and its tables name what there is."""

import json
import re
from pathlib import Path

import numpy as np

from mdjax.cli import main
from mdjax.models import Architecture
from mdjax.models.transformer_variants import parts_of
from mdjax.table import read_table
from mdjax.tasks import TASKS
from mdjax.zoo.grids import load_grid
from mdjax.zoo.store import Zoo

GUIDE = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text()


def test_the_table_names_every_task():
    assert re.findall(r"^\| `([\w-]+)` \|", GUIDE.split("\n## ")[0], re.M) == [*TASKS]


def test_what_a_language_model_takes_is_what_was_recorded():
    found = json.loads((Path(__file__).parents[1] / "bench" / "results" / "language_model.json").read_text())
    told = " ".join(GUIDE.split())
    assert f"{found['parameters'] / 1e6:.1f} million parameters with {found['settings']['tokens']} tokens" in told
    seconds = f"{found['losses_seconds']:.0f} s for its losses on {found['settings']['examples']} examples and "
    assert f"{seconds}{found['hessian_seconds']:.0f} s for {found['hessian_products']} products" in told
    assert f"and {found['peak_mib'] / 1024:.1f} GiB in all" in told


def test_every_word_of_a_variant_is_one():
    (section,) = re.findall(r"\n## Transformers\n(.*?)\n## ", GUIDE, re.S)
    rows = re.findall(r"^\| (`.*?`) \|", section, re.M)
    words = [word for row in rows for word in re.findall(r"`(.+?)`", row)]
    assert len(words) == 21
    assert all(parts_of(word).text in (word, word.replace("1e-6", "1e-06")) for word in words)


def _walks(num, length, seed):
    """Walks over seven places [num, length + 1], from each to a few of them."""
    random = np.random.default_rng(seed)
    likely = np.cumsum(np.random.default_rng(0).dirichlet(np.full(7, 0.3), 7), axis=1)
    steps = [random.integers(0, 7, num)]
    for _ in range(length):
        steps.append((random.random(num)[:, None] > likely[steps[-1]]).sum(1).clip(0, 6))
    return np.stack(steps, 1)


def test_decoders_are_grown_measured_and_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train, test = _walks(256, 11, 1), _walks(64, 11, 2)
    np.savez("text.npz", x_train=train[:, :-1], y_train=train[:, 1:], x_test=test[:, :-1], y_test=test[:, 1:])
    (section,) = re.findall(r"\n## Transformers\n(.*?)\n## ", GUIDE, re.S)
    (grid,) = re.findall(r"```toml\n(.*?)```", section, re.S)
    Path("decoder.toml").write_text(grid)
    (commands,) = re.findall(r"```\n(mdjax .*?)```", section, re.S)
    for command in commands.splitlines():
        main(command.split()[1:])
    models = read_table("decoders-table").models
    assert (models["status"] == "ok").all() and len(models) == 2 and (models["task"] == "next-token").all()
    assert (models["variant"] == load_grid("decoder.toml").variant).all() and (models["num_classes"] == 7).all()
    # What a walk says of its next step is learnt.
    assert (models["train_error"] < models["chance_error"]).all()
    assert Path("decoders.html").stat().st_size > 10_000
    assert Zoo("decoders").architecture(Zoo("decoders").groups[0]) == Architecture(
        "decoder", 16, (11,), 7, 2, load_grid("decoder.toml").variant
    )
