"""The choice of metrics from words, the command line's help, and a metric of one's own from its file to the table."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from documents import python_blocks, written_file
from helpers import digits, one

import mdjax
from mdjax.cli import main
from mdjax.columns import described
from mdjax.engine import device_mesh
from mdjax.errors import InputError
from mdjax.metrics import METRICS, PRESETS, select
from mdjax.table import read_table
from mdjax.tasks import cross_entropy
from mdjax.zoo.grids import Grid
from mdjax.zoo.training import train

METRIC = written_file("docs/metrics.md", "gradient_noise.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a zoo and the documented metric's file."""
    folder = tmp_path_factory.mktemp("own")
    train(Grid(width=(4,), batch_size=(16, 64), data_share=(0.05, 0.5), epochs=2, seeds=2), folder / "zoo")
    (folder / "gradient_noise.py").write_text(METRIC, encoding="utf-8")
    return folder


def noise_scale(params, state, architecture, num_train):
    """By one gradient an example, in float64."""
    model = architecture.model()

    def loss(params, x, y):
        return cross_entropy(model.apply(params, state, x[None]), y[None])[0]

    x, y = digits().x_train[:num_train], digits().y_train[:num_train]
    found = jax.vmap(jax.grad(loss), (None, 0, 0))(params, x, y)
    flat = np.concatenate([np.asarray(leaf, np.float64).reshape(num_train, -1) for leaf in jax.tree.leaves(found)], 1)
    return flat.var(0, ddof=1).sum() / np.square(flat.mean(0)).sum()


def test_the_documented_metric_goes_from_its_file_to_a_column_of_the_table(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    name, setting = "gradient_noise.py:GradientNoise", "gradient_noise.num_samples=128"
    main(["measure", "zoo", "--out", str(tmp_path / "table"), "--metrics", f"losses,{name}", "--set", setting])
    table = read_table(tmp_path / "table")
    zoo = mdjax.Zoo("zoo")
    for group in zoo.groups:
        rows = table.models[table.models["group"] == group].sort_values("position")
        params, state = zoo.read_group(group)
        for index, row in enumerate(rows.itertuples()):
            count = min(128, digits().subset_size(row.data_share))
            expected = noise_scale(one(params, index), one(state, index), zoo.architecture(group), count)
            assert row.noise_scale == pytest.approx(expected, rel=1e-3)
    configurations = table.configurations
    means = table.models.groupby("configuration")["noise_scale"].mean()
    assert configurations["noise_scale"].to_numpy() == pytest.approx(means[configurations["configuration"]].to_numpy())
    assert configurations["noise_scale_se"].notna().all()
    assert described(configurations)["noise_scale"].label == "Gradient noise scale (examples)"
    # Sharded over models and examples it is the same.
    (metric,) = select(names=name, settings=[setting])
    sharded = mdjax.measure("zoo", metrics=[metric], mesh=device_mesh("2x4"))
    for column in ("noise_scale", "gradient_norm"):
        np.testing.assert_allclose(sharded.models[column], table.models[column], rtol=1e-5)
    # The documented Python.
    monkeypatch.syspath_prepend(str(folder))
    (example,) = python_blocks("docs/metrics.md")
    exec(compile(example, "docs/metrics.md", "exec"), {})
    assert "noise_scale_se" in capsys.readouterr().out


def test_an_edited_metric_is_measured_again(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(METRIC, encoding="utf-8")
    options = {"out": "table", "metrics": "own.py:GradientNoise"}
    before = mdjax.measure(folder / "zoo", **options)
    Path("own.py").write_text(METRIC.replace("covariance / norm**2", "2 * covariance / norm**2"), encoding="utf-8")
    after = mdjax.measure(folder / "zoo", **options)
    np.testing.assert_allclose(after.models["noise_scale"], 2 * before.models["noise_scale"], rtol=1e-6)
    frames = (before.models["gradient_norm"], after.models["gradient_norm"])
    pd.testing.assert_series_equal(*frames)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("none.py:Any", "There is no file none.py. Give a metric of your own as FILE.py:CLASS."),
        ("empty.py:Any", "empty.py has no metric 'Any'; it has none. Subclass ModelMetric"),
        ("broken.py:Any", "Cannot run broken.py: ZeroDivisionError: division by zero. Mend it."),
        ("stops.py:Any", "Cannot run stops.py: SystemExit: 3. Mend it."),
        ("half.py:Half", "Cannot make half.py:Half: TypeError: Can't instantiate abstract class Half"),
        ("gradient_noise.py:Other", "has no metric 'Other'; it has GradientNoise."),
    ],
)
def test_a_file_without_the_metric_is_refused_in_one_sentence(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    Path("empty.py").touch()
    Path("broken.py").write_text("1 / 0")
    Path("stops.py").write_text("import sys; sys.exit(3)")
    Path("half.py").write_text("import mdjax.metrics\nclass Half(mdjax.metrics.ModelMetric):\n    name = 'half'")
    Path("gradient_noise.py").write_text(METRIC, encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(message)):
        select(names=text)


def test_the_help_tells_what_every_metric_says_of_itself(capsys):
    with pytest.raises(SystemExit):
        main(["measure", "--help"])
    shown = capsys.readouterr().out
    for metric in METRICS.values():
        assert f"  {metric.name}{' *' if metric.by_default else ''}  " in shown
        assert metric.description in shown
    assert all(f"  {preset}  " in shown.split("presets:", 1)[1] for preset in PRESETS)


def test_only_the_help_of_measure_loads_jax():
    code = (
        "import sys; from mdjax.cli import main\n"
        "try: main(['diagnose', '--help'])\n"
        "except SystemExit: print('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")
