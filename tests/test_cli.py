"""The command line: help with examples, one sentence for a mistake, and the whole way from grid to report."""

import json
import re
import subprocess
import sys

import pandas as pd
import pytest

from mdjax.cli import main
from mdjax.metrics import select

GRID = """
architecture = "mlp"
width = [2, 32]
batch_size = [32, 128]
epochs = 2
seeds = 2
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    (folder / "grid.toml").write_text(GRID)
    main(["train", str(folder / "grid.toml"), "--out", str(folder / "zoo")])
    main(["measure", str(folder / "zoo"), "--out", str(folder / "table"), "--preset", "fast"])
    return folder / "table"


def test_from_grid_to_verdicts(table, capsys, tmp_path):
    main(["diagnose", str(table)])
    assert "4 configurations" in capsys.readouterr().out
    for suffix in (".csv", ".json", ".parquet"):
        main(["diagnose", str(table), "--out", str(tmp_path / f"verdicts{suffix}")])
    verdicts = pd.read_parquet(tmp_path / "verdicts.parquet")
    assert len(verdicts) == 4
    assert verdicts["cause"].notna().all()
    assert len(json.loads((tmp_path / "verdicts.json").read_text())) == 4
    assert len(pd.read_csv(tmp_path / "verdicts.csv")) == 4
    capsys.readouterr()
    main(["diagnose", str(table), "--configuration", verdicts["configuration"][0]])
    text = capsys.readouterr().out
    assert verdicts["configuration"][0] in text
    assert "train_error" in text


def test_the_plan_is_shown_and_nothing_measured(table, capsys, tmp_path):
    main(
        ["measure", str(table.parent / "zoo"), "--plan", "--out", str(table), "--preset", "fast", "--metrics", "losses"]
    )
    told = [line.split()[-2:] for line in capsys.readouterr().out.splitlines()]
    assert told == [["left", "seconds"], ["0", "0"], ["0", "0"]]
    main(["measure", str(table.parent / "zoo"), "--plan", "--devices", "2x2x2", "--metrics", "losses,cka"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:6] == ["architecture", "metric", "members", "units", "devices", "shards"]
    assert [line.split()[:6] for line in lines[1:]] == [
        [architecture, metric, "4", "1", "8", "2"]
        for architecture in ("mlp-w2", "mlp-w32")
        for metric in ("losses", "cka")
    ]
    assert all(line.endswith("MiB") for line in lines[1:])


def test_devices_and_settings_change_what_they_say(table, capsys, tmp_path):
    zoo, out = str(table.parent / "zoo"), str(tmp_path / "table")
    main(["measure", zoo, "--out", out, "--devices", "1x2x4", "--metrics", "losses,cka", "--set", "cka.num_batches=2"])
    models, expected = (pd.read_parquet(folder / "models.parquet") for folder in (tmp_path / "table", table))
    for column in ("train_loss", "test_error"):
        assert models[column].to_numpy() == pytest.approx(expected[column].to_numpy(), rel=1e-5)
    # The preset "fast" takes two batches as well.
    pairs, expected = (pd.read_parquet(folder / "pairs.parquet") for folder in (tmp_path / "table", table))
    assert pairs["CKA"].to_numpy() == pytest.approx(expected["CKA"].to_numpy(), rel=1e-5)
    assert (models["losses_seconds"] > 0).all()


def test_rows_without_a_name_are_numbered(table, tmp_path, capsys):
    rows = pd.read_parquet(table / "configurations.parquet").drop(columns="configuration")
    rows.to_csv(tmp_path / "rows.csv", index=False)
    main(["diagnose", str(tmp_path / "rows.csv"), "--configuration", "row 2"])
    assert "train_error" in capsys.readouterr().out


def test_report_is_written(table, tmp_path):
    main(["report", str(table), "--out", str(tmp_path / "report.html")])
    assert "<html" in (tmp_path / "report.html").read_text()


def test_a_table_without_features_is_neither_reported_nor_diagnosed(table, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["measure", str(table.parent / "zoo"), "--out", "bare", "--metrics", "surface"])
    for command, message in (("report", "no feature to report on"), ("diagnose", "none of the features train_error")):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([command, "bare"])
        error = capsys.readouterr().err.strip()
        assert stop.value.code == 2 and message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "report.html").exists()
    rows = pd.read_parquet(table / "configurations.parquet")[["configuration", "width", "bs", "CKA"]]
    rows.to_csv("alike.csv", index=False)
    main(["report", "alike.csv"])
    assert "none of the features that the trees read: no diagnosis" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["demo", "check", "train", "measure", "diagnose", "grow", "report"])
def test_every_command_has_a_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "--out" in text
    assert command in ("demo", "report") or f"mdjax {command} " in text.split("example", 1)[1]


@pytest.mark.parametrize(("preset", "seeds"), [("reference", 1), ("reference", 2), ("reference", 3), ("default", 1)])
def test_every_preset_goes_to_the_files_of_a_table(preset, seeds, tmp_path, capsys):
    grid = 'architecture = "mlp"\nwidth = 4\nbatch_size = 64\ndata_share = 0.25\nepochs = 2\n'
    (tmp_path / "grid.toml").write_text(f"{grid}seeds = {seeds}\n")
    main(["train", str(tmp_path / "grid.toml"), "--out", str(tmp_path / "zoo")])
    main(["measure", str(tmp_path / "zoo"), "--out", str(tmp_path / "table"), "--preset", preset])
    assert f"{seeds} models (0 not ok)" in capsys.readouterr().out
    configurations = pd.read_parquet(tmp_path / "table" / "configurations.parquet")
    features = [feature.name for metric in select(preset) for feature in metric.features if metric.frame == "models"]
    assert configurations[features].notna().all(axis=None)
    of_pairs = configurations[["CKA", "mode_connectivity", "mode_connectivity_peak"]]
    assert of_pairs.notna().all(axis=None) == (seeds > 1)
    assert of_pairs.isna().all(axis=None) == (seeds == 1)
    assert set(configurations["preset"]) == {preset}
    for name in ("models", "pairs", "configurations"):
        assert (pd.read_parquet(tmp_path / "table" / f"{name}.parquet")["status_code"] == "ok").all()
    main(["diagnose", str(tmp_path / "table")])
    assert "1 configurations" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "none.toml", "--out", "zoo"], "Cannot read the grid none.toml"),
        (["measure", "none", "--out", "table"], "none is no zoo"),
        (["measure", "none", "--out", "table", "--metrics", "hesian"], "Unknown metric 'hesian'. Choose from losses"),
        (
            ["measure", "none", "--plan", "--distributed", "auto"],
            "A plan is made by one process. Leave --dist",
        ),
        (["measure", "none", "--target", "tpu:v5e-4"], "nothing is measured. Add --plan to it"),
        (["measure", "ZOO"], "No place for the table. Name it: --out TABLE"),
        (["measure", "ZOO", "--out", "t", "--preset", "slow"], "Unknown preset 'slow'. Choose one of default, "),
        (["measure", "ZOO", "--out", "t", "--devices", "4x"], "Cannot use devices '4x'. Give a number, models x"),
        (["measure", "ZOO", "--out", "t", "--devices", "999"], "Cannot use 999 devices: this cpu backend has 8."),
        (["measure", "ZOO", "--out", "t", "--set", "hessian"], "Cannot set 'hessian'. Write metric.setting=value"),
        (["measure", "ZOO", "--out", "t", "--set", "cka.x=1"], "Cannot set 'cka.x=1': there is no 'x'. Its settings"),
        (["measure", "ZOO", "--out", "t", "--set", "cka.num_batches=few"], "Give a value like 5."),
        (["diagnose", "none"], "none is no table"),
        (["diagnose", "TABLE", "--tree", "none.json"], "Cannot read the trees in none.json"),
        (["diagnose", "TABLE", "--out", "verdicts.xlsx"], "its ending is '.xlsx'. Use .csv, .json or .parquet."),
        (["diagnose", "TABLE", "--configuration", "x"], "0 configurations of .* are named 'x'"),
        (["report", "none"], "none is no table"),
    ],
)
def test_mistakes_are_told_in_one_sentence(arguments, message, table, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        places = {"TABLE": str(table), "ZOO": str(table.parent / "zoo")}
        main([places.get(argument, argument) for argument in arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("mdjax: error: ")
    assert len(error.splitlines()) == 1
    assert re.search(message, error), error


def test_interrupting_says_how_to_go_on(monkeypatch, capsys):
    monkeypatch.setattr("mdjax.zoo.grids.load_grid", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(SystemExit) as stop:
        main(["train", "grid.toml", "--out", "zoo"])
    assert stop.value.code == 130
    assert "same command again" in capsys.readouterr().err


def test_diagnosing_never_loads_jax(table):
    code = (
        "import sys; from mdjax.cli import main; "
        f"main(['diagnose', {str(table)!r}]); main(['report', {str(table)!r}, '--out', {str(table / 'r.html')!r}]); "
        "import mdjax; mdjax.diagnose; mdjax.MDTree; "
        "sys.exit(sorted(m for m in sys.modules if m.split('.')[0] in ('jax', 'flax', 'torch'))[:3])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("[]"), done.stderr


def test_public_names_load_lazily():
    import mdjax

    for name in mdjax.__all__:
        assert getattr(mdjax, name) is not None
    assert {"landscape", "sweeps", "Zoo", "diagnose"} <= set(dir(mdjax))
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = mdjax.nonsense
