"""The zoo store: what goes in comes out, in part and in any order; damage is named and stays where it is."""

import json
import resource
import shutil

import jax
import numpy as np
import pandas as pd
import pytest
from killed_writers import leftover_of_a_killed_writer

from mdjax import locks
from mdjax.errors import InputError
from mdjax.models import Architecture
from mdjax.zoo.store import DamagedGroupError, Zoo, weights_hash

SHAPES = {"small": Architecture("mlp", 3, (4, 4, 1), 3), "normed": Architecture("resnet18", 1, (8, 8, 1), 3)}


def stack(architecture, count, seed=0):
    return jax.tree.map(np.array, jax.vmap(architecture.init)(jax.random.split(jax.random.key(seed), count)))


def rows(prefix, count):
    return [
        {"model_id": f"{prefix}{i}", "configuration": prefix, "seed": i, "batch_size": 8, "learning_rate": None}
        for i in range(count)
    ]


@pytest.fixture
def zoo(tmp_path):
    zoo = Zoo.create(tmp_path / "zoo", data="digits")
    for seed, name in enumerate(("a", "b")):
        zoo.append(name, SHAPES["small"], rows(name, 3), *stack(SHAPES["small"], 3, seed))
    zoo.append("n", SHAPES["normed"], rows("n", 2), *stack(SHAPES["normed"], 2))
    return zoo


