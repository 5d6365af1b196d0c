"""What is measured: models given in Python are held against the data before anything runs."""

import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import trained

import mdjax
from mdjax.errors import InputError
from mdjax.models import FunctionModel
from mdjax.statuses import StatusCode
from mdjax.sweeps.sources import loaded, recent_groups
from mdjax.zoo.data import Dataset
from mdjax.zoo.store import DamagedGroupError, Zoo

RANDOM = np.random.RandomState(0)
X, Y = RANDOM.randn(60, 5).astype("f4"), (np.arange(60) % 3).astype("i4")


def data(labels=Y, num_classes=None):
    return Dataset("d", X, labels, X[:9], labels[:9], int(labels.max()) + 1 if num_classes is None else num_classes)


def weights(outputs=3, **more):
    return [({"w": RANDOM.randn(5, outputs).astype("f4"), **more}, {}) for _ in range(2)]


def logits(params, state, inputs):
    return inputs @ params["w"]


@pytest.mark.parametrize(
    ("models", "function", "labels", "message"),
    [
        (weights(3), logits, Y + 1, "gives 3 outputs, but the labels of d go from 1 to 3 in 4 classes"),
        (weights(3), logits, Y - 1, r"Dataset 'd': y_train holds -1. Number the classes 0, 1"),
        (weights(2), logits, Y, "gives 2 outputs, but the labels of d go from 0 to 2"),
        (weights(1), logits, Y % 2, r"1 output \(a single logit z is the two logits 0 and z\), but the labels"),
        (weights(), lambda p, s, x: logits(p, s, x)[:, 0], Y, r"returns float32\[2\] for inputs float32\[2, 5\] of d"),
        (weights(), lambda p, s, x: (logits(p, s, x), x), Y, "returns a tuple for inputs"),
        (weights(), lambda p, s, x: {"logits": logits(p, s, x)}, Y, r"returns \{logits: float32\[2, 3\]\} for inputs"),
        (weights(), lambda p, s, x: jnp.repeat(logits(p, s, x)[:, None], 5, 1), Y, r"returns float32\[2, 5, 3\]"),
        (weights(), lambda p, s, x: logits(p, s, x).T, Y, r"returns float32\[3, 2\]"),
        (weights(step=np.int32(3)), logits, Y, r"The parameter \['step'\] holds int32.* Put what is not trained into"),
        (weights(mask=np.ones(3, bool)), logits, Y, r"The parameter \['mask'\] holds bool"),
        (weights(), lambda p, s, x: logits(p, s, x).astype(int), Y, r"returns int32\[2, 3\] .* in floating point"),
        (weights(), lambda p, s, x: logits(p, s, x) > 0, Y, r"returns bool\[2, 3\]"),
        ([{"w": X}, {"w": X}], logits, Y, r"Model 0 of the list is 'dict'. Give \(params, state\) for each"),
        ([({}, {}), ({}, {})], logits, Y, "Model 0 of the list has no parameters"),
        ([({"w": X}, {"k": jax.random.key(0)})], logits, Y, r"state\['k'\] of model 0 is .* random keys as"),
        ([({"w": "text"}, {})], logits, Y, r"params\['w'\] of model 0 holds <U4. Give arrays of numbers"),
        (weights(), lambda p, s, x: x @ p["w"].T, Y, "Cannot call the model on inputs float32.*: TypeError"),
        (weights(), lambda p, s, x: p["v"], Y, "Cannot call the model on inputs .*: KeyError"),
    ],
)
@pytest.mark.parametrize("metrics", ["losses", "hessian"])
def test_a_model_that_does_not_fit_the_data_is_refused_in_one_sentence(models, function, labels, message, metrics):
    with pytest.raises(InputError, match=message):
        mdjax.measure(models, model=function, data=data(labels), metrics=metrics)


def test_more_outputs_than_classes_and_whole_numbers_in_the_state_are_fine():
    models = [(params, {"calls": np.int32(0)}) for params, _ in weights(4)]
    table = mdjax.measure(models, model=logits, data=data(), metrics="losses,hessian", preset="fast")
    assert (table.models["status_code"] == "ok").all()


def seeds(family="mlp", count=3):
    architecture, params, state = trained(family)
    return architecture, [jax.tree.map(lambda leaf, i=i: leaf[i], (params, state)) for i in range(count)]


def as_list(folder, architecture, models):
    return models, architecture.model().apply


