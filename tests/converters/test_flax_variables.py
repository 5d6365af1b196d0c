"""What a Flax checkpoint holds besides params and statistics: orders, masks, scales and counters are the file's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, serialization

import converters
import mdjax
from converters.errors import RefusedError
from mdjax.zoo.data import Dataset

INPUTS = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
LABELS = (np.arange(6) % 3).astype(np.int32)
STORED = {
    "order": np.array([4, 2, 0, 1, 3], np.int32),
    "mask": np.array([True, False, True, True, False]),
    "scale": np.array([2.0, 0.5, 1.0, 3.0, -1.0], np.float32),
    "step": np.array(3, np.int32),
}


class Order(nnx.Variable):
    pass


class Nnx(nnx.Module):
    """An order, a mask, a scale and a counter, each a variable of another kind, and one array that is none."""

    def __init__(self, seed: int):
        rngs = nnx.Rngs(seed)
        self.head, self.norm = nnx.Linear(5, 3, rngs=rngs), nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.order, self.mask = Order(jnp.arange(5)), nnx.Variable(jnp.ones(5, bool))
        self.scale, self.step = nnx.Variable(jnp.ones(5)), jnp.asarray(1)

    def __call__(self, inputs):
        hidden = inputs[:, self.order[...]] * self.mask[...] * self.scale[...] / self.step
        return self.norm(self.head(self.dropout(hidden)))


class Linen(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        order = self.variable("constants", "order", jnp.arange, 5)
        mask = self.variable("constants", "mask", jnp.ones, 5, bool)
        scale = self.variable("scales", "scale", jnp.ones, 5)
        step = self.variable("scales", "step", jnp.asarray, 1)
        return nn.Dense(3)(inputs[:, order.value] * mask.value * scale.value / step.value)


def nnx_tree(seed: int, stored=STORED) -> dict:
    return {**nnx.to_pure_dict(nnx.state(Nnx(seed), (nnx.Param, nnx.BatchStat))), **stored}


def linen_tree(seed: int, stored=STORED) -> dict:
    params = Linen().init(jax.random.key(seed), INPUTS)["params"]
    parts = {"constants": ("order", "mask"), "scales": ("scale", "step")}
    return {"params": params, **{part: {name: stored[name] for name in names} for part, names in parts.items()}}


TREES = {"nnx": (nnx_tree, Nnx(7)), "linen": (linen_tree, Linen())}


def save(path, tree):
    path.write_bytes(serialization.msgpack_serialize(jax.tree.map(np.asarray, tree)))
    return path


def expected(kind: str, tree, stored=STORED) -> np.ndarray:
    dense = tree["head"] if kind == "nnx" else tree["params"]["Dense_0"]
    hidden = INPUTS[:, stored["order"]] * stored["mask"] * stored["scale"] / stored["step"]
    logits = hidden @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
    return logits / np.sqrt(1 + 1e-5) if kind == "nnx" else logits


@pytest.mark.parametrize("kind", TREES)
def test_all_variables_are_those_of_the_checkpoint(tmp_path, kind):
    made, module = TREES[kind]
    other = STORED | {"order": np.array([1, 0, 2, 3, 4], np.int32), "step": np.array(5, np.int32)}
    trees = [made(0), made(1, other)]
    paths = [save(tmp_path / str(number), tree) for number, tree in enumerate(trees)]
    model, params, state = converters.from_flax(paths[0], module, INPUTS)
    models = [(params, state), model.arrays(paths[1])]
    for (params, state), tree, stored in zip(models, trees, (STORED, other)):
        np.testing.assert_allclose(model.apply(params, state, INPUTS), expected(kind, tree, stored), atol=1e-6)
        assert {leaf.shape for leaf in jax.tree.leaves(params)} == {(5, 3), (3,)}
    before = jax.tree.map(np.array, models[0][1])
    again = model.batch_apply(*models[0], INPUTS, jnp.ones(6))[1]
    jax.tree.map(np.testing.assert_array_equal, models[0][1], before)
    assert jax.tree.structure(again) == jax.tree.structure(models[0][1])
    data = Dataset("six", INPUTS, LABELS, INPUTS, LABELS, 3)
    table = mdjax.measure(models, model=model, data=data, metrics="losses", show_progress=False)
    for loss, tree, stored in zip(table.models["train_loss"], trees, (STORED, other)):
        scores = np.log(jax.nn.softmax(expected(kind, tree, stored)))
        assert loss == pytest.approx(-scores[np.arange(6), LABELS].mean(), rel=1e-5)


@pytest.mark.parametrize("kind", TREES)
def test_types_are_the_modules_where_nothing_is_lost(tmp_path, kind):
    made, module = TREES[kind]
    stored = STORED | {
        "order": STORED["order"].astype(np.float32),
        "mask": STORED["mask"].astype(np.uint8),
        "scale": np.array([2, 1, 1, 3, -1]),
    }
    path = save(tmp_path / "a", made(0, stored))
    model, params, state = converters.from_flax(path, module, INPUTS)
    fitting = stored | {"order": STORED["order"], "mask": STORED["mask"]}
    np.testing.assert_allclose(model.apply(params, state, INPUTS), expected(kind, made(0), fitting), atol=1e-6)
    for name, array in (("order", np.full(5, 0.5)), ("mask", np.full(5, 2)), ("step", np.array(2**40))):
        with pytest.raises(RefusedError, match=f"{name} (is of type|holds numbers beyond 32 bits)"):
            converters.from_flax(save(tmp_path / "b", made(0, stored | {name: array})), module, INPUTS)


@pytest.mark.parametrize("name", STORED)
def test_a_variable_that_is_not_stored_is_missed(tmp_path, name):
    tree = nnx_tree(0)
    del tree[name]
    with pytest.raises(RefusedError, match=f"it lacks 1 of 10 arrays, first {name}"):
        converters.from_flax(save(tmp_path / "a", tree), Nnx(0), INPUTS)


@pytest.mark.parametrize("kind", TREES)
def test_only_params_need_derivatives(tmp_path, kind):
    made, module = TREES[kind]
    tree = made(0)
    dense = tree["head"] if kind == "nnx" else tree["params"]["Dense_0"]
    dense["bias"] = np.zeros(3, np.int32)
    with pytest.raises(RefusedError, match="bias is int32, which has no derivatives"):
        converters.from_flax(save(tmp_path / "a", tree), module, INPUTS)


class Loop(nnx.Module):
    """A program that is built on how often it repeats a layer."""

    def __init__(self, seed: int, count: int):
        self.hidden, self.head = (nnx.Linear(5, size, rngs=nnx.Rngs(seed)) for size in (5, 3))
        self.count, self.shift = nnx.Variable(jnp.asarray(count)), nnx.Variable(jnp.zeros(5))

    def __call__(self, inputs):
        for _ in range(int(self.count[...])):
            inputs = jnp.tanh(self.hidden(inputs + self.shift[...]))
        return self.head(inputs)


def test_what_the_program_is_built_on_has_to_be_the_modules(tmp_path):
    module = Loop(0, 2)
    module.shift[...] = jnp.ones(5)
    path = save(tmp_path / "a", nnx.to_pure_dict(nnx.state(module)))
    model, params, state = converters.from_flax(path, Loop(1, 2), INPUTS)
    np.testing.assert_allclose(model.apply(params, state, INPUTS), module(INPUTS), atol=1e-6)
    with pytest.raises(RefusedError, match="its array count is not that of the module, whose program depends on it"):
        converters.from_flax(path, Loop(1, 3), INPUTS)


def test_a_module_that_raises_is_refused(tmp_path):
    path = save(tmp_path / "a", nnx_tree(0))
    with pytest.raises(RefusedError, match="its module cannot be run on these arrays and inputs"):
        converters.from_flax(path, Nnx(0), INPUTS[:, :, None].repeat(4, 2))
