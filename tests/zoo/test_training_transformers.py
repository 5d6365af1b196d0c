"""Encoders of tokens and of images in a grid, and what cannot be trained so."""

import numpy as np
import pytest

import mdjax
from mdjax.errors import InputError
from mdjax.zoo.data import dataset_of, load
from mdjax.zoo.grids import Grid
from mdjax.zoo.training import train

TRAINING = {"width": 8, "depth": 1, "batch_size": 32, "learning_rate": 0.1, "epochs": 8, "seeds": 1}


def words(num, seed):
    """Tokens [num, 6], and whether half of them are great."""
    x = np.random.default_rng(seed).integers(0, 9, (num, 6))
    return x, ((x >= 5).sum(1) >= 3).astype(int)


TEXT = (*words(256, 0), *words(64, 1))
IMAGES = np.zeros((256, 4, 4, 1), np.float32)
NEXT = (TEXT[0], np.roll(TEXT[0], -1, 1), TEXT[2], np.roll(TEXT[2], -1, 1))


@pytest.fixture(scope="module")
def text_zoo(tmp_path_factory):
    grid = Grid(family="encoder", variant="h2", **TRAINING)
    return train(grid, tmp_path_factory.mktemp("text") / "zoo", dataset=dataset_of(TEXT), show_progress=False)


def test_encoders_read_tokens_and_images(text_zoo, tmp_path):
    grid = Grid(family="encoder", variant="h2 patch4 post", **TRAINING)
    images = train(grid, tmp_path / "zoo", dataset=load("digits"), show_progress=False)
    assert set(images.manifest["variant"]) == {"h2 patch4 post"}
    assert images.manifest["model_id"][0].startswith("encoder-w8-depth1-h2-patch4-post-bs32-data1-")
    assert set(text_zoo.manifest["variant"]) == {"h2 tokens9"}
    for zoo, data in ((text_zoo, TEXT), (images, "digits")):
        found = mdjax.measure(zoo, data=data, metrics="losses", show_progress=False).models.iloc[0]
        assert found["status"] == "ok" and found["train_loss"] < found["chance_loss"]


@pytest.mark.parametrize(
    ("changes", "data", "task", "message"),
    [
        ({"family": "mlp"}, TEXT, None, "the networks of a grid read floats, and an encoder or decoder tokens"),
        ({"family": "decoder"}, TEXT, None, "of the family decoder, but the task of data is classification"),
        ({"family": "encoder"}, NEXT, "next-token", "of the family encoder, but the task of data is next-token"),
        ({"family": "encoder", "variant": "tokens8"}, TEXT, None, "read 8 tokens, but data has 9"),
        ({"family": "decoder"}, (IMAGES, TEXT[0]), "next-token", "or images, and a decoder tokens"),
        ({"family": "encoder"}, (TEXT[0] / 9, TEXT[1]), None, "but an encoder reads tokens or images"),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path, changes, data, task, message):
    with pytest.raises(InputError) as error:
        train(Grid(**TRAINING, **changes), tmp_path / "zoo", dataset=dataset_of(data, task=task), show_progress=False)
    assert message in str(error.value)
    assert not (tmp_path / "zoo").exists()


def test_other_data_than_a_zoos_are_refused(text_zoo):
    more = (TEXT[0] + 1, *TEXT[1:])
    for data, task, message in [
        (more, None, "read 9 tokens, but the inputs of data are int32"),
        ((TEXT[0][:, :5], TEXT[1], TEXT[2][:, :5], TEXT[3]), None, "read inputs of shape (6,)"),
        (NEXT, "next-token", "are of the family encoder, but the task of data is next-token"),
        ((TEXT[0] / 9, TEXT[1], TEXT[2] / 9, TEXT[3]), None, "read 9 tokens, but the inputs of data are float32"),
    ]:
        with pytest.raises(InputError) as error:
            mdjax.measure(text_zoo, data=data, task=task, metrics="losses", show_progress=False)
        assert message in str(error.value)
