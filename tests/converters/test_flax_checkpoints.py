"""Flax checkpoints: linen and nnx, Orbax and msgpack, give the module's own function, statistics re-estimated."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx, serialization

import converters
import mdjax
from converters.errors import RefusedError
from mdjax.errors import InputError
from mdjax.zoo.data import Dataset

INPUTS = np.random.default_rng(0).normal(size=(6, 8, 8, 1)).astype(np.float32)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, inputs, train: bool = True):
        hidden = nn.Conv(4, (3, 3), strides=2, name="model")(inputs)
        hidden = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(hidden))
        hidden = nn.Dropout(0.5, deterministic=not train)(hidden.mean((1, 2)))
        return nn.Dense(3)(hidden)


class Nnx(nnx.Module):
    def __init__(self, seed: int):
        rngs = nnx.Rngs(seed)
        self.layers = nnx.List([nnx.Conv(1, 4, (3, 3), strides=2, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, inputs):
        hidden = nnx.relu(self.layers[1](self.layers[0](inputs)))
        return self.head(self.dropout(hidden.mean((1, 2))))


def moved(tree, seed: int):
    """Off the initial values, which are alike for every BatchNorm; variances stay positive."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: np.abs(leaf + rng.uniform(0.1, 0.5, leaf.shape)).astype(np.float32), tree)


def linen_variables(seed: int = 0):
    return moved(dict(Linen().init(jax.random.key(seed), INPUTS, train=False)), seed)


def training_state(variables):
    return {"step": np.int32(7), "opt_state": {"0": {"trace": variables["params"]}}, **variables}


def save_orbax(path, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)


def save_manager(path, tree):
    with ocp.CheckpointManager(path.parent / "run") as manager:
        manager.save(3, args=ocp.args.StandardSave(tree))
    (path.parent / "run" / "3").rename(path)


def save_msgpack(path, tree):
    path.write_bytes(serialization.to_bytes(tree))


LINEN = {
    "orbax": (save_orbax, lambda variables: variables),
    "a step of a manager": (save_manager, training_state),
    "msgpack": (save_msgpack, lambda variables: variables),
    "msgpack of a state": (save_msgpack, lambda variables: {"model": training_state(variables), "epoch": 3}),
    "variables called params": (save_msgpack, lambda variables: {"params": variables, "step": 1}),
}


