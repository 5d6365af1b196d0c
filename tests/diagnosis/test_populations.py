"""Populations: who is outside, what is told of it, and what the published sweeps themselves keep."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from diagnosis_tables import one_row, sweep, zoo

from mdjax.diagnosis.causes import CAUSES, HELD_BACK
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.populations import FEATURES, MAX_ROWS, NUM_NEIGHBOURS, TAIL, Population
from mdjax.diagnosis.quantities import quantity
from mdjax.diagnosis.stages import Stage, populations
from mdjax.diagnosis.trees import load_trees, save_trees
from mdjax.diagnosis.verdicts import diagnose, explain
from mdjax.errors import InputError

# Perceptrons on digits, as the demo grows them: features, and the cause that the trees alone would name.
PERCEPTRONS = {
    # Nothing helps this one by more than 1.5 points.
    "healthy": {"train_error": 0.077, "train_loss": 0.0139, "hessian_t": 3.133, "hessian_e": 1.435}
    | {"mode_connectivity_peak": -1.542, "test_error": 3.27, "num_classes": 10, "width": 16},
    "hot": {"train_error": 9.979, "train_loss": 0.3461, "hessian_t": 2.26, "hessian_e": 0.547}
    | {"mode_connectivity_peak": -8.642, "test_error": 13.1, "num_classes": 10, "width": 32},
    "flat": {"train_error": 0.0, "train_loss": 0.001, "hessian_t": -0.1007, "hessian_e": -2.1373}
    | {"mode_connectivity_peak": 0.0, "test_error": 4.07, "num_classes": 10, "width": 32},
}
INSIDE = {"train_error": 7.186, "train_loss": 0.2097, "hessian_t": 6.357, "hessian_e": 4.042, "width": 16} | {
    "mode_connectivity_peak": -0.1833
}


def without_population(name: str) -> dict[str, MDTree]:
    """The package's trees as files of version 2 hold them."""
    return {
        question: MDTree.from_dict(tree.to_dict() | {"population": None}) for question, tree in load_trees(name).items()
    }


@pytest.mark.parametrize("name", ["shipped", "published"])
@pytest.mark.parametrize("network", PERCEPTRONS)
def test_another_kind_of_network_is_outside(name, network):
    row = one_row(**PERCEPTRONS[network], configuration="net")
    told, verdict = diagnose(row, name).iloc[0], explain(row, name)
    cause, change = HELD_BACK[Stage.OUTSIDE]
    assert (told["stage"], told["cause"], told["recommendation"]) == ("outside", cause, change)
    assert np.isnan([told["probability"], told["gain"], *(told[f"p_{one.key}"] for one in CAUSES)]).all()
    assert (verdict.stage, verdict.cause, verdict.probability, verdict.answers) == ("outside", cause, None, ())
    p_value, furthest, nearest = verdict.stage_evidence
    assert p_value.value is not None and p_value.value <= TAIL
    assert furthest.feature in FEATURES
    assert furthest.value == PERCEPTRONS[network][furthest.feature]
    assert furthest.seen == load_trees(name)["width"].population_.ranges[furthest.feature]
    assert f"of the {NUM_NEIGHBOURS} nearest rows, their own sweep showed: " in nearest.text
    assert all(step.text in verdict.to_text() for step in verdict.stage_evidence)
    json.dumps(verdict.to_dict(), allow_nan=False)
    assert diagnose(row, without_population(name))["stage"].tolist() == ["trees"]


def test_the_trees_alone_were_sure_of_what_they_had_never_seen():
    """A healthy network was told too small, and one at chance too small or too hot; now neither is."""
    healthy = one_row(**PERCEPTRONS["healthy"])
    alone = diagnose(healthy, without_population("shipped")).iloc[0]
    assert alone["cause"] == "model too small"
    assert alone["probability"] > 0.9
    at_chance = one_row(
        train_error=88.0, train_loss=2.31, hessian_t=-0.1, hessian_e=-1.2, mode_connectivity_peak=-89.9, test_error=90.4
    )
    alone = diagnose(at_chance, without_population("shipped")).iloc[0]
    assert alone["cause"] in {cause.meaning for cause in CAUSES}
    assert alone["probability"] >= 0.65
    for name in ("shipped", "published"):
        assert diagnose(healthy, name)["stage"].tolist() == ["outside"]
        assert diagnose(at_chance, name)["stage"].tolist() == ["outside"]  # of how many classes is not known
        assert diagnose(at_chance.assign(num_classes=10), name)["stage"].tolist() == ["chance"]


def test_a_network_inside_is_asked_about_unless_its_classes_are_others():
    assert diagnose(one_row(**INSIDE))["cause"].tolist() == ["temperature too high"]
    ten, hundred = (one_row(**INSIDE, num_classes=number) for number in (10, 100))
    assert diagnose(ten)["stage"].tolist() == ["trees"]
    assert diagnose(hundred)["stage"].tolist() == ["outside"]
    evidence = explain(hundred).stage_evidence
    assert [step.text for step in evidence] == ["num_classes is 100, and 10 in all rows that the trees were grown on"]
    assert diagnose(one_row(**INSIDE, num_classes=10, family="resnet"))["stage"].tolist() == ["trees"]
    assert diagnose(one_row(**INSIDE, family=None))["stage"].tolist() == ["trees"]
    other = explain(one_row(**INSIDE, family="vgg"))
    assert other.stage == "outside"
    assert other.stage_evidence[0].text.startswith("family is vgg, and resnet18 or resnet or ")
    json.dumps(other.to_dict(), allow_nan=False)


