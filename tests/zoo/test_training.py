"""Training: the recipe against plain SGD, company, grouping, resuming."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import digits, setting

from mdjax.errors import InputError
from mdjax.landscape.batches import random_order
from mdjax.zoo import training
from mdjax.zoo.grids import Grid
from mdjax.zoo.training import architecture_of, plan_groups, train, train_stack


def weights_of(settings, index):
    params, state = train_stack(settings, digits())
    return jax.tree.map(lambda leaf: leaf[index], (params, state))


def assert_close(tree, other, tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance), tree, other)


@pytest.mark.parametrize("family", ["mlp", "cnn"])
def test_company_decides_nothing(family):
    """Few steps: training is chaotic, and batched products round otherwise."""
    own = setting(family, 1, epochs=1, label_noise=0.2, learning_rate=0.02)
    others = [setting(family, 0, epochs=1), setting(family, 2, epochs=1, learning_rate=0.1)]
    assert_close(weights_of([own], 0), weights_of([others[0], own, others[1]], 1), 2e-5)


def test_one_step_is_sgd_with_momentum_and_weight_decay():
    count = digits().subset_size(0.1)
    # One batch of all examples an epoch: their order does not matter, and the steps can be done by hand.
    own = setting("mlp", 0, batch_size=count, data_share=0.1, epochs=3, weight_decay=0.1, label_noise=0.3)
    trained = weights_of([own], 0)[0]

    architecture = architecture_of(own, digits())
    key = jax.random.fold_in(jax.random.key(own.seed), zlib.crc32(own.model_id.encode()))
    params, _ = architecture.init(key)
    model = architecture.model()
    inputs, labels = jnp.asarray(digits().x_train[:count]), digits().train_labels(0.3)[:count]

    def loss(params):
        scores = jax.nn.log_softmax(model.apply(params, {}, inputs))
        return -scores[jnp.arange(count), labels].mean()

    velocity = jax.tree.map(jnp.zeros_like, params)
    for _ in range(own.epochs):
        gradient = jax.grad(loss)(params)
        velocity = jax.tree.map(lambda v, g, p: own.momentum * v + g + own.weight_decay * p, velocity, gradient, params)
        params = jax.tree.map(lambda p, v: p - own.learning_rate * v, params, velocity)
    assert_close(trained, params, 1e-5)


def test_every_epoch_has_an_order_of_its_own_whichever_call_it_is_in():
    count, size = digits().subset_size(0.1), len(digits().x_train)
    own = setting("mlp", 0, batch_size=count // 2, data_share=0.1, epochs=6, momentum=0.0)
    key = jax.random.fold_in(jax.random.key(own.seed), zlib.crc32(own.model_id.encode()))
    architecture = architecture_of(own, digits())
    params, _ = architecture.init(key)
    model, labels = architecture.model(), digits().train_labels(0.0)

    @jax.jit
    def gradient(params, x, y):
        scores = lambda params: jax.nn.log_softmax(model.apply(params, {}, x))  # noqa: E731
        return jax.grad(lambda params: -scores(params)[jnp.arange(len(y)), y].mean())(params)

    for epoch in range(own.epochs):
        order = random_order(jax.random.fold_in(key, epoch), size, count)
        for batch in np.asarray(order[: count // 2 * 2]).reshape(2, -1):
            found = gradient(params, jnp.asarray(digits().x_train[batch]), jnp.asarray(labels[batch]))
            params = jax.tree.map(lambda p, g: p - own.learning_rate * (g + own.weight_decay * p), params, found)
    assert_close(weights_of([own], 0)[0], params, 1e-4)


def test_no_networks_own_program_sorts_the_examples(monkeypatch):
    made = training.compiled
    sorting = set()

    def looked_at(function, key, *arguments, **options):
        program = made(function, key, *arguments, **options)
        if " sort(" in program.as_text():
            sorting.add(key)
        return program

    monkeypatch.setattr(training, "compiled", looked_at)
    train_stack([setting("mlp", 0, epochs=1)], digits())
    assert sorting == {("orders", len(digits().x_train))}


def test_running_statistics_are_torchs_average():
    count = digits().subset_size(0.1)
    own = setting("resnet10", 0, batch_size=count, data_share=0.1, epochs=1, learning_rate=0.0)
    params, state = weights_of([own], 0)
    model = architecture_of(own, digits()).model()
    _, batch = model.batch_apply(params, state, jnp.asarray(digits().x_train[:count]), jnp.ones(count))
    np.testing.assert_allclose(state["bn1"]["mean"], 0.1 * np.asarray(batch["bn1"]["mean"]), atol=1e-5)
    np.testing.assert_allclose(state["bn1"]["var"], 0.9 + 0.1 * np.asarray(batch["bn1"]["var"]), rtol=1e-4)


def test_training_learns():
    params, state = weights_of([setting("mlp", 0, epochs=30, width=16, data_share=1.0)], 0)
    model = architecture_of(setting("mlp", 0, width=16), digits()).model()
    guess = np.asarray(model.apply(params, state, jnp.asarray(digits().x_test))).argmax(1)
    assert (guess == digits().y_test).mean() > 0.93


def test_a_diverging_model_harms_nobody():
    calm = [setting("mlp", seed, epochs=2) for seed in (0, 1)]
    wild = setting("mlp", 2, epochs=2, learning_rate=1e9)
    with_wild = weights_of([calm[0], wild, calm[1]], 2)
    assert_close(with_wild, weights_of([calm[0], calm[0], calm[1]], 2), 1e-5)
    assert not np.isfinite(weights_of([calm[0], wild, calm[1]], 1)[0]["linear"]["kernel"]).all()


def test_a_permutation_orders_the_first_examples_only():
    order = np.asarray(random_order(jax.random.key(0), 50, jnp.asarray(20)))
    assert sorted(order[:20]) == list(range(20))
    other = np.asarray(random_order(jax.random.key(1), 50, jnp.asarray(20)))
    assert (order[:20] != other[:20]).any()


def test_groups_hold_what_trains_together():
    grid = Grid(width=(2, 4), batch_size=(8, 16), data_share=(0.5, 1.0), learning_rate=(0.1, 0.01), seeds=40)
    groups = plan_groups(grid.settings(), digits())
    assert sum(map(len, groups.values())) == len(grid.settings())
    assert max(map(len, groups.values())) <= training.MAX_STACK
    for settings in groups.values():
        assert len({(s.width, s.batch_size, s.data_share) for s in settings}) == 1


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    with pytest.raises(InputError, match="batch_size 256 exceeds the 129 training examples that data_share 0.1"):
        train(Grid(batch_size=256, data_share=0.1), tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()


def test_a_finished_zoo_is_not_trained_again_and_another_grid_is_refused(tmp_path, monkeypatch):
    grid = Grid(width=(2, 3), batch_size=128, epochs=1, seeds=2)
    zoo = train(grid, tmp_path / "zoo")
    assert len(zoo) == 4
    monkeypatch.setattr(training, "train_stack", lambda *_, **__: pytest.fail("trained again"))
    again = train(grid, tmp_path / "zoo")
    assert again.manifest.equals(zoo.manifest)
    with pytest.raises(InputError, match="already holds models of another grid"):
        train(Grid(width=5, batch_size=128, epochs=1), tmp_path / "zoo")


def test_a_grid_may_grow_and_trains_only_what_is_new(tmp_path):
    small = Grid(width=2, batch_size=128, epochs=1, seeds=2)
    grown = Grid(width=2, batch_size=128, epochs=1, seeds=3, label_noise=(0.0, 0.1))
    before = train(small, tmp_path / "zoo").manifest.set_index("model_id")["weights_hash"]
    after = train(grown, tmp_path / "zoo").manifest.set_index("model_id")["weights_hash"]
    assert set(after.index) == {setting.model_id for setting in grown.settings()}
    assert after[before.index].equals(before)


def test_close_settings_stay_apart(tmp_path):
    grid = Grid(
        width=2, batch_size=64, epochs=1, seeds=1, data_share=(0.3333333, 0.33333334), learning_rate=(0.1, 0.10000001)
    )
    assert len(train(grid, tmp_path / "zoo")) == 4


def test_data_that_has_changed_is_refused(tmp_path):
    arrays = {name: getattr(digits(), name) for name in ("x_train", "y_train", "x_test", "y_test")}
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    grid = Grid(data=str(path), width=2, batch_size=128, epochs=1, seeds=1)
    assert train(grid, tmp_path / "zoo").data == str(path)
    np.savez(path, **arrays | {"x_train": arrays["x_train"] + 1})
    with pytest.raises(InputError, match="has changed since the models of the zoo"):
        train(grid, tmp_path / "zoo")
