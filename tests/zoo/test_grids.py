"""Grids: every combination once, and one sentence for each mistake."""

import pytest

from mdjax.errors import InputError
from mdjax.zoo.grids import Grid, load_grid
from mdjax.zoo.recipes import Recipe

GRID = """
data = "digits"
architecture = "cnn"
width = [2, 4]
batch_size = 32
data_share = [0.5, 1]
learning_rate = [0.1, 0.05]
epochs = 3
seeds = 2
"""


def test_a_grid_holds_every_combination_once(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(GRID)
    settings = load_grid(path).settings()
    assert len(settings) == 2 * 2 * 2 * 2
    assert len({setting.model_id for setting in settings}) == 16
    assert len({setting.configuration for setting in settings}) == 8
    assert settings[0].family == "cnn"
    assert settings[0].model_id == "cnn-w2-bs32-data0.5-noise0-lr0.1-m0.9-wd0.0005-e3-s0"
    assert all(isinstance(setting.data_share, float) for setting in settings)


def test_a_recipe_is_part_of_a_configurations_name(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(GRID + 'optimizer = "adamw"\nschedule = "cosine"\nwarmup = 0.1\naugmentation = "flip+crop"\n')
    settings = load_grid(path).settings()
    assert {setting.recipe for setting in settings} == {Recipe("adamw", "cosine", 0.1, "flip+crop")}
    assert (
        settings[0].model_id == "cnn-w2-bs32-data0.5-noise0-lr0.1-m0.9-wd0.0005-e3-adamw-cosine-warmup0.1-flip+crop-s0"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "vgg"}, "architecture is 'vgg'. Choose one of mlp, cnn, resnet18, encoder, decoder."),
        ({"variant": "h4"}, "variant is 'h4', but only encoder and decoder have one here"),
        ({"family": "decoder", "variant": 4}, "variant is 4. Give it as text"),
        ({"family": "decoder", "variant": "heads4"}, "'heads4' is no part of a transformer"),
        ({"width": (0,)}, "width holds 0. Give a whole number of at least 1"),
        ({"width": (2.5,)}, "width holds 2.5. Give a whole number"),
        ({"width": ()}, "width is an empty list"),
        ({"width": (4, 4)}, "width holds a value twice"),
        ({"batch_size": "16"}, "batch_size holds '16'"),
        ({"data_share": 0}, "data_share holds 0"),
        ({"data_share": 1.5}, "data_share holds 1.5. Give a number of at least 0 and at most 1"),
        ({"label_noise": float("nan")}, "label_noise holds nan"),
        ({"seeds": 0}, "seeds is 0"),
        ({"epochs": True}, "epochs is True"),
        ({"optimizer": "adam"}, "optimizer is 'adam'. Choose one of sgd, adamw"),
        ({"schedule": "linear"}, "schedule is 'linear'. Choose one of constant, step, cosine"),
        ({"warmup": 1.0}, "warmup is 1.0. Give a fraction of the training from 0 to below 1"),
        ({"augmentation": True}, "augmentation is True. Choose one of none, flip"),
        ({"optimizer": "adamw", "momentum": 0.5}, "momentum is .*, but adamw has none to set"),
    ],
)
def test_wrong_values_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        Grid(**changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("width = [2", "is not valid TOML"),
        ("widths = 2", "unknown key 'widths'. Known keys are architecture, augmentation, batch_size"),
        ("width = 0", "grid.toml: width holds 0"),
        (None, "Cannot read the grid"),
    ],
)
def test_wrong_files_are_refused(tmp_path, text, message):
    path = tmp_path / "grid.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_grid(path)