def assert_equal(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def test_models_come_out_as_they_went_in(zoo):
    reopened = Zoo(zoo.path)
    pd.testing.assert_frame_equal(reopened.manifest, zoo.manifest)
    assert reopened.groups == ["a", "b", "n"]
    assert len(reopened) == 8
    assert_equal(reopened.read_group("n"), stack(SHAPES["normed"], 2))
    assert reopened.architecture("n") == SHAPES["normed"]
    assert set(reopened.manifest["num_params"]) == {SHAPES["small"].num_params, SHAPES["normed"].num_params}


def test_anyone_can_open_the_manifest(zoo):
    manifest = pd.read_parquet(zoo.path / "manifest.parquet")
    assert list(manifest["model_id"]) == ["a0", "a1", "a2", "b0", "b1", "b2", "n0", "n1"]
    assert (manifest["status"] == "ok").all()
    assert (manifest["status_code"] == "ok").all()


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [truncate, flip, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("pattern", ["arrays/d/*", "arrays/manifest.ocdbt", "group.json"])
def test_a_damaged_group_is_named_and_the_others_stay_readable(zoo, damage, pattern):
    for path in (zoo.path / "groups" / "b").glob(pattern):
        damage(path)
    reopened = Zoo(zoo.path)
    try:
        tree = reopened.read_group("b")
    except DamagedGroupError as error:
        assert "Group b of" in str(error)
        assert "is damaged" in str(error)
    else:  # a flipped bit that changed nothing read back
        assert damage is flip
        assert_equal(tree, stack(SHAPES["small"], 3, 1))
    assert_equal(reopened.read_group("a"), stack(SHAPES["small"], 3, 0))


def test_a_lost_manifest_is_rebuilt_and_damage_in_a_group_is_told(zoo):
    (zoo.path / "manifest.parquet").unlink()
    truncate(zoo.path / "groups" / "b" / "models.parquet")
    reopened = Zoo(zoo.path)
    assert list(reopened.damaged) == ["b"]
    assert f"Group b of {zoo.path} is damaged: models.parquet: " in reopened.damaged["b"]
    assert set(reopened.manifest["group"]) == {"a", "n"}


def test_swapped_weights_do_not_fit_their_hash(zoo):
    shutil.rmtree(zoo.path / "groups" / "b" / "arrays")
    shutil.copytree(zoo.path / "groups" / "a" / "arrays", zoo.path / "groups" / "b" / "arrays")
    with pytest.raises(DamagedGroupError, match="Group b of .* its weights do not fit their hashes"):
        Zoo(zoo.path).read_group("b")


def test_hashes_tell_models_apart_by_content_alone():
    params, state = stack(SHAPES["normed"], 3)
    hashes = weights_hash(params, state)
    assert len(set(hashes)) == 3
    assert weights_hash(*jax.tree.map(lambda leaf: leaf[1:2], (params, state))) == hashes[1:2]


def test_nan_weights_are_marked(tmp_path):
    zoo = Zoo.create(tmp_path / "zoo", data="digits")
    params, state = stack(SHAPES["small"], 2)
    params["linear"]["bias"][1, 0] = np.nan
    zoo.append("a", SHAPES["small"], rows("a", 2), params, state)
    manifest = Zoo(zoo.path).manifest
    assert list(manifest["status"]) == ["ok", "weights are not finite"]
    assert list(manifest["status_code"]) == ["ok", "weights_not_finite"]


@pytest.mark.parametrize("lost", [True, False])
def test_zoos_written_before_there_were_codes_get_them_on_opening(zoo, lost):
    """With their manifest or with one that is rebuilt, and beside groups of today."""
    params, state = stack(SHAPES["small"], 2)
    params["linear"]["bias"][1, 0] = np.nan
    zoo.append("c", SHAPES["small"], rows("c", 2), params, state)
    whole = zoo.manifest
    for path in (zoo.path / "groups" / "a" / "models.parquet", zoo.path / "groups" / "c" / "models.parquet"):
        pd.read_parquet(path).drop(columns="status_code").to_parquet(path)
    path = zoo.path / "manifest.parquet"
    path.unlink() if lost else pd.read_parquet(path).drop(columns="status_code").to_parquet(path)
    reopened = Zoo(zoo.path).manifest
    assert list(reopened["status_code"]) == ["ok"] * 6 + ["ok", "weights_not_finite", "ok", "ok"]
    pd.testing.assert_frame_equal(reopened[whole.columns], whole)


def test_a_killed_writers_leftovers_are_removed(zoo):
    for folder in (zoo.path, zoo.path / "groups"):
        (leftover_of_a_killed_writer(folder, is_folder=True) / "half").write_text("x")
        leftover_of_a_killed_writer(folder)
    reopened = Zoo.create(zoo.path, data="digits")
    assert not list(zoo.path.rglob(".writing-*"))
    assert reopened.groups == ["a", "b", "n"]


def test_a_zoo_has_one_writer_at_a_time_who_is_named_to_others(zoo, monkeypatch):
    monkeypatch.setattr(locks, "_PATIENCE", 0.0)
    models = stack(SHAPES["small"], 2, 5)
    with zoo.writing(), zoo.writing():
        zoo.append("c", SHAPES["small"], rows("c", 2), *models)
        for write in (
            lambda: Zoo.create(zoo.path, data="digits"),
            lambda: Zoo(zoo.path).append("d", SHAPES["small"], rows("d", 2), *models),
        ):
            message = r"^This process is already writing the zoo .*zoo, since .*\. Write through the same object"
            with pytest.raises(InputError, match=message):
                write()
        assert len(Zoo(zoo.path)) == 10  # readers need not wait
    Zoo(zoo.path).append("d", SHAPES["small"], rows("d", 2), *models)
    assert len(Zoo(zoo.path)) == 12


def test_a_writer_sees_what_others_have_added(zoo):
    late = Zoo(zoo.path)
    zoo.append("c", SHAPES["small"], rows("c", 2), *stack(SHAPES["small"], 2, 5))
    with pytest.raises(InputError, match="Model ids occur twice in .*c0.*c1"):
        late.append("d", SHAPES["small"], rows("c", 2), *stack(SHAPES["small"], 2, 6))
    with late.writing():
        assert len(late) == 10
    assert Zoo(zoo.path).groups == ["a", "b", "c", "n"]


@pytest.mark.parametrize("lost", [True, False])
def test_models_that_two_writers_have_stored_twice_are_told(zoo, lost):
    shutil.copytree(zoo.path / "groups" / "a", zoo.path / "groups" / "z")
    path = zoo.path / "manifest.parquet"
    manifest = pd.read_parquet(path)
    twice = pd.concat([manifest, manifest[manifest["group"] == "a"].assign(group="z")])
    path.unlink() if lost else twice.to_parquet(path)
    with pytest.raises(
        InputError, match=r"holds 3 models twice, first a0 in the groups a and z\. Delete the .*groups/z"
    ):
        Zoo(zoo.path)


@pytest.mark.parametrize("limit", [2_000, 20_000])
def test_a_full_disk_is_told_in_one_sentence_and_leaves_nothing_behind(tmp_path, limit, capfd):
    """By the largest size of a file, which raises inside TensorStore, or in our own writing, as a full disk does."""
    zoo = Zoo.create(tmp_path / "zoo", data="digits")
    wide = Architecture("mlp", 64 if limit == 20_000 else 1, (4, 4, 1), 3)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    models = stack(wide, 4)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(InputError, match=r"^Cannot write group a of the zoo .*zoo: File too large\. Free space or"):
            zoo.append("a", wide, rows("a", 4), *models)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "Traceback" not in capfd.readouterr().err
    assert sorted(path.name for path in zoo.path.rglob("*")) == [".lock", "groups", "zoo.json"]
    zoo.append("a", wide, rows("a", 4), *models)
    assert len(Zoo(zoo.path)) == 4


def test_of_two_writers_of_a_group_the_first_wins(zoo):
    late, other = Zoo(zoo.path), Zoo(zoo.path)
    first = stack(SHAPES["small"], 2, 5)
    zoo.append("c", SHAPES["small"], rows("c", 2), *first)
    late.append("c", SHAPES["small"], rows("c", 2), *first)
    for reopened in (late, Zoo(zoo.path)):
        assert_equal(reopened.read_group("c"), first)
        assert len(reopened) == 10
    for loser in (other, Zoo(zoo.path)):
        with pytest.raises(InputError, match="already has a group c, of other models. Choose another name"):
            loser.append("c", SHAPES["small"], rows("d", 2), *first)
    (zoo.path / "groups" / "damaged").mkdir()
    (zoo.path / "groups" / "damaged" / "group.json").touch()
    with pytest.raises(InputError, match="folder for group damaged that is damaged. Delete"):
        zoo.append("damaged", SHAPES["small"], rows("d", 2), *first)
    shutil.rmtree(zoo.path / "groups" / "damaged")
    assert not list((zoo.path / "groups").glob(".writing-*"))
    assert len(Zoo(zoo.path)) == 10


def test_a_manifest_cannot_lead_out_of_the_zoo(zoo):
    shutil.copytree(zoo.path / "groups" / "a", zoo.path.parent / "outside")
    path = zoo.path / "groups" / "a" / "models.parquet"
    pd.read_parquet(path).assign(group="../../outside").to_parquet(path)
    (zoo.path / "manifest.parquet").unlink()
    assert "../../outside" not in set(Zoo(zoo.path).manifest["group"])
    with pytest.raises(DamagedGroupError, match="is missing"):
        Zoo(zoo.path).read_group("../../outside")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("linear"), "lacks array .*linear"),
        (lambda p: p.update(extra=np.zeros((2, 1))), "has the unexpected array .*extra"),
        (lambda p: p["linear"].update(bias=np.zeros((2, 9))), "has shape \\(2, 9\\), but \\(2, 3\\) was expected"),
    ],
)
def test_arrays_that_do_not_fit_the_architecture_are_refused(tmp_path, change, message):
    zoo = Zoo.create(tmp_path / "zoo", data="digits")
    params, state = stack(SHAPES["small"], 2)
    change(params)
    with pytest.raises(InputError, match=message):
        zoo.append("a", SHAPES["small"], rows("a", 2), params, state)
    assert zoo.groups == []


def test_wrong_use_is_refused_in_one_sentence(zoo, tmp_path):
    with pytest.raises(InputError, match="is no zoo: it has no zoo.json"):
        Zoo(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds models trained on 'digits', not 'cifar10'"):
        Zoo.create(zoo.path, data="cifar10")
    with pytest.raises(InputError, match="Model ids occur twice"):
        zoo.append("c", SHAPES["small"], rows("a", 3), *stack(SHAPES["small"], 3))
    with pytest.raises(InputError, match="no plain folder name"):
        zoo.append("../c", SHAPES["small"], rows("c", 3), *stack(SHAPES["small"], 3))
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match="Cannot write the zoo .* Choose a folder that you may write to"):
        Zoo.create(file / "zoo", data="digits")
    (zoo.path / "zoo.json").write_text(json.dumps({"format": "mdjax-zoo", "version": 99}))
    with pytest.raises(InputError, match="version 99, but this mdjax reads"):
        Zoo(zoo.path)
    (zoo.path / "zoo.json").write_text("{")
    with pytest.raises(InputError, match="Cannot read"):
        Zoo(zoo.path)
