"""The wheel, built from the sdist, runs where it is installed, and holds what runs alone."""

import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from diagnosis_tables import zoo

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    run = {"check": True, "capture_output": True, "text": True}
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder], cwd=ROOT, **run)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=source, **run)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_what_runs_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {
        "mdjax",
        "converters",
        f"{wheel.name.rpartition('-py3')[0]}.dist-info",
    }
    assert any(name.endswith("shipped_trees.json") for name in names)
    assert any("report/templates/" in name for name in names)


def test_the_wheel_runs_in_a_fresh_environment(wheel, tmp_path):
    """With the packages that are here in its sight, and mdjax from the wheel alone."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    # Of a plain path its own .pth files, the editable mdjax among them, are not read.
    (site / "here.pth").write_text(sysconfig.get_path("purelib"))
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel]
    subprocess.run(install, check=True)

    def told(*words):
        done = subprocess.run(
            [tmp_path / "env" / "bin" / words[0], *words[1:]], cwd=tmp_path, capture_output=True, text=True, env={}
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    table = zoo(60)
    table.assign(configuration=[f"c{number}" for number in range(60)]).to_csv(tmp_path / "table.csv", index=False)
    where = told("python", "-c", "import mdjax, converters; print(mdjax.__file__, converters.__file__)")
    assert where.split() == [str(site / name / "__init__.py") for name in ("mdjax", "converters")]
    assert python.exists() and told("mdjax", "--version").startswith("mdjax ")
    assert "--out" in told("mdjax", "demo", "--help") and "SRC" in told("mdjax-convert", "--help")
    assert "configurations" in told("mdjax", "diagnose", "table.csv", "--out", "verdicts.csv")
    assert len(pd.read_csv(tmp_path / "verdicts.csv")) == len(table)
    told("mdjax", "report", "table.csv", "--out", "report.html")
    assert (tmp_path / "report.html").stat().st_size > 10_000