def test_values_may_each_have_been_seen_and_not_together():
    row = one_row(**INSIDE | {"hessian_t": 2.5, "hessian_e": 6.5})
    verdict = explain(row)
    assert verdict.stage == "outside"
    furthest = verdict.stage_evidence[1]
    assert furthest.value is not None and furthest.seen is not None
    assert furthest.seen[0] < furthest.value < furthest.seen[1]
    assert "in the nearest rows" in furthest.text
    assert verdict.flags == ()


def test_what_is_missing_does_not_count():
    row = one_row(**INSIDE)
    for name in ("mode_connectivity_peak", "hessian_e"):
        assert diagnose(row.drop(columns=name))["stage"].tolist() == ["trees"]
    # Nor does text in a column that no tree reads.
    assert diagnose(row.assign(test_error="n/a", test_loss="n/a"))["stage"].tolist() == ["trees"]
    flat = one_row(**PERCEPTRONS["flat"])
    assert diagnose(flat.drop(columns="mode_connectivity_peak"))["stage"].tolist() == ["outside"]
    # Of one number alone it cannot be told.
    alone = pd.DataFrame({"train_error": [99.0], "width": [64]})
    assert diagnose(alone)["stage"].tolist() == ["trees"]


def test_coverage_is_what_the_tail_says():
    """A population keeps other rows of its own distribution, and none far from it."""
    table = zoo(2000)
    seen, others = Population.of(table[:1000]), table[1000:]
    found = seen.distances(others)
    assert 0.98 <= np.mean(found.p_value > TAIL) <= 1
    far = others.assign(hessian_t=others["hessian_t"] + 20)
    found = seen.distances(far)
    assert (found.p_value <= TAIL).all()
    assert {seen.features[index] for index in found.furthest} == {"hessian_t"}


@pytest.mark.parametrize(
    "columns",
    [
        FEATURES,
        FEATURES[:6],
        FEATURES[:4],
        ("train_error", "hessian_t", "mode_connectivity_peak"),
        ("train_error", "hessian_t"),
    ],
)
def test_each_published_sweep_covers_the_other(zoos, columns):
    basic, noisy = zoos.values()
    for grown, asked in ((basic, noisy), (noisy, basic)):
        assert np.mean(Population.of(grown).distances(asked[[*columns]]).p_value > TAIL) >= 0.95


def test_published_rows_keep_their_verdicts(zoos):
    for table in zoos.values():
        for name in ("shipped", "published"):
            told = diagnose(table, name)
            assert (told["stage"] == "trees").mean() >= 0.998
            assert set(told["stage"]) <= {"trees", "outside"}
            kept = (told["stage"] == "trees").to_numpy()
            pd.testing.assert_frame_equal(told[kept], diagnose(table, without_population(name))[kept])
            assert set(diagnose(table.assign(num_classes=10), name)["stage"]) <= {"trees", "outside"}


def test_populations_are_small_and_survive_their_file(tmp_path):
    trees = {name: MDTree(name).fit(rows, rows[label]) for name, label, rows in labelled_rows()}
    population = Population.of(zoo(3000), facts={"num_classes": (10,)})
    assert population.values.shape == (MAX_ROWS, len(FEATURES))
    for tree in trees.values():
        tree.population_ = population
    save_trees(trees.values(), tmp_path / "trees.json")
    content = json.loads((tmp_path / "trees.json").read_text())
    assert len(content["populations"]) == 1
    assert [entry["population"] for entry in content["trees"]] == [0, 0]
    loaded = load_trees(tmp_path / "trees.json")
    assert len(populations(loaded)) == 1
    assert populations(loaded)[0].to_dict() == population.to_dict()
    table = sweep(2)
    pd.testing.assert_frame_equal(diagnose(table, loaded), diagnose(table, trees))
    # A file of version 2 has no populations.
    old = {**content, "version": 2}
    del old["populations"]
    for entry in old["trees"]:
        del entry["population"]
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert populations(load_trees(tmp_path / "old.json")) == []
    assert set(diagnose(table, tmp_path / "old.json")["stage"]) == {"trees"}


def labelled_rows():
    table = zoo()
    for name, label in (("optimizer", "bs_failure"), ("width", "width_vs_batch")):
        yield name, label, table[table[label] != "optimal"]


def test_too_little_makes_no_population():
    with pytest.raises(InputError, match=r"has train_error of train_error, train_loss, .*two or more"):
        Population.of(zoo()[["train_error"]])
    with pytest.raises(InputError, match="40 rows have all of train_error, .*100 or more"):
        Population.of(zoo(40))


def test_broken_rows_do_not_count_as_outside():
    table = pd.concat([one_row(**INSIDE)] * 2, ignore_index=True)
    table.loc[1, ["train_error", "train_loss", "hessian_t", "hessian_e"]] = [np.nan, np.inf, np.nan, np.nan]
    found = load_trees()["width"].population_.distances(table)
    assert np.isfinite(found.p_value).tolist() == [True, False]
    assert (found.nearest[1] == -1).all()
    assert quantity("train_error").to_scale(np.array(0.0)) == pytest.approx(np.log(0.05))


def test_the_record_says_that_causes_still_named_are_mostly_right():
    record = json.loads((Path(__file__).parents[2] / "bench" / "results" / "cascade.json").read_text())
    for columns in record["coverage"].values():
        assert min(columns.values()) >= 0.95
    for ways in record["fresh"]["all"].values():
        by_features, trees_alone = ways["by features"], ways["trees alone"]
        assert by_features["right"] / by_features["named"] >= 0.7 > trees_alone["right"] / trees_alone["named"]
        assert ways["as shipped"]["named"] == 0
    for counts in record["published"].values():
        for stages in counts.values():
            assert set(stages) == {"trees", "outside"}
            assert stages["outside"] <= 2
