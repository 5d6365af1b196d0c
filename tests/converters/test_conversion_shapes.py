"""An input shape that nobody gave stays open until data tells, and the network is the one that was saved."""

import jax
import numpy as np
import pytest
import torch
from torch import nn
from torch_checkpoints import convert
from torch_families import ModelZooCNN

import converters
import mdjax
from mdjax.errors import InputError
from mdjax.models import Architecture, sequence
from mdjax.zoo.store import Zoo, open_shape, shape_on


def data(shape, seed=0):
    random = np.random.RandomState(seed)
    arrays = {f"x_{part}": random.normal(size=(20, *shape)).astype("f4") for part in ("train", "test")}
    return arrays | {f"y_{part}": np.arange(20) % 10 for part in ("train", "test")}


def measured(zoo, path, arrays):
    np.savez(path, **arrays)
    return mdjax.measure(zoo, data=path, metrics="losses", preset="fast", show_progress=False).models


def mlp(numbers):
    return nn.Sequential(nn.Flatten(), nn.Linear(numbers, 5), nn.Tanh(), nn.Linear(5, 10))


CNN_S = ModelZooCNN("CNN-s", 1, "tanh", 0).eval()
CASES = {
    "an MLP of digits": (mlp(64), "64", [(8, 8, 1), (16, 4, 1), (64,)]),
    "an MLP of MNIST": (mlp(784), "784", [(28, 28, 1), (784,)]),
    "an MLP of CIFAR": (mlp(3072), "?x?x3", [(32, 32, 3), (16, 64, 3)]),
    "the ModelZoos' CNN": (CNN_S, "?x?x1", [(28, 28, 1)]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_shape_that_nobody_gave_is_that_of_the_data(tmp_path, name):
    network, text, shapes = CASES[name]
    (tmp_path / "src").mkdir()
    torch.save(network.state_dict(), tmp_path / "src/seed0.pt")
    convert(tmp_path / "src", tmp_path / "zoo", facts={"nonlinearity": "tanh"})
    assert Zoo(tmp_path / "zoo").manifest["input_shape"].tolist() == [text]
    for shape in shapes:
        arrays = data(shape)
        rows = measured(tmp_path / "zoo", tmp_path / "data.npz", arrays)
        images = torch.from_numpy(arrays["x_train"])
        with torch.no_grad():
            logits = network(images.permute(0, 3, 1, 2).contiguous() if images.ndim == 4 else images)
        expected = nn.functional.cross_entropy(logits.double(), torch.arange(20) % 10)
        assert rows["status"].tolist() == ["ok"]
        assert rows["train_loss"].iloc[0] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("an MLP of digits", (8, 8, 2), r"read inputs of shape \(64,\)"),
        ("an MLP of MNIST", (28, 29, 1), r"read inputs of shape \(784,\)"),
        ("an MLP of CIFAR", (3072,), "read images of 3 channels, but the data has inputs of shape"),
        ("an MLP of CIFAR", (16, 16, 3), "have 15425 parameters, but would have 3905 if they read"),
        ("the ModelZoos' CNN", (28, 28, 3), "read images of 1 channels"),
        ("the ModelZoos' CNN", (8, 8, 1), "does not fit"),
        ("the ModelZoos' CNN", (40, 40, 1), "have 2464 parameters"),
    ],
)
def test_data_that_does_not_fit_is_refused(tmp_path, name, shape, message):
    (tmp_path / "src").mkdir()
    torch.save(CASES[name][0].state_dict(), tmp_path / "src/seed0.pt")
    convert(tmp_path / "src", tmp_path / "zoo", facts={"nonlinearity": "tanh"})
    with pytest.raises(InputError, match=message):
        measured(tmp_path / "zoo", tmp_path / "data.npz", data(shape))


@pytest.mark.parametrize(("family", "text"), [("cnn", "?x?x1"), ("mlp", "64")])
def test_seeds_converted_with_and_without_data_are_one_configuration(tmp_path, family, text):
    architecture = Architecture(family, 3, (8, 8, 1))
    (tmp_path / "src").mkdir()
    for seed, options in enumerate([{"data": "digits"}, {}, {"facts": {"input_shape": "8x8x1"}}]):
        state_dict = converters.to_torch(*architecture.init(jax.random.key(seed)), architecture)
        torch.save(dict(state_dict), tmp_path / f"src/seed{seed}.pt")
        convert(tmp_path / "src", tmp_path / "zoo", **options)
    manifest = Zoo(tmp_path / "zoo").manifest.sort_values("seed")
    assert manifest["input_shape"].tolist() == ["8x8x1", text, "8x8x1"]
    table = mdjax.measure(tmp_path / "zoo", metrics="losses", preset="fast", show_progress=False)
    assert table.configurations["num_models"].tolist() == [3]
    assert table.models["status"].tolist() == ["ok"] * 3


def test_what_the_text_of_an_open_shape_says():
    assert open_shape(Architecture("resnet18", 2, (32, 32, 3))) == "?x?x3"
    assert open_shape(Architecture("mlp", 2, (8, 8, 1))) == "64"
    assert open_shape(Architecture("mlp", 2, (8, 8, 3))) == "?x?x3"
    assert open_shape(sequence("conv2k3 flatten dense10", (8, 8, 1))) == "?x?x1"
    assert open_shape(sequence("dense10", (64,))) == "64"
    assert shape_on("8x8x1", (28, 28, 1)) == (8, 8, 1)
    assert shape_on("64", (8, 8, 1)) == (8, 8, 1)
    assert shape_on("64", (8, 9, 1)) == shape_on("64", (4, 4, 4)) == (64,)
    assert shape_on("?x?x3", (5, 6, 3)) == (5, 6, 3)
