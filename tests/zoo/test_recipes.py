"""Recipes: optimizers and schedules against PyTorch's, what augmentation does to images, and zoos grown with them."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers import digits, setting

from mdjax.errors import InputError
from mdjax.sweeps.local import measure
from mdjax.zoo.grids import Grid
from mdjax.zoo.recipes import Recipe
from mdjax.zoo.training import architecture_of, train, train_stack


def torch_schedule(recipe, optimizer, steps):
    schedulers = torch.optim.lr_scheduler
    rising = round(recipe.warmup * steps)
    if recipe.schedule == "cosine":
        falling = schedulers.CosineAnnealingLR(optimizer, steps - rising)
    elif recipe.schedule == "step":
        falling = schedulers.MultiStepLR(optimizer, [steps // 2, 3 * steps // 4])
    else:
        falling = schedulers.ConstantLR(optimizer, 1.0)
    if not rising:
        return falling
    warm = schedulers.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / rising))
    return schedulers.SequentialLR(optimizer, [warm, falling], [rising])


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe("adamw"),
        Recipe("adamw", "cosine"),
        Recipe("adamw", "cosine", 0.25),
        Recipe("sgd", "cosine"),
        Recipe("sgd", "step"),
        Recipe("sgd", "constant", 0.5),
    ],
    ids=lambda recipe: recipe.text or "usual",
)
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step:UserWarning")
def test_training_is_torchs(recipe):
    count = digits().subset_size(0.1)
    # One batch of all examples an epoch: their order does not matter.
    own = setting(
        "mlp", batch_size=count, data_share=0.1, epochs=8, weight_decay=0.1, learning_rate=0.01, recipe=recipe
    )
    params, _ = train_stack([own], digits())
    key = jax.random.fold_in(jax.random.key(own.seed), zlib.crc32(own.model_id.encode()))
    start, _ = architecture_of(own, digits()).init(key)
    names = [("hidden0", "kernel"), ("hidden0", "bias"), ("hidden1", "kernel"), ("hidden1", "bias")]
    names += [("linear", "kernel"), ("linear", "bias")]
    tensors = [torch.tensor(np.asarray(start[layer][leaf]), requires_grad=True) for layer, leaf in names]
    if recipe.optimizer == "adamw":
        optimizer = torch.optim.AdamW(tensors, lr=own.learning_rate, weight_decay=own.weight_decay)
    else:
        optimizer = torch.optim.SGD(tensors, lr=own.learning_rate, momentum=own.momentum, weight_decay=own.weight_decay)
    scheduler = torch_schedule(recipe, optimizer, own.epochs)
    x, y = torch.tensor(digits().x_train[:count]).flatten(1), torch.tensor(digits().y_train[:count]).long()
    for _ in range(own.epochs):
        hidden = torch.relu(torch.relu(x @ tensors[0] + tensors[1]) @ tensors[2] + tensors[3])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(hidden @ tensors[4] + tensors[5], y).backward()
        optimizer.step()
        scheduler.step()
    for (layer, leaf), tensor in zip(names, tensors, strict=True):
        np.testing.assert_allclose(params[layer][leaf][0], tensor.detach(), atol=2e-5, rtol=1e-4)


def test_images_are_flipped_and_shifted_each_on_its_own():
    images = jnp.asarray(np.random.RandomState(0).uniform(1, 2, size=(64, 16, 16, 1)), jnp.float32)
    key = jax.random.key(3)
    np.testing.assert_array_equal(Recipe().augmented(key, images), images)
    flipped = np.asarray(Recipe(augmentation="flip").augmented(key, images))
    same = (flipped == np.asarray(images)).all((1, 2, 3))
    mirrored = (flipped == np.asarray(images)[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 16 < same.sum() < 48
    cropped = np.asarray(Recipe(augmentation="crop").augmented(key, images))
    shifts = set()
    for image, found in zip(np.asarray(images), cropped, strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
        hits = [(i, j) for i in range(5) for j in range(5) if np.array_equal(padded[i : i + 16, j : j + 16], found)]
        assert len(hits) == 1
        shifts.update(hits)
    assert len(shifts) > 12


def test_a_zoo_grown_by_a_recipe_names_it_and_company_decides_nothing(tmp_path):
    recipe = {"optimizer": "adamw", "schedule": "cosine", "warmup": 0.1, "augmentation": "crop"}
    grid = Grid(family="cnn", width=(2,), batch_size=(64,), learning_rate=(0.003,), epochs=2, seeds=2, **recipe)
    zoo = train(grid, tmp_path / "zoo", show_progress=False)
    assert zoo.manifest[list(recipe)].drop_duplicates().to_dict("records") == [recipe]
    table = measure(zoo, metrics="losses", preset="fast", show_progress=False)
    assert table.configurations[list(recipe)].to_dict("records") == [recipe]
    alone, _ = train_stack(grid.settings()[1:], digits())
    together = zoo.read_group(zoo.groups[0])[0]
    jax.tree.map(lambda one, both: np.testing.assert_allclose(one[0], both[1], atol=2e-5, rtol=2e-5), alone, together)


def test_what_is_no_image_is_not_augmented(tmp_path):
    x, y = np.zeros((40, 5), np.float32), np.arange(40) % 2
    with pytest.raises(InputError, match="augmentation is 'flip', but the inputs have the shape"):
        train(Grid(batch_size=8, seeds=1, augmentation="flip"), tmp_path, dataset=(x, y, x, y))
