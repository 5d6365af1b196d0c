"""Facts of models given in Python: they reach the table and the diagnosis, and wrong ones are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import mdjax
from mdjax.errors import InputError
from mdjax.memory import ProcessMemory
from mdjax.sweeps import previews
from mdjax.sweeps.facts import KNOWN, checked_facts
from mdjax.zoo.data import Dataset

RANDOM = np.random.RandomState(0)
X, Y = RANDOM.randn(60, 5).astype("f4"), (np.arange(60) % 3).astype("i4")
DATA = Dataset("d", X, Y, X[:9], Y[:9], 3)
MODELS = [({"w": RANDOM.randn(5, 3).astype("f4")}, {}) for _ in range(3)]
FACTS = {"width": 16, "batch_size": 64, "data_share": 0.5, "learning_rate": 0.1}


def logits(params, state, inputs):
    return jnp.tanh(inputs) @ params["w"]


def measured(data=DATA, metrics="losses,hessian", **options):
    return mdjax.measure(
        MODELS, model=logits, data=data, metrics=metrics, preset="fast", show_progress=False, **options
    )


def test_facts_stand_in_the_table_and_the_data_share_counts():
    given = measured(facts=FACTS)
    row = given.configurations.iloc[0]
    assert {name: row[name] for name in FACTS} == FACTS
    assert (row["bs"], row["data"], row["data_amount"]) == (64, 5, 30)
    assert row["configuration"] == "given-width16-batch_size64-data_share0.5-learning_rate0.1"
    half = measured(Dataset("half", X[:30], Y[:30], X[:9], Y[:9], 3)).configurations.iloc[0]
    for name in ("train_loss", "train_error", "test_error", "hessian_t"):
        np.testing.assert_allclose(row[name], half[name], rtol=1e-6)
    assert measured().configurations["train_loss"].iloc[0] != pytest.approx(row["train_loss"])


def test_the_diagnosis_knows_the_width_that_was_given():
    narrow, wide, unknown = (
        mdjax.diagnose(measured(facts=facts).configurations).iloc[0] for facts in ({"width": 16}, {"width": 32}, None)
    )
    assert narrow["data_status"] == "not asked: width below 32" and narrow["data_answer"] is None
    assert wide["data_status"] == "ok" and wide["data_answer"] is not None
    assert unknown["data_status"].startswith("asked although the width is not known")
    assert unknown["data_answer"] == wide["data_answer"]
    assert unknown["data_probability"] == pytest.approx(wide["data_probability"])


def test_tables_of_given_models_join_to_a_sweep():
    from mdjax.diagnosis import own_sweep

    parts = [
        measured(metrics="losses", facts={"width": width, "batch_size": size, "epochs": 3}).configurations
        for width in (4, 8)
        for size in (16, 32)
    ]
    table = pd.concat(parts, ignore_index=True)
    assert table["configuration"].is_unique
    sweep = own_sweep(table.assign(test_error=[30.0, 20.0, 10.0, 15.0], test_acc=[70.0, 80.0, 90.0, 85.0])).sweep
    assert sweep is not None
    assert sweep.columns()["gain_width"].tolist() == [20, 5, 0, 0]


def test_a_plan_takes_facts_too_and_tells_what_the_process_takes(monkeypatch):
    monkeypatch.setattr(previews, "process_memory", lambda: ProcessMemory(10**9, 10**9 + 5))
    plan = previews.preview(MODELS, model=logits, data=DATA, metrics="losses", preset="fast", facts=FACTS)
    assert plan["members"].tolist() == [3]
    data = sum(array.nbytes for array in (DATA.x_train, DATA.y_train, DATA.x_test, DATA.y_test)) + 4  # how many count
    unit = sum(leaf.nbytes for leaf in jax.tree.leaves(MODELS))
    # The data is there already; the models that are loaded together come to it, and the call.
    assert plan["process_memory"][0] == 10**9 + unit + plan["memory"][0] - data


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"widht": 16}, r"Unknown fact 'widht'\. Give some of width, depth, batch_size, data_share, label_noise"),
        ({"width": "16"}, r"width is '16'\. Give a whole number of at least 1"),
        ({"width": 1.5}, r"width is 1\.5\. Give a whole number"),
        ({"batch_size": True}, "batch_size is True"),
        ({"data_share": 1.5}, r"data_share is 1\.5\. Give a number from 0 to 1"),
        ({"data_share": 0}, r"data_share is 0\. Give a fraction above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"label_noise": -0.1}, r"label_noise is -0\.1"),
        ([("width", 16)], "Give a dictionary"),
    ],
)
def test_wrong_facts_are_refused(facts, message):
    with pytest.raises(InputError, match=message):
        measured(facts=facts)


def test_facts_of_a_zoo_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"facts \(width\) were given for a zoo, whose manifest tells them"):
        mdjax.measure(tmp_path, facts={"width": 3})


def test_facts_take_the_types_of_their_columns():
    found = checked_facts({"batch_size": np.int64(64), "width": 16.0, "weight_decay": np.float32(0.5), "momentum": 0})
    assert found == {"width": 16, "batch_size": 64, "momentum": 0.0, "weight_decay": 0.5}
    assert [type(value) for value in found.values()] == [int, int, float, float]
    assert set(found) <= set(KNOWN)
