"""Growing: trees for single models, and the gains of the answers."""

import numpy as np
from diagnosis_tables import sweep

from mdjax.diagnosis.growing import grow
from mdjax.diagnosis.labels import step_gains
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.verdicts import diagnose, explain


def test_a_table_without_pairs_grows_the_tree_for_single_models(default_trees, tmp_path):
    for table in (sweep().drop(columns="mode_connectivity_peak"), sweep().assign(mode_connectivity_peak=np.nan)):
        tree = grow(table, "optimizer")
        single = default_trees["optimizer"].single_
        assert tree.single
        assert single is not None
        assert tree.to_dict() == single.to_dict()
    tree.save(tmp_path / "tree.json")
    loaded = MDTree.load(tmp_path / "tree.json")
    assert loaded.single
    assert set(diagnose(sweep(1), {"optimizer": loaded})["optimizer_tree"]) == {"single"}


def test_gains_are_those_of_following_the_answers():
    table = sweep()
    tree = grow(table, "width")
    followed = table[tree.predict(table) == "width"]
    gained = step_gains(table, "width").loc[followed.index]
    assert tree.gains_ == {
        "width": {
            "one": round(gained["one"].mean(), 3),
            "best": round(gained["best"].mean(), 3),
            "rows": len(followed),
        }
    }
    trees = {"width": tree}
    verdicts = diagnose(table, trees)
    told = verdicts["cause"] == "model too small"
    assert told.any()
    assert set(verdicts.loc[told, "gain"]) == {tree.gains_["width"]["one"]}
    assert verdicts.loc[~told, ["gain", "gain_best"]].isna().all(axis=None)
    verdict = explain(table[told.to_numpy()].iloc[[0]], trees)
    assert verdict.gain == {step: tree.gains_["width"][step] for step in ("one", "best")}
    assert "points of test accuracy in one step" in verdict.to_text()
    assert grow(table.drop(columns="bs"), "width").gains_ == {}


def test_a_tree_for_single_models_alone_tells_its_gains():
    table = sweep().drop(columns="mode_connectivity_peak")
    tree = grow(table, "width")
    assert tree.single
    verdicts = diagnose(table, {"width": tree})
    told = verdicts["cause"] == "model too small"
    assert told.any()
    assert set(verdicts.loc[told, "gain"]) == {tree.gains_["width"]["one"]}
