"""Losses over everything that a sample was drawn from are those of all the data, however it is stored."""

import jax.numpy as jnp
import numpy as np
import pytest

import mdjax
from mdjax.errors import InputError
from mdjax.sweeps import streams

RANDOM = np.random.default_rng(0)
CENTRES = RANDOM.normal(size=(3, 5))
Y = RANDOM.integers(0, 3, 900)
X = (CENTRES[Y] + RANDOM.normal(size=(900, 5))).astype("f4")
ARRAYS = X[:700], Y[:700], X[700:], Y[700:]
MODELS = [({"w": CENTRES.T.astype("f4") * size}, {}) for size in (0.3, 1.0)]
ALL = ["losses.num_examples=all"]


def apply(params, state, inputs):
    return inputs @ params["w"]


class Indexed:
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.y)

    def __getitem__(self, row):
        return self.x[row], self.y[row]


def measured(data, **options):
    given = {"metrics": "losses", "show_progress": False, **options}
    return mdjax.measure(MODELS, model=apply, data=data, **given).models.drop(columns="losses_seconds")


@pytest.fixture
def folder(tmp_path):
    for name, array in zip(("x_train", "y_train", "x_test", "y_test"), ARRAYS, strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    return f"features:{tmp_path}"


@pytest.mark.parametrize("options", [{}, {"facts": {"data_share": 0.5, "label_noise": 0.4}, "label_noise": "known"}])
def test_everything_is_gone_through_in_pieces(folder, monkeypatch, options):
    monkeypatch.setattr(streams, "_PIECE", 64 * 20)
    expected = measured(ARRAYS, **options)
    sources = {
        "folder": folder,
        "objects": (Indexed(*ARRAYS[:2]), Indexed(*ARRAYS[2:])),
        "arrays": ARRAYS,
    }
    for kind, source in sources.items():
        found = measured(source, num_examples=100, settings=ALL, **options)
        assert (found["num_examples"] == 100).all(), kind
        for name in expected.columns:
            if expected[name].dtype.kind == "f":
                np.testing.assert_allclose(found[name], expected[name], rtol=2e-5, atol=2e-5, err_msg=f"{kind} {name}")
    sampled = measured(folder, num_examples=100, **options)
    assert (np.abs(sampled["train_loss"] - expected["train_loss"]) < 5 * sampled["train_loss_se"]).all()
    assert (sampled["train_loss"] != expected["train_loss"]).all() and "train_loss_se" not in found


def test_targets_of_other_tasks_are_gone_through_too(folder, monkeypatch):
    monkeypatch.setattr(streams, "_PIECE", 64 * 20)
    numbers = [(X[:, :1] + 0.1 * Y[:, None]).astype("f4")[rows] for rows in (slice(700), slice(700, None))]
    data = ARRAYS[0], numbers[0], ARRAYS[2], numbers[1]
    models = [({"w": jnp.eye(5, 1)}, {})]
    whole, sample = (
        mdjax.measure(models, model=apply, data=data, task="regression", metrics="losses", **options).models.iloc[0]
        for options in ({}, {"num_examples": 50, "settings": ALL})
    )
    for name in ("train_loss", "test_loss"):
        assert sample[name] == pytest.approx(whole[name], rel=1e-5)
    assert sample["num_examples"] == 50


def test_what_is_given_once_is_refused(tmp_path):
    np.savez(tmp_path / "own.npz", **dict(zip(("x_train", "y_train", "x_test", "y_test"), ARRAYS, strict=True)))
    stream = tuple(iter(list(zip(x, y))) for x, y in (ARRAYS[:2], ARRAYS[2:]))
    for source, message in (
        (
            f"features:{tmp_path / 'own.npz'}",
            "losses.num_examples is all, but own cannot be read in pieces: an archive",
        ),
        (stream, "the given train data can only be gone through, not looked up by index. Give a data set that can be"),
    ):
        with pytest.raises(InputError, match=message):
            measured(source, num_examples=9, settings=ALL)
    with pytest.raises(InputError, match="num_examples is 'most'.*Give 'sample' or 'all'"):
        measured(ARRAYS, settings=["losses.num_examples=most"])
