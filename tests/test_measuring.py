"""One network as it stands in memory: modules of four libraries and plain functions, printed and drawn."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
import torch
from flax import nnx
from helpers import digits

import mdjax
from mdjax.errors import InputError
from mdjax.models import FunctionModel

matplotlib.use("Agg")

X, Y = digits().x_train[:200], digits().y_train[:200]
TEST = digits().x_test[:60], digits().y_test[:60]
HESSIAN = {"metrics": "losses,hessian", "settings": ["hessian.num_samples=64"], "show_progress": False}


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = True):
        x = nn.Dense(12, name="first")(x.reshape(len(x), -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(10, name="last")(nn.Dropout(0.5, deterministic=not train)(x))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first, self.drop = nnx.Linear(64, 12, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(12, 10, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(nnx.relu(self.first(x.reshape(len(x), -1)))))


class Eqx(eqx.Module):
    layers: list
    drop: eqx.nn.Dropout

    def __init__(self, key):
        first, last = jax.random.split(key)
        self.layers = [eqx.nn.Linear(64, 12, key=first), eqx.nn.Linear(12, 10, key=last)]
        self.drop = eqx.nn.Dropout(0.5)

    def __call__(self, x):
        return self.layers[1](self.drop(jax.nn.relu(self.layers[0](x.ravel()))))


def by_linen():
    module = Linen()
    variables = module.init(jax.random.key(0), X[:1], train=False)
    return (module, variables), module.apply(variables, X, train=False)


def by_nnx():
    module = Nnx(nnx.Rngs(0))
    evaluated = Nnx(nnx.Rngs(0))
    evaluated.eval()
    return (module, None), evaluated(jnp.asarray(X))


def by_equinox():
    module = Eqx(jax.random.key(0))
    return (module, None), jax.vmap(eqx.nn.inference_mode(module))(X)


def by_torch():
    torch.manual_seed(0)
    layers = torch.nn.Flatten(), torch.nn.Linear(64, 12), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Linear(12, 10)
    module = torch.nn.Sequential(*layers)
    module.eval()
    with torch.no_grad():
        logits = module(torch.from_numpy(X.transpose(0, 3, 1, 2).copy())).numpy()
    module.train()
    return (module, None), logits


def linear(params, inputs):
    return inputs.reshape(len(inputs), -1) @ params["w"]


def by_function():
    params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(64, 10)) / 8, jnp.float32)}
    return (linear, params), linear(params, X)


@pytest.mark.parametrize("made", [by_linen, by_nnx, by_equinox, by_torch, by_function])
def test_a_network_is_measured_as_it_stands(made):
    (module, params), logits = made()
    table = mdjax.measure(module, params, (X, Y, *TEST), **HESSIAN)
    row = table.models.iloc[0]
    assert row["status"] == "ok"
    expected = np.asarray(jax.nn.log_softmax(np.asarray(logits, np.float64)))[np.arange(len(Y)), Y]
    assert row["train_loss"] == pytest.approx(-expected.mean(), rel=1e-5)
    assert row["hessian_trace_se"] == 0  # a network of ReLUs

    alone = mdjax.measure(module, params, (X, Y), **{**HESSIAN, "metrics": "losses", "settings": ()})
    assert alone.models["train_loss"][0] == row["train_loss"] and "test_loss" not in alone.models
    assert alone.models["status"][0] == "ok"


def test_layers_of_an_equinox_module_are_its_own(tmp_path):
    settings = ["hessian.num_samples=64", "hessian.by_layer=true", "hessian.layers=layers/*"]
    given = {"metrics": "hessian", "settings": settings, "show_progress": False}
    table = mdjax.measure(Eqx(jax.random.key(0)), None, (X, Y), **given)
    assert table.models["hessian_layers"][0] == ["layers/0", "layers/1"]


def test_an_equinox_module_with_state_of_its_own_is_refused():
    class Normalised(eqx.Module):
        norm: eqx.nn.BatchNorm

        def __call__(self, x):
            return x

    module = Normalised(eqx.nn.BatchNorm(3, "batch", mode="batch"))
    with pytest.raises(InputError, match="Cannot measure the module: it keeps state outside of itself"):
        mdjax.measure(module, None, (X, Y), **HESSIAN)


def test_a_module_reads_the_data_as_they_fit_it():
    """Floats [n, 8, 8] are images of one channel unless the module takes them as sequences."""
    module = nn.Sequential([lambda x: x.mean(1), nn.Dense(10)])
    rows = X[..., 0]
    table = mdjax.measure(module, module.init(jax.random.key(0), rows[:1]), (rows, Y), **HESSIAN)
    assert table.models["status"][0] == "ok"
    any_number = lambda *given: linear(*given)  # noqa: E731
    assert mdjax.measure(any_number, by_function()[0][1], (X, Y), **HESSIAN).models["status"][0] == "ok"


def test_functions_take_a_state_or_none_and_models_are_models():
    params = by_function()[0][1]
    expected = mdjax.measure(linear, params, (X, Y), **HESSIAN).models["train_loss"][0]

    def with_state(params, state, inputs):
        return linear(params, inputs) + state["bias"]

    zero, one = ({"bias": jnp.full(10, value).at[0].set(0)} for value in (0.0, 1.0))
    found = [mdjax.measure(with_state, (params, state), (X, Y), **HESSIAN) for state in (zero, one)]
    assert found[0].models["train_loss"][0] == expected != found[1].models["train_loss"][0]
    model = FunctionModel(lambda params, state, inputs: linear(params, inputs))
    assert mdjax.measure(model, params, (X, Y), **HESSIAN).models["train_loss"][0] == expected
    assert mdjax.measure(model, (params, {}), (X, Y), **HESSIAN).models["train_loss"][0] == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: (Linen(), None, (X, Y)), "A linen module lacks its own weights. Give its variables"),
        (lambda: (Linen(), {"params": {}}, (X, Y)), "The variables are not those of the module.* is missing, but"),
        (lambda: (by_torch()[0][0], {}, (X, Y)), "A torch module holds its own weights. Leave params out."),
        (lambda: (linear, {"w": jnp.ones((64, 10))}, None), "No data to measure on. Give .x, y."),
        (lambda: ("zoo", "digits", None), "params is 'str', beside a zoo or a list of models, which hold their own"),
        (lambda: (3, {"w": jnp.ones((64, 10))}, (X, Y)), "Cannot measure 'int' with params. Give a module"),
        (lambda: (linear, {"w": jnp.ones((64, 10))}, (X, Y[:-1])), "x_train has 200 examples, but y_train has 199"),
    ],
)
def test_what_cannot_be_measured_is_told(given, message):
    with pytest.raises(InputError, match=message):
        mdjax.measure(*given(), **HESSIAN)
    with pytest.raises(InputError, match="model was given beside a network"):
        mdjax.measure(linear, {"w": 1}, (X, Y), model=linear)


@pytest.fixture(scope="module")
def table():
    models = [({"w": by_function()[0][1]["w"] * scale}, {}) for scale in (1, 1.5)]
    metrics = "losses,hessian,density,surface,mode_connectivity,linear_connectivity"
    small = ["hessian.num_samples=64", "hessian.by_layer=true", "hessian.num_smallest=2", "density.num_samples=64"]
    small += ["hessian.num_eigenvalues=3", "density.num_runs=2", "density.num_steps=8", "surface.num_samples=64"]
    small += ["surface.num_points=5", "mode_connectivity.settings.num_steps=5"]

    def apply(params, state, inputs):
        return linear(params, inputs)

    given = {"model": apply, "data": (X, Y, *TEST), "metrics": metrics, "show_progress": False}
    plane = ["surface.num_samples=64", "surface.num_points=5", "surface.dimensions=2"]
    return mdjax.measure(models, settings=small, **given), mdjax.measure(
        models, settings=plane, **{**given, "metrics": "surface"}
    )


def test_a_table_prints_as_a_short_one(table):
    text = repr(table[0])
    assert text.startswith("Table of 2 models, 1 pairs, 1 configurations")
    assert "Hessian trace (ln)" in text and " ± " in text and len(text.splitlines()) < 30
    page = table[0]._repr_html_()
    assert "<table" in page and "Hessian trace (ln)" in page


@pytest.mark.parametrize(
    ("picture", "row", "labels"),
    [
        ("density", 0, ("eigenvalue", "density")),
        ("spectrum", "model1", ("number", "eigenvalue of the hessian")),
        ("layers", 0, ("of the hessian", "")),
        ("surface", -1, ("distance from the model", "loss")),
        ("curve", ("model0", "model1"), ("t", "error (%)")),
    ],
)
def test_pictures(table, picture, row, labels, tmp_path):
    ax = getattr(table[0].plot, picture)(row)
    assert (ax.get_xlabel(), ax.get_ylabel()) == labels
    assert ax.has_data()
    ax.figure.savefig(tmp_path / f"{picture}.png")
    if picture == "curve":
        curve = table[0].pairs.iloc[0]
        np.testing.assert_allclose(ax.lines[0].get_ydata(), curve["curve_error"])


def test_a_plane_is_drawn_as_contours(table, tmp_path):
    ax = table[1].plot.surface(value="error")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("first direction", "second direction")
    ax.figure.savefig(tmp_path / "plane.png")


def test_what_was_not_measured_is_not_drawn(table):
    for draw, message in (
        (table[1].plot.density, "The table has no density_grid. Measure density."),
        (table[1].plot.curve, "The table holds no curve between two models. Measure mode_connectivity or"),
        (lambda: table[0].plot.density(7), "There is no row 7 of 2."),
        (lambda: table[0].plot.density("model7"), "There is no row of model7 in the table."),
        (lambda: table[0].plot.surface(value="size"), "value is 'size'. Draw the loss or the error."),
    ):
        with pytest.raises(InputError, match=message):
            draw()
