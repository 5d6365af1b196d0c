"""Small real models, trained once per run, and references computed another way."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from mdjax import engine
from mdjax.engine import Plan, Programs, Stack, device_mesh
from mdjax.linalg.density import Quadrature, binned
from mdjax.metrics import Examples
from mdjax.zoo.data import Dataset, load
from mdjax.zoo.grids import Setting
from mdjax.zoo.training import architecture_of, train_stack

WIDTHS = {"mlp": 4, "cnn": 2, "resnet10": 1, "resnet18": 1}
"""Of the small networks; a ResNet-10 is a ResNet-18 with one block a stage, and compiles in half the time."""


@functools.cache
def forms() -> dict[str, Plan]:
    """Every way the engine can run a metric on three models: results must not depend on it."""
    return {
        "single": Plan("vmap", 1, "patches"),
        "vmap": Plan("vmap", 2, "patches"),  # and in two chunks, the second one padded
        "map": Plan("map", 4, "patches"),
        "sharded over models": Plan("vmap", 1, "patches", device_mesh(8)),
        # Host devices take models one after another whatever is planned.
        "sharded over models and data": Plan("map", 2, "patches", device_mesh("2x4")),
        "sharded over parameters too": Plan("map", 2, "patches", device_mesh("2x2x2")),
    }


@functools.cache
def digits() -> Dataset:
    return load("digits")


def setting(family: str, seed: int = 0, **changes) -> Setting:
    """A quick training run that leaves a model neither random nor perfect."""
    name, depth = ("resnet", 10) if family == "resnet10" else (family, 0)
    fields = {
        "family": name,
        "width": WIDTHS[family],
        "depth": depth,
        "batch_size": 64,
        "data_share": 0.5,
        "label_noise": 0.0,
        "learning_rate": 0.05,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "epochs": 8,
        "seed": seed,
    }
    return Setting(**fields | changes)


@functools.cache
def trained(family: str, num_models: int = 3):
    """(architecture, stacked params, stacked state) of a few seeds."""
    settings = [setting(family, seed) for seed in range(num_models)]
    params, state = train_stack(settings, digits())
    return architecture_of(settings[0], digits()), params, state


def one(stacked, index: int = 0):
    """One model of a stack."""
    return jax.tree.map(lambda leaf: leaf[index], stacked)


def examples(num_train: int | None = None, dataset: Dataset | None = None) -> Examples:
    dataset = dataset or digits()
    count = len(dataset.x_train) if num_train is None else num_train
    arrays = map(jnp.asarray, (dataset.x_train, dataset.y_train, count, dataset.x_test, dataset.y_test))
    return Examples(*arrays)


def measured(metric, model, params, state, data: Examples | None = None, ids=("a", "b", "c"), *, plan=None, **options):
    """The rows of a metric on stacked models; `options` are those of `engine.measure`."""
    stack = Stack(model, params, state, ids)
    return engine.measure(metric, stack, data or examples(), programs=Programs(plan), **options)


def determined(row: dict) -> dict:
    """A row with the density's quadrature by what it determines: its curve, smoothed by a hundredth of its extent.

    Rounding splits eigenvalues that lie together, as those at 0 do, into nodes of other weights, or into fewer.
    """
    if "density_nodes" not in row:
        return row
    nodes, weights = (np.asarray(row[f"density_{name}"])[None] for name in ("nodes", "weights"))
    curve = binned(Quadrature(nodes, weights), num_bins=200, variance=(0.01 * np.ptp(nodes)) ** 2)
    kept = {name: value for name, value in row.items() if name not in ("density_nodes", "density_weights")}
    return kept | {"smoothed_density": curve.density}


def check_alike(row: dict, single: dict, form: str, *, smoothed: float = 1e-5) -> None:
    """A row measured in another form of execution is the single one's, to 1e-5; the smoothed density to `smoothed`."""
    assert row.keys() == single.keys()
    row, expected = determined(row), determined(single)
    for name, value in expected.items():
        if isinstance(value, str) or name.endswith("_layers") or name in ("layers", "status"):
            assert row[name] == value, name
            continue
        scale = np.abs(np.asarray(value, np.float64)).max()
        found, wanted = np.asarray(row[name], np.float64), np.asarray(value, np.float64)
        # A residual is the small difference of large numbers: what counts is its size beside its eigenvalue's.
        if name.endswith("_residual") or name.endswith("_residuals"):
            scale = max(scale, abs(expected.get("hessian_eigenvalue", 0.0)))
        tolerance = smoothed if name == "smoothed_density" else 1e-5
        if name in ("density", "density_se"):
            # Narrow bumps binned on a grid: a node that rounding moves shifts part of its weight to a neighbour.
            tolerance, scale = 1e-3, max(scale, np.abs(expected["density"]).max())
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * scale, err_msg=f"{form}: {name}")


@functools.cache
def dense_hessian(family: str, index: int, num_samples: int) -> np.ndarray:
    """The Hessian of the mean cross-entropy of a trained model, every entry, in float64.

    Column by column from one linearisation of the gradient, batched as matrix products: XLA's own convolutions, whose
    values and derivatives the models' tests compare with these, take minutes here.
    """
    architecture, params, state = trained(family)
    inputs, labels = digits().x_train[:num_samples], jnp.asarray(digits().y_train[:num_samples])
    with jax.enable_x64(True):
        params, state, inputs = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float64), (one(params, index), one(state, index), inputs)
        )
        flat, unravel = ravel_pytree(params)
        model = architecture.model("patches")

        def loss(flat):
            scores = jax.nn.log_softmax(model.apply(unravel(flat), state, inputs))
            return -jnp.mean(scores[jnp.arange(num_samples), labels])

        product = jax.jit(lambda vectors: jax.vmap(jax.linearize(jax.grad(loss), flat)[1])(vectors))
        padded = np.eye(-(-flat.size // 64) * 64, flat.size)
        rows = [np.asarray(product(block)) for block in np.split(padded, len(padded) // 64)]
    return np.concatenate(rows)[: flat.size]
