"""Trees by name and from files, in Python and on the command line; those of the package are the recorded ones."""

import html
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from diagnosis_tables import one_row, sweep, zoo

from mdjax.cli import main
from mdjax.diagnosis.growing import grow
from mdjax.diagnosis.labels import Axes
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.populations import Population
from mdjax.diagnosis.quantities import quantity
from mdjax.diagnosis.questions import QUESTIONS
from mdjax.diagnosis.trees import load_trees, save_trees
from mdjax.diagnosis.verdicts import diagnose, explain
from mdjax.errors import InputError

FACTS = {"family": ("resnet18", "resnet", "resnet_cifar100", "resnet_torchvision"), "num_classes": (10,)}


def test_trees_survive_their_file(published_trees, tmp_path):
    path = tmp_path / "trees.json"
    save_trees(published_trees.values(), path)
    table = zoo(seed=2)
    for name, loaded in load_trees(path).items():
        np.testing.assert_array_equal(loaded.predict_proba(table), published_trees[name].predict_proba(table))
        assert loaded.to_dict() == published_trees[name].to_dict()
        assert loaded.feature_ranges_ == published_trees[name].feature_ranges_
    pd.testing.assert_frame_equal(diagnose(table, path), diagnose(table, published_trees))
    assert MDTree.load(path, "width").question == "width"
    with pytest.raises(InputError, match=r"holds trees for optimizer, width, data; got question=None"):
        MDTree.load(path)
    published_trees["data"].save(path)
    assert MDTree.load(path).question == "data"
    with pytest.raises(InputError, match="one tree per question, got data, data"):
        save_trees([published_trees["data"], published_trees["data"]], path)


def test_grown_trees_survive_their_file(default_trees, tmp_path):
    table = sweep(4)
    table.loc[:9, "mode_connectivity_peak"] = np.nan
    save_trees(default_trees.values(), tmp_path / "trees.json")
    loaded = load_trees(tmp_path / "trees.json")
    pd.testing.assert_frame_equal(diagnose(table, loaded), diagnose(table, default_trees))
    assert {name: tree.to_dict() for name, tree in loaded.items()} == {n: t.to_dict() for n, t in default_trees.items()}
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"Cannot write the trees to .*file.*Choose a file"):
        save_trees(default_trees.values(), tmp_path / "file" / "trees.json")


@pytest.mark.parametrize(("name", "method"), [("shipped", "default"), ("published", "published")])
def test_trees_of_the_package_are_those_of_both_published_tables(zoos, name, method):
    table = pd.concat(zoos.values(), ignore_index=True)
    of_the_package = load_trees(name)
    assert list(of_the_package) == list(QUESTIONS)
    for question, tree in of_the_package.items():
        grown = grow(table, question, method=method, axes=Axes(within=("zoo",)))
        assert (tree.single_ is None) == (grown.single_ is None)
        for one, other in ((tree, grown), (tree.single_, grown.single_)):
            if one is None or other is None:
                continue
            np.testing.assert_allclose(one.thresholds_, other.thresholds_, rtol=1e-9)
            np.testing.assert_allclose(one.leaf_probabilities(), other.leaf_probabilities(), rtol=1e-9)
            np.testing.assert_array_equal(one.leaf_counts_, other.leaf_counts_)
            assert one.gains_ == other.gains_
            assert one.preset_ == "reference"
            assert one.provenance_["method"] == method
            assert {"data", "date", "mdjax", "rows", "transfer_accuracy"} <= set(one.provenance_)
        assert tree.population_ is not None
        assert tree.population_.to_dict() == Population.of(table, facts=FACTS).to_dict()


def test_shipped_trees_are_the_default():
    measured = {"train_error": 0.0, "train_loss": 6e-4, "mode_connectivity_peak": 0.0, "hessian_t": 5.13}
    verdict = diagnose(one_row(**measured, hessian_e=2.78, width=16)).iloc[0]
    assert verdict["cause"] == "temperature too low"
    assert verdict["recommendation"].startswith("raise the temperature: reduce the batch size")
    pd.testing.assert_frame_equal(diagnose(sweep(6)), diagnose(sweep(6), "shipped"))


@pytest.mark.parametrize("name", ["shipped", "published"])
def test_names_reach_the_files_that_the_command_line_leaves(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen(60).to_csv("table.csv", index=False)
    table = pd.read_csv("table.csv")
    main(["diagnose", "table.csv", "--tree", name, "--out", "verdicts.csv"])
    expected = diagnose(table, load_trees(name))
    pd.testing.assert_frame_equal(pd.read_csv("verdicts.csv", keep_default_na=False), as_read(expected))
    other = diagnose(table, ({"shipped", "published"} - {name}).pop())
    assert not expected["probability"].equals(other["probability"])
    main(["report", "table.csv", "--tree", name, "--out", "report.html"])
    page = html.unescape((tmp_path / "report.html").read_text(encoding="utf-8"))
    for question, tree in load_trees(name).items():
        assert tree.export_text() in page
        assert MDTree.load(name, question).to_dict() == tree.to_dict()
        assert explain(table.iloc[[3]], name) == explain(table.iloc[[3]], load_trees(name))


def seen(num_rows: int) -> pd.DataFrame:
    """Rows of the population that the package's trees were grown on, in their own units."""
    population = MDTree.load("shipped", "width").population_
    assert population is not None
    columns = {
        name: quantity(name).from_scale(population.values[:num_rows, k]) for k, name in enumerate(population.features)
    }
    return pd.DataFrame(columns | {"width": 64, "configuration": [f"c{k}" for k in range(num_rows)]})


def as_read(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame as it comes back from a CSV file in which missing values are empty texts."""
    text = io.StringIO(frame.to_csv(index=False))
    return pd.read_csv(text, keep_default_na=False)


def test_a_file_called_like_the_packages_trees_has_a_path(published_trees, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    published_trees["width"].save("shipped")
    for path in ("./shipped", Path("shipped")):
        assert {name: tree.to_dict() for name, tree in load_trees(path).items()} == {
            "width": published_trees["width"].to_dict()
        }
    assert list(load_trees("shipped")) == list(QUESTIONS)
    main(["diagnose", save_table(), "--tree", "./shipped", "--out", "verdicts.csv"])
    assert "optimizer_answer" not in pd.read_csv("verdicts.csv")


def save_table() -> str:
    zoo(20).to_csv("table.csv", index=False)
    return "table.csv"


def test_an_unknown_name_is_told_what_may_be_given(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    expected = (
        "Cannot read the trees in publishd: No such file or directory. Give shipped, published or a file of trees"
    )
    for call in (lambda: load_trees("publishd"), lambda: MDTree.load("publishd"), lambda: diagnose(zoo(5), "publishd")):
        with pytest.raises(InputError, match=expected):
            call()
    for command in ("diagnose", "report"):
        with pytest.raises(SystemExit) as stop:
            main([command, save_table(), "--tree", "publishd"])
        assert stop.value.code == 2
        assert expected in capsys.readouterr().err
