"""Zoos, shards, tables, trees and calibrations as somebody would craft them: one sentence, or a row that says so."""

import contextlib
import json
import os
import shutil

import jax
import numpy as np
import pandas as pd
import pytest

from mdjax.diagnosis.calibrations import Calibration
from mdjax.diagnosis.surface import Points, Surface
from mdjax.diagnosis.treefiles import NAMED
from mdjax.diagnosis.trees import load_trees
from mdjax.errors import InputError
from mdjax.inputs import parse_json
from mdjax.models import Architecture
from mdjax.parquet import write_frame
from mdjax.sweeps.local import measure
from mdjax.table import read_configurations
from mdjax.zoo.store import DamagedGroupError, Zoo

ARCHITECTURE = Architecture("mlp", 3, (4,), 3, 1)
RANDOM = np.random.RandomState(0)
X, Y = RANDOM.randn(30, 4).astype("f4"), (np.arange(30) % 3).astype("i4")
DATA = (X, Y, X[:9], Y[:9])


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A zoo of two groups and its table, with the shards of its units."""
    folder = tmp_path_factory.mktemp("sound")
    zoo = Zoo.create(folder / "zoo", data="digits")
    for number, (group, architecture) in enumerate((("a", ARCHITECTURE), ("b", Architecture("mlp", 2, (4,), 3, 1)))):
        params, state = jax.vmap(architecture.init)(jax.random.split(jax.random.key(number), 2))
        rows = [
            {"model_id": f"{group}{seed}", "configuration": group, "seed": seed, "batch_size": 8, "data_share": 1.0}
            for seed in range(2)
        ]
        zoo.append(group, architecture, rows, params, state)
    measure(folder / "zoo", data=DATA, metrics="losses", out=folder / "table", show_progress=False)
    return folder


@pytest.fixture
def crafted(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "crafted")


def measured(folder, **options):
    return measure(folder / "zoo", data=DATA, metrics="losses", show_progress=False, **options).models


def rewritten(path, **columns):
    frame = pd.read_parquet(path)
    frame.assign(**columns).to_parquet(path, index=False)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"position": [0, 0]}, "positions of 'a' are not 0 to 1, each once"),
        ({"position": [-1, 0]}, "position is '-1', not a whole number of at least 0"),
        ({"model_id": ["a0", "a0"]}, "the model 'a0' comes twice"),
        ({"model_id": [1, 2]}, "model_id is '1', not a text"),
        ({"width": ["x", "x"]}, "width is 'x', not a whole number"),
        ({"width": [10**9] * 2}, "width is 1000000000"),
        ({"width": [7] * 2}, "models.parquet and group.json differ in width"),
        ({"num_params": [7] * 2}, "differ in num_params"),
        ({"depth": [10**6] * 2}, "depth is 1000000"),
        ({"input_shape": ["9" * 99] * 2}, "input_shape is '999"),
        ({"family": [["mlp"]] * 2}, "column family holds a"),
        ({"data_share": [0.0] * 2}, "data_share is 0"),
        ({"label_noise": [-0.5] * 2}, "label_noise is '-0.5'"),
        ({"batch_size": [float("inf")] * 2}, "batch_size is 'inf'"),
        ({"seed": [None] * 2}, "seed is"),
        ({"status_code": ["fine"] * 2}, "status_code is 'fine', not one of ok"),
        ({"weights_hash": ["0" * 24] * 2}, "weights do not fit their hashes"),
    ],
)
def test_rows_that_cannot_be_cost_their_group_alone(crafted, columns, message, capsys):
    rewritten(crafted / "zoo" / "groups" / "a" / "models.parquet", **columns)
    (crafted / "zoo" / "manifest.parquet").unlink()
    models = measured(crafted).set_index("model_id")
    told = f"{capsys.readouterr().err} {' '.join(models['status'])}"
    assert message in " ".join(told.split())
    assert models.loc[["b0", "b1"], "status_code"].tolist() == ["ok", "ok"]
    assert not (models.drop(index=["b0", "b1"])["status_code"] == "ok").any()


@pytest.mark.parametrize("column", ["model_id", "configuration", "batch_size"])
def test_a_manifest_that_tells_other_models_than_the_groups_is_told_with_each_row(crafted, column):
    path = crafted / "zoo" / "manifest.parquet"
    values = pd.read_parquet(path)[column].tolist()
    first = {"model_id": values[1::-1], "configuration": ["other", values[1]], "batch_size": [16, values[1]]}[column]
    rewritten(path, **{column: [*first, *values[2:]]})
    models = measured(crafted)
    codes = dict(zip(models["group"], models["status_code"]))
    assert codes == {"a": "group_damaged", "b": "ok"}
    assert models["status"].str.contains(f"manifest.parquet differ in {column}").sum() == 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("zoo.json", '{"a":' * 90_000, "lie too deep in each other"),
        ("zoo.json", '{"a":' * 100 + "1" + "}" * 100, "lie too deep in each other"),
        ("zoo.json", '{"format": "mdjax-zoo", "version": 1, "data": [], "fingerprint": null}', "says that data is"),
        ("zoo.json", '{"format": "mdjax-zoo", "version": 1, "version": 2}', "holds 'version' twice"),
        ("zoo.json", f'{{"version": {"9" * 5000}}}', "beyond 64 bits"),
        ("zoo.json", '{"version": NaN}', "not finite"),
        ("groups/a/group.json", '{"architecture": {"family": ["mlp"], "width": 3}}', "Unknown architecture"),
        ("groups/a/group.json", '{"architecture": {"family": "mlp", "width": 1e308}}', r"width is 1e\+308"),
        ("groups/a/group.json", '{"architecture": {"family": "mlp", "width": 3, "depth": 9999}}', "depth is 9999"),
        ("groups/a/group.json", '{"architecture": {"family": "mlp", "width": 3, "input_shape": "x"}}', "input_sh"),
        ("groups/a/group.json", "[]", "no JSON object"),
    ],
)  # fmt: skip
def test_json_that_cannot_be_is_told_in_a_sentence(crafted, name, text, message):
    (crafted / "zoo" / name).write_text(text)
    with pytest.raises(InputError, match=message) as told:
        Zoo(crafted / "zoo").read_group("a")
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 600


@pytest.mark.parametrize("name", ["zoo.json", "groups/a/group.json", "groups/a/models.parquet", "groups/a/arrays/pipe"])
def test_a_pipe_in_a_files_place_does_not_hang(crafted, name):
    path = crafted / "zoo" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    (crafted / "zoo" / "manifest.parquet").unlink()
    os.mkfifo(crafted / "zoo" / "manifest.parquet")
    with pytest.raises(InputError, match=r"no regular file|a is damaged"):
        Zoo(crafted / "zoo").read_group("a")


def shards(folder):
    return sorted((folder / "table" / "shards").glob("*.parquet"))


def exchanged(folder):
    first, second = shards(folder)
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)


@pytest.mark.parametrize(
    "craft",
    [
        exchanged,
        lambda folder: rewritten(shards(folder)[0], model_id=["x0", "x1"]),
        lambda folder: rewritten(shards(folder)[0], model_id=["a0", "a0"]),
        lambda folder: rewritten(shards(folder)[0], status_code=["fine"] * 2),
        lambda folder: pd.read_parquet(shards(folder)[0]).head(1).to_parquet(shards(folder)[0]),
        lambda folder: pd.read_parquet(shards(folder)[0])[["model_id"]].to_parquet(shards(folder)[0]),
        lambda folder: (path := shards(folder)[0]).unlink() or path.mkdir(),
        lambda folder: (path := shards(folder)[0]).unlink() or os.mkfifo(path),
        lambda folder: (path := shards(folder)[0]).unlink() or path.symlink_to(path),
    ],
)
def test_a_shard_that_is_not_of_its_unit_is_measured_again(crafted, craft):
    before = pd.read_parquet(crafted / "table" / "models.parquet")
    craft(crafted)
    after = measured(crafted, out=crafted / "table")
    for name in ("model_id", "train_loss", "test_loss", "status_code"):
        assert after[name].tolist() == before[name].tolist()


def shipped():
    return json.loads(NAMED["published"].read_text())


def chain(tree, count):
    split, (first, second) = tree["splits"][0], tree["classes"]
    splits = [{**split, "at_most": first, "above": number + 1} for number in range(count)]
    splits[-1]["above"] = second
    tree.update(splits=splits, leaf_counts=[[1, 1]] * (count + 1), shares=None)


@pytest.mark.parametrize(
    ("craft", "message"),
    [
        (lambda tree: chain(tree, 900), "900 splits, not 1 to 255"),
        (lambda tree: chain(tree, 60), "more than 16 deep"),
        (lambda tree: tree.update(splits=[]), "0 splits"),
        (lambda tree: tree.update(leaf_counts=[[2**62, 1]] * 9), "leaf_counts do not fit"),
        (lambda tree: tree.update(smoothing=True), "smoothing is a bool"),
        (lambda tree: tree.update(method=["default"]), "method is a list"),
        (lambda tree: tree.update(method="mine"), "There is no method 'mine'"),
        (lambda tree: tree.update(preset=1), "preset is a int"),
        (lambda tree: tree.update(provenance={"left_out": [[]]}), "provenance: left_out is a list"),
        (lambda tree: tree.update(provenance={"sweep": {}}), "provenance: sweep is a dict"),
        (lambda tree: tree.update(feature_ranges={}), "lacks the field"),
        (lambda tree: tree["splits"][0].update(bounds=[0]), "cannot be understood"),
        (lambda tree: tree["splits"][0].update(at_most=0), "do not form one tree"),
        (lambda tree: tree.update(population=0), "names a population that it does not hold"),
        (lambda tree: tree.update(population="0"), "names a population that it does not hold"),
        (lambda tree: tree.update(question={}), "question is a dict"),
        (lambda tree: tree.update(gains={"small": {"best": 1.0, "rows": 2}}), "lacks the field 'one'"),
        (lambda tree: tree.update(gains={"small": {"one": 1.0, "Best": 1.0}}), "lacks the field 'best'"),
        (
            lambda tree: tree.update(gains={"smal": {"one": 1.0, "best": 1.0}}),
            "gains are of 'smal', .* none of large, small",
        ),
        (lambda tree: tree.update(gains={"small": [1.0, 2.0]}), "cannot be understood"),
        (lambda tree: tree.update(gains={"small": {"one": None, "best": 1.0}}), "cannot be understood"),
    ],
)
def test_trees_that_cannot_be_are_told_in_a_sentence(tmp_path, craft, message):
    content = shipped()
    content["populations"] = []
    for tree in content["trees"]:
        tree["population"] = None
    craft(content["trees"][0])
    (tmp_path / "trees.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        load_trees(tmp_path / "trees.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1e999", "1e999, which is not finite"),
        ("-Infinity", "not finite"),
        (str(2**63), "beyond 64 bits"),
        ("[" * 99 + "]" * 99, "too deep"),
        ('{"a": 1, "a": 2}', "twice"),
        (r'["\ud800"]', "surrogates not allowed"),
    ],
)
def test_json_of_values_that_mdjax_never_writes_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("surface", "accuracy"), [1.0] * 8, "do not fit each other"),
        (("surface", "points", "width"), [-1.0] * 9, "positive numbers"),
        (("surface", "points", "width"), [[1.0]] * 9, "no lists of finite numbers"),
        (("surface", "theta"), [700.0] * 6, "kernel is none that is fitted"),
        (("accuracy", "width", "balanced"), "x", "is damaged"),
        (("accuracy", "width", "interval"), [1], "is damaged"),
        (("accuracy", "width", "rows"), None, "is damaged"),
        (("facts",), [], "facts are no names"),
        (("facts", "family"), ["mlp"], "family is a list"),
        (("num_models",), {}, "is damaged"),
    ],
)
def test_calibrations_that_cannot_be_are_told_in_a_sentence(tmp_path, path, value, message):
    points = Points(np.repeat([1e-3, 1e-2, 1e-1], 3), np.tile([2.0, 4, 8], 3), np.ones(9))
    Calibration(Surface(points, np.arange(9) + 70.0, np.zeros(6)), {"family": "mlp"}, {}, 18).save(tmp_path)
    file = tmp_path / "calibration.json"
    content = json.loads(file.read_text())
    content["accuracy"] = {"width": {"rows": 9, "balanced": 80, "interval": [60, 90], "majority": 50, "validation": 60}}
    file.write_text(json.dumps(content))
    assert Calibration.load(tmp_path).accuracy["width"].interval == (60, 90)
    inner = content
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        Calibration.load(tmp_path)


def test_a_changed_byte_in_a_table_is_told(sound, tmp_path):
    content = bytearray((sound / "table" / "configurations.parquet").read_bytes())
    path = tmp_path / "configurations.parquet"
    content[200] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="Cannot read"):
        read_configurations(path)


def test_links_that_lead_in_circles_are_told(crafted):
    path = crafted / "zoo" / "groups" / "a" / "group.json"
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(DamagedGroupError, match="Too many levels of symbolic links"):
        Zoo(crafted / "zoo").read_group("a")


def test_a_changed_byte_in_the_name_of_a_column_is_told(tmp_path):
    path = tmp_path / "table.parquet"
    write_frame(pd.DataFrame({"test_error": [1.0], "width": [2]}), path)
    content = path.read_bytes()
    assert content.count(b"test_error") > 2
    start = 0
    while (start := content.find(b"test_error", start + 1)) >= 0:
        path.write_bytes(content[:start] + b"testxerror" + content[start + 10 :])
        with contextlib.suppress(InputError):
            assert list(read_configurations(path)) == ["test_error", "width"]
