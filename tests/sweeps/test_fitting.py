"""Inputs whose layout nobody gave are read as the models read them; losses as PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdjax
from mdjax.errors import InputError
from mdjax.zoo.grids import Grid
from mdjax.zoo.store import Zoo

RANDOM = np.random.RandomState(0)
Y = np.arange(40) % 3
SIGNALS = RANDOM.randn(40, 2, 6).astype("f4")
WORDS = RANDOM.randint(0, 20, (40, 7))


NAMES = ("x_train", "y_train", "x_test", "y_test")


def split(inputs):
    return inputs, Y, inputs[:9], Y[:9]


def named(inputs, **more):
    return dict(zip(NAMES, split(inputs), strict=True)) | more


def losses(params, apply, data, **options):
    table = mdjax.measure([(params, {})], model=apply, data=data, metrics="losses", show_progress=False, **options)
    assert (table.models["status_code"] == "ok").all()
    return table.models["train_loss"][0]


def cross_entropy(logits):
    shifted = logits - logits.max(1, keepdims=True)
    return float(np.mean(np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(Y)), Y]))


HEAD = RANDOM.randn(4, 3).astype("f4")
TABLE = RANDOM.randn(20, 4).astype("f4")
MIX = RANDOM.randn(6, 4).astype("f4")


def mean_of_steps(params, state, inputs):
    """A network of sequences [b, length, 6]."""
    assert inputs.ndim == 3
    return jnp.tanh(inputs @ params["mix"]).mean(1) @ params["head"]


def mean_of_words(params, state, inputs):
    """A network of tokens [b, length]."""
    return params["table"][inputs].mean(1) @ params["head"]


def flat(params, state, inputs):
    """A network of anything, flattened: it reads every layout."""
    return inputs.reshape(len(inputs), -1) @ params["w"]


@pytest.mark.parametrize("form", ["arrays", "npz"])
@pytest.mark.parametrize(
    ("inputs", "apply", "params", "expected"),
    [
        (SIGNALS, mean_of_steps, {"mix": MIX, "head": HEAD}, np.tanh(SIGNALS.astype("f8") @ MIX).mean(1) @ HEAD),
        (WORDS, mean_of_words, {"table": TABLE, "head": HEAD}, TABLE.astype("f8")[WORDS].mean(1) @ HEAD),
        (WORDS.astype("u1"), mean_of_words, {"table": TABLE, "head": HEAD}, TABLE.astype("f8")[WORDS].mean(1) @ HEAD),
    ],
)
def test_the_model_says_what_the_inputs_are(inputs, apply, params, expected, form, tmp_path, capsys):
    data = split(inputs)
    if form == "npz":
        np.savez(tmp_path / "own.npz", **named(inputs))
        data = tmp_path / "own.npz"
    assert losses(params, apply, data) == pytest.approx(cross_entropy(expected), rel=1e-5)
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("inputs", "used", "layouts", "message"),
    [
        (SIGNALS, SIGNALS, ("nhwc", "features"), "[2, 6] each, were read as images of one channel, [2, 6, 1]"),
        (WORDS.astype("u1"), None, ("features",), "uint8 [7] each, were read as pixels and standardised"),
        (WORDS, WORDS, ("tokens",), "whole numbers [7] each, were read as tokens"),
    ],
)
def test_what_is_assumed_is_said_where_the_model_takes_both(inputs, used, layouts, message, capsys):
    used = (WORDS - WORDS.mean()) / WORDS.std() if used is None else used
    weights = {"w": RANDOM.randn(inputs[0].size, 3).astype("f4") / 9}
    expected = cross_entropy(used.reshape(len(used), -1).astype("f8") @ weights["w"])
    assert losses(weights, flat, split(inputs)) == pytest.approx(expected, rel=1e-5)
    told = " ".join(capsys.readouterr().err.split())
    assert message in told and "The model would take them otherwise, too: say which by layout" in told
    for layout in layouts:
        assert losses(weights, flat, split(inputs), layout=layout) == pytest.approx(expected, rel=1e-5)
    assert "warning" not in capsys.readouterr().err


def test_tokens_for_a_network_of_numbers_are_other_numbers():
    weights = {"w": RANDOM.randn(7, 3).astype("f4") / 9}
    expected = cross_entropy(WORDS.astype("f8") @ weights["w"])
    assert losses(weights, flat, split(WORDS.astype("u1")), layout="tokens") == pytest.approx(expected, rel=1e-5)


def test_what_no_reading_fits_says_what_was_tried():
    with pytest.raises(
        InputError, match=r"Cannot call the model on inputs float32\[2, 2, 6, 1\].* were read as images"
    ):
        losses({"w": np.ones((5, 3), "f4")}, lambda p, s, x: x @ p["w"], split(SIGNALS))


GRID = Grid(family="mlp", width=(2,), batch_size=(8,), epochs=1, seeds=1)


def test_a_zoo_is_trained_and_measured_on_arrays(tmp_path):
    images = RANDOM.randn(40, 5, 4).astype("f4")
    zoo = mdjax.train(GRID, tmp_path / "zoo", dataset=split(images), show_progress=False)
    assert set(zoo.manifest["input_shape"]) == {"5x4x1"}
    table = mdjax.measure(zoo, data=named(images), metrics="losses")
    assert table.models["train_loss"].notna().all()
    for data in (split(WORDS), named(WORDS)):
        with pytest.raises(InputError, match="inputs of data are int32.n, 7., but the networks of a grid read floats"):
            mdjax.train(GRID, tmp_path / "words", dataset=data)


def test_a_zoo_whose_models_read_no_channel_gets_none(tmp_path):
    from mdjax.models import Architecture

    architecture = Architecture("mlp", 2, (2, 6), 3, 0)
    params, state = jax.tree.map(lambda leaf: leaf[None], architecture.init(jax.random.key(0)))
    zoo = Zoo.create(tmp_path / "zoo", data="own")
    zoo.append("g", architecture, [{"model_id": "a", "configuration": "c", "seed": 0}], params, state)
    found = mdjax.measure(zoo, data=split(SIGNALS), metrics="losses").models["train_loss"][0]
    logits = architecture.model().apply(*jax.tree.map(lambda leaf: leaf[0], (params, state)), SIGNALS)
    assert found == pytest.approx(cross_entropy(np.asarray(logits, "f8")), rel=1e-5)
    words = named(WORDS[:, :6].repeat(2, axis=1).reshape(40, 2, 6), layout="tokens")
    with pytest.raises(InputError, match="The zoo's models read floats, but the inputs of data are int32.n, [0-9]+"):
        mdjax.measure(zoo, data=words, metrics="losses")


def test_a_grid_keeps_the_layout_of_its_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = RANDOM.randn(40, 3, 6, 5).astype("f4")
    np.savez("own.npz", **named(x))
    zoo = mdjax.train(Grid(data="nchw:own.npz", width=(2,), batch_size=(8,), epochs=1, seeds=1), tmp_path / "zoo")
    assert zoo.data == f"nchw:{tmp_path / 'own.npz'}" and set(zoo.manifest["input_shape"]) == {"6x5x3"}
    assert mdjax.measure(zoo, metrics="losses").models["train_loss"].notna().all()
    assert mdjax.measure(zoo, data="own.npz", layout="nchw", metrics="losses").models["train_loss"].notna().all()
    with pytest.raises(InputError, match="read inputs of shape"):
        mdjax.measure(zoo, data="own.npz", layout="nhwc", metrics="losses")