def expected_batch(kernel, bias, scale, shift, weights):
    """Activations, mean and unbiased variance of the first two layers, by hand."""
    out = (
        jax.lax.conv_general_dilated(INPUTS, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias
    )
    kept = np.asarray(out, np.float64)[weights > 0].reshape(-1, 4)
    mean, variance = kept.mean(0), kept.var(0)
    normal = np.maximum((out - mean) / np.sqrt(variance + 1e-5) * scale + shift, 0)
    return normal.mean((1, 2)), mean, kept.var(0, ddof=1)


@pytest.mark.parametrize("how", LINEN)
def test_linen(tmp_path, how):
    save, wrapped = LINEN[how]
    variables = linen_variables()
    save(tmp_path / "checkpoint", wrapped(variables))
    model, params, state = converters.from_flax(tmp_path / "checkpoint", Linen(), INPUTS)
    jax.tree.map(np.testing.assert_array_equal, {"params": params, **state}, variables)
    expected = Linen().apply(variables, INPUTS, train=False)
    np.testing.assert_allclose(model.apply(params, state, INPUTS), expected, atol=1e-6)


def test_linen_params_alone(tmp_path):
    module = nn.Dense(3)
    params = module.init(jax.random.key(0), INPUTS[:, 0, :, 0])["params"]
    save_msgpack(tmp_path / "dense.msgpack", params)
    model, found, state = converters.from_flax(tmp_path / "dense.msgpack", module, INPUTS[:, 0, :, 0])
    assert state == {}
    np.testing.assert_array_equal(found["kernel"], params["kernel"])
    assert model.batch_apply(found, {}, INPUTS[:, 0, :, 0], jnp.ones(6))[1] == {}


@pytest.mark.parametrize("how", ["State in orbax", "dicts in orbax", "msgpack"])
def test_nnx(tmp_path, how):
    module = Nnx(0)
    nnx.update(module, moved(nnx.state(module, (nnx.Param, nnx.BatchStat)), 1))
    state = nnx.state(module)
    if how == "State in orbax":
        save_orbax(tmp_path / "checkpoint", state)
    elif how == "dicts in orbax":
        save_orbax(tmp_path / "checkpoint", nnx.to_pure_dict(state))
    else:
        save_msgpack(tmp_path / "checkpoint", nnx.to_pure_dict(nnx.state(module, (nnx.Param, nnx.BatchStat))))
    other = Nnx(5)
    model, params, statistics = converters.from_flax(tmp_path / "checkpoint", other, INPUTS)
    module.eval()
    np.testing.assert_allclose(model.apply(params, statistics, INPUTS), module(INPUTS), atol=1e-6)
    assert not other.dropout.deterministic  # the given module is left as it was


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_statistics_are_re_estimated(tmp_path, kind):
    weights = np.array([1, 1, 0, 1, 1, 0], np.float32)
    if kind == "linen":
        save_orbax(tmp_path / "checkpoint", linen_variables())
        model, params, state = converters.from_flax(tmp_path / "checkpoint", Linen(), INPUTS)
        first, norm, last = params["model"], params["norm"], params["Dense_0"]
    else:
        save_orbax(tmp_path / "checkpoint", nnx.to_pure_dict(nnx.state(Nnx(0))))
        model, params, state = converters.from_flax(tmp_path / "checkpoint", Nnx(1), INPUTS)
        first, norm, last = params["layers"]["0"], params["layers"]["1"], params["head"]
    logits, found = jax.jit(model.batch_apply)(params, state, INPUTS, weights)
    arrays = first["kernel"], first["bias"], norm["scale"], norm["bias"]
    hidden, mean, variance = expected_batch(*arrays, weights)
    statistics = found["batch_stats"]["norm"] if kind == "linen" else found["layers"]["1"]
    assert jax.tree.structure(found) == jax.tree.structure(state)
    np.testing.assert_allclose(statistics["mean"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(statistics["var"], variance, rtol=1e-5)
    np.testing.assert_allclose(logits, hidden @ last["kernel"] + last["bias"], rtol=1e-5, atol=1e-5)


def test_measured_like_any_other_model(tmp_path):
    models = []
    for seed in range(2):
        save_orbax(tmp_path / str(seed), linen_variables(seed))
    model, *first = converters.from_flax(tmp_path / "0", Linen(), INPUTS)
    models = [tuple(first), model.arrays(tmp_path / "1")]
    labels = np.arange(6, dtype=np.int32) % 3
    data = Dataset("six", INPUTS, labels, INPUTS, labels, 3)
    settings = ["mode_connectivity.settings.num_steps=2", "mode_connectivity.settings.start=random"]
    table = mdjax.measure(models, model=model, data=data, metrics="losses,mode_connectivity", settings=settings)
    assert (table.models["status"] == "ok").all()
    assert np.isfinite(table.pairs["mode_connectivity"]).all()
    scores = np.log(jax.nn.softmax(Linen().apply(linen_variables(1), INPUTS, train=False)))
    assert table.models["train_loss"][1] == pytest.approx(-scores[np.arange(6), labels].mean(), rel=1e-5)


def without(tree, *path):
    tree = dict(tree)
    if len(path) == 1:
        del tree[path[0]]
    else:
        tree[path[0]] = without(tree[path[0]], *path[1:])
    return tree


BAD = {
    "missing": (lambda v: without(v, "params", "norm", "bias"), "it lacks 1 of 8 arrays, first params/norm/bias"),
    "no statistics": (lambda v: without(v, "batch_stats"), "it lacks 2 of 8 arrays, first batch_stats/norm/mean"),
    "left over": (
        lambda v: {**v, "params": {**v["params"], "extra": np.ones(2)}},
        "it has 1 unknown arrays, first params/extra",
    ),
    "shape": (
        lambda v: {**v, "params": {**v["params"], "Dense_0": {"kernel": np.ones((4, 2)), "bias": np.ones(3)}}},
        "its array params/Dense_0/kernel is of shape (4, 2), but (4, 3) was expected",
    ),
    "list": (lambda v: [1.0, 2.0], "it holds a list, not arrays by name"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_content_is_refused(tmp_path, case):
    content, reason = BAD[case]
    tree = content(linen_variables())
    path = tmp_path / "bad.msgpack"
    path.write_bytes(serialization.msgpack_serialize(tree))
    with pytest.raises(RefusedError) as raised:
        converters.from_flax(path, Linen(), INPUTS)
    assert reason in str(raised.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "it cannot be read"), (b"\xc1hello", "it cannot be read"), (None, "no Orbax checkpoint")],
)
def test_unreadable_checkpoints_are_refused(tmp_path, content, reason):
    path = tmp_path / "bad"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(RefusedError, match=reason):
        converters.from_flax(path, Linen(), INPUTS)
    with pytest.raises(RefusedError, match="there is no such file"):
        converters.from_flax(tmp_path / "nothing", Linen(), INPUTS)


def test_what_is_no_flax_module_is_refused(tmp_path):
    with pytest.raises(InputError, match="module is 'function'. Give a Flax module"):
        converters.from_flax(tmp_path, lambda inputs: inputs, INPUTS)


class Own(nn.Module):
    """Statistics of a layer that mdjax knows nothing about."""

    @nn.compact
    def __call__(self, inputs):
        mean = self.variable("batch_stats", "mean", jnp.zeros, 1)
        return nn.Dense(3)((inputs - mean.value).reshape(len(inputs), -1))


def test_unknown_statistics_are_not_re_estimated(tmp_path):
    save_msgpack(tmp_path / "own", Own().init(jax.random.key(0), INPUTS))
    model, params, state = converters.from_flax(tmp_path / "own", Own(), INPUTS)
    assert model.apply(params, state, INPUTS).shape == (6, 3)
    with pytest.raises(RefusedError, match="its statistics mean are not those of a BatchNorm"):
        model.batch_apply(params, state, INPUTS, jnp.ones(6))