def as_zoo(folder, architecture, models):
    """A zoo as one written before copies were left out: every file is a seed."""
    zoo = Zoo.create(folder / "zoo", data="digits")
    for number, weights in enumerate(models):
        row = {"model_id": f"model{number}", "configuration": "given", "seed": number}
        zoo.append(f"g{number}", architecture, [row], *jax.tree.map(lambda leaf: leaf[None], weights))
    return zoo, None


@pytest.mark.parametrize("given", [as_list, as_zoo])
def test_equal_weights_are_one_model(tmp_path, given, capsys):
    architecture, (first, second, third) = seeds()
    copied = jax.tree.map(np.copy, first)
    options = {"data": "digits", "metrics": "losses,cka", "preset": "fast", "show_progress": False}
    source, apply = given(tmp_path / "a", architecture, [first, copied, second, third, second])
    table = mdjax.measure(source, model=apply, **options)
    assert table.models["status_code"].tolist() == ["ok", "copy", "ok", "ok", "copy"]
    assert table.models["status"][4] == "a copy of model2: the same weights"
    assert table.models["train_loss"].isna().tolist() == [False, True, False, False, True]
    said = " ".join(capsys.readouterr().err.split())
    assert "count once, not as seeds: model1 is a copy of model0: the same weights; model4 is a copy of model2" in said
    source, apply = given(tmp_path / "b", architecture, [first, second, third])
    expected = mdjax.measure(source, model=apply, **options)
    (row,), (reference,) = (one.configurations.to_dict("records") for one in (table, expected))
    assert row["num_models"] == reference["num_models"] == 3
    assert (row["status_code"], reference["status_code"]) == (StatusCode.COPY, StatusCode.OK)
    for name in ("train_loss", "train_loss_se", "CKA", "CKA_se"):
        np.testing.assert_allclose(row[name], reference[name], rtol=1e-6)
    assert len(table.pairs) == len(expected.pairs)


def test_broken_models_are_no_copies_and_a_worse_status_comes_first(tmp_path):
    architecture, (first, second, _) = seeds()
    broken = jax.tree.map(lambda leaf: leaf * np.nan, first)
    models = [first, broken, broken, first, second]
    table = mdjax.measure(
        models, model=architecture.model().apply, data="digits", metrics="losses", show_progress=False
    )
    assert table.models["status_code"].tolist() == ["ok", "weights_not_finite", "weights_not_finite", "copy", "ok"]
    (row,) = table.configurations.to_dict("records")
    assert (row["num_models"], row["status_code"]) == (4, "weights_not_finite")


def test_a_parameter_of_torch_is_told():
    import torch

    models = [({"w": torch.nn.Parameter(torch.ones(5, 3))}, {})]
    with pytest.raises(
        InputError, match=r"params\['w'\] of model 0 is 'Parameter' and no array of numbers .* Give NumPy"
    ):
        mdjax.measure(models, model=logits, data=data(), metrics="losses")


@pytest.mark.parametrize(("most", "reads"), [(0, "abac"), (39, "abac"), (40, "abc"), (10**6, "abc")])
def test_groups_are_kept_as_far_as_there_is_room_and_let_go_before_the_next_is_read(most, reads):
    alive, done = [], []

    class Weights(np.ndarray):  # which can be referred to weakly
        pass

    def read_group(group):
        assert 40 * sum(reference() is not None for reference in alive) <= most
        done.append(group)
        found = np.zeros(10, np.float32).view(Weights)
        alive.append(weakref.ref(found))
        return {"w": found}, {}

    read = recent_groups(read_group, most_bytes=most)
    for group in "aabbaac":
        read(group)
    assert "".join(done) == reads


def test_models_of_several_groups_stand_in_the_order_of_their_seeds_and_those_of_damaged_ones_are_left_out():
    def read_group(group):
        if group == "damaged":
            raise DamagedGroupError("Group damaged is damaged.")
        return {"w": np.array([[1.0], [2.0]]) + (10 if group == "second" else 0)}, {}

    rows = pd.DataFrame(
        [
            ("e", "c2", 0, "second", 1),
            ("a", "c1", 0, "second", 0),
            ("b", "c1", 1, "damaged", 0),
            ("c", "c1", 2, "first", 1),
            ("d", "c1", 3, "first", 0),
        ],
        columns=["model_id", "configuration", "seed", "group", "position"],
    )
    found = loaded(rows.sort_values(["configuration", "seed"]), FunctionModel(logits), read_group)
    assert found.stack.ids == found.rows["model_id"].tolist() == ["a", "c", "d", "e"]
    assert found.stack.params["w"].ravel().tolist() == [11, 2, 1, 12]
    assert found.problems.keys() == {"b"} and found.problems["b"].code == StatusCode.GROUP_DAMAGED
