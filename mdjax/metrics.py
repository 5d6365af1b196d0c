"""The metrics: frozen settings with what they measure on one model or pair, and the names of their columns.

A metric sees one model; the engine adds the model axis, compiles and shards. Each metric comes in two halves:
`measure` (or `inputs` and `features`) is traced by JAX and returns arrays, `columns` (or `compare`) turns them into
numbers on the host in float64. To add one, write a frozen dataclass with these and put it into `METRICS`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mdjax import curves, losses
from mdjax.curvature import hessian_matvec
from mdjax.curves import CurveSettings
from mdjax.errors import InputError
from mdjax.krylov import lanczos, ritz_pairs
from mdjax.models import Model
from mdjax.similarity import linear_cka
from mdjax.trace import deflated_trace

PyTree = Any
Raw = Mapping[str, Any]


class Examples(NamedTuple):
    """The data a model is measured on: its own training examples are the first `num_train` of the train arrays."""

    x_train: jax.Array
    y_train: jax.Array
    num_train: jax.Array
    x_test: jax.Array
    y_test: jax.Array


@dataclasses.dataclass(frozen=True)
class Losses:
    """Train and test loss (nats) and error (percent). Cost: one forward pass over all data."""

    name: ClassVar[str] = "losses"
    scope: ClassVar[str] = "model"

    def measure(self, model: Model, params: PyTree, state: PyTree, data: Examples, key: jax.Array) -> Raw:
        train_loss, train_error = losses.evaluate(model, params, state, data.x_train, data.y_train, data.num_train)
        test_loss, test_error = losses.evaluate(model, params, state, data.x_test, data.y_test, len(data.x_test))
        return {
            "train_loss": train_loss,
            "train_error": train_error,
            "test_loss": test_loss,
            "test_error": test_error,
        }

    def columns(self, raw: Raw) -> dict[str, Any]:
        return {name: float(value) for name, value in raw.items()}


@dataclasses.dataclass(frozen=True)
class Hessian:
    """Largest eigenvalue and trace of the Hessian of the mean training loss, from one Krylov run.

    The same first `num_samples` training examples for every model (all, where it has fewer), stored statistics,
    no weight decay. Lanczos takes at least `min_steps` products and goes on until the top eigenvalue's relative
    residual is `tolerance` (its relative error is then about the square of that); its basis deflates the trace,
    which is sampled until its standard error is `trace_tolerance` of it.
    Cost: 23–62 products for half of the demo's networks, `max_steps + max_probes` at most.
    """

    name: ClassVar[str] = "hessian"
    scope: ClassVar[str] = "model"

    num_samples: int = 1024
    min_steps: int = 10
    max_steps: int = 40
    tolerance: float = 1e-3
    min_probes: int = 10
    max_probes: int = 100
    trace_tolerance: float = 0.02
    batch_size: int = 256

    def measure(self, model: Model, params: PyTree, state: PyTree, data: Examples, key: jax.Array) -> Raw:
        matvec, size = self.matvec(model, params, state, data)
        start_key, probe_key = jax.random.split(key)
        krylov = lanczos(
            matvec,
            jax.random.normal(start_key, (size,)),
            min_steps=self.min_steps,
            max_steps=self.max_steps,
            tolerance=self.tolerance,
        )
        trace = deflated_trace(
            matvec,
            krylov.basis,
            jnp.sum(krylov.alpha),
            probe_key,
            min_probes=self.min_probes,
            max_probes=self.max_probes,
            tolerance=self.trace_tolerance,
        )
        return {
            "alpha": krylov.alpha,
            "beta": krylov.beta,
            "num_steps": krylov.num_steps,
            "trace": trace.estimate.value,
            "trace_se": trace.estimate.standard_error,
            "num_probes": trace.num_products,
        }

    def matvec(self, model: Model, params: PyTree, state: PyTree, data: Examples):
        """The Hessian-vector product this metric uses, and the number of parameters."""
        total = min(self.num_samples, len(data.x_train))
        size = min(self.batch_size, total)
        num_batches = -(-total // size)
        count = jnp.minimum(data.num_train, total)
        inputs, weights = losses.slice_batch(data.x_train, jnp.zeros((), int), count, num_batches * size)
        labels, _ = losses.slice_batch(data.y_train, jnp.zeros((), int), count, num_batches * size)

        def contribution(params: PyTree, batch: PyTree) -> jax.Array:
            x, y, weights = batch
            return jnp.sum(weights * losses.cross_entropy(model.apply(params, state, x), y)) / count

        batches = jax.tree.map(lambda leaf: leaf.reshape(num_batches, size, *leaf.shape[1:]), (inputs, labels, weights))
        return hessian_matvec(contribution, params, batches)

    def columns(self, raw: Raw) -> dict[str, Any]:
        ritz = ritz_pairs(raw["alpha"], raw["beta"], int(raw["num_steps"]))
        top, residual = ritz.values[-1], ritz.residuals[-1]
        columns = {
            "hessian_eigenvalue": float(top),
            "hessian_eigenvalue_residual": float(residual),
            "hessian_trace": float(raw["trace"]),
            "hessian_trace_se": float(raw["trace_se"]),
            "hessian_products": int(raw["num_steps"]) + int(raw["num_probes"]),
        }
        if residual > 10 * self.tolerance * abs(top):
            columns["status"] = f"hessian eigenvalue not converged after {int(raw['num_steps'])} products"
        return columns


@dataclasses.dataclass(frozen=True)
class ModeConnectivity:
    """Barrier and peak of training error along a trained Bézier curve between two models, in percent.

    With e the errors at `num_points` equally spaced t (ends included, BatchNorm re-estimated at each) and c the
    mean of the two ends: `mode_connectivity` = c − e[u] at the inner u where |e − c| is largest, and
    `mode_connectivity_peak` = −max of the inner errors, nothing subtracted. Loss and error along the curve are
    kept, so that any other definition can be computed from the table.
    """

    name: ClassVar[str] = "mode_connectivity"
    scope: ClassVar[str] = "pair"

    settings: CurveSettings = CurveSettings()
    num_points: int = 9
    pairs: Literal["disjoint", "first", "all"] = "disjoint"

    def measure(
        self, model: Model, params: PyTree, state: PyTree, other: PyTree, data: Examples, key: jax.Array
    ) -> Raw:
        arrays = (data.x_train, data.y_train, data.num_train)
        kind = self.settings.kind
        bends = curves.train_bends(model, self.settings, params, other, state, *arrays, key)
        points = jnp.linspace(0.0, 1.0, self.num_points)
        loss, error = curves.evaluate_curve(model, kind, params, bends, other, state, *arrays, points=points)
        return {"curve_t": points, "curve_loss": loss, "curve_error": error}

    def columns(self, raw: Raw) -> dict[str, Any]:
        error = np.asarray(raw["curve_error"], np.float64)
        center = (error[0] + error[-1]) / 2
        inner = error[1:-1]
        columns: dict[str, Any] = {name: np.asarray(raw[name], np.float64).tolist() for name in raw}
        if not np.isfinite(error).all():
            return {
                **columns,
                "mode_connectivity": np.nan,
                "mode_connectivity_peak": np.nan,
                "status": "curve diverged",
            }
        furthest = inner[np.argmax(np.abs(inner - center))]
        # 0.0 − x rather than −x: no minus sign on a zero.
        return {
            **columns,
            "mode_connectivity": float(center - furthest),
            "mode_connectivity_peak": float(0.0 - inner.max()),
        }


@dataclasses.dataclass(frozen=True)
class CKA:
    """Linear CKA of the softmax outputs of every two models of a configuration, on mixed-up training inputs.

    Inputs: `num_batches` × `batch_size` training examples, each batch mixed with a permutation of itself by one
    λ ~ Beta(16, 16); drawn once for a data set, so the same for all models and both of a pair. Cost: one forward
    pass a model.
    """

    name: ClassVar[str] = "cka"
    scope: ClassVar[str] = "features"

    num_batches: int = 5
    batch_size: int = 128
    mixup: float = 16.0

    def features(self, model: Model, params: PyTree, state: PyTree, inputs: jax.Array) -> jax.Array:
        logits = jax.lax.map(lambda x: model.apply(params, state, x), inputs)
        return jax.nn.softmax(logits.reshape(-1, logits.shape[-1]))

    def inputs(self, data: Examples, key: jax.Array) -> jax.Array:
        """The mixed-up inputs [batches, batch, ...]; fewer examples than needed are repeated."""
        order_key, mix_key, share_key = jax.random.split(key, 3)
        size = len(data.x_train)
        ranks = jnp.where(jnp.arange(size) < data.num_train, jax.random.uniform(order_key, (size,)), jnp.inf)
        wanted = jnp.arange(self.num_batches * self.batch_size) % data.num_train
        index = jnp.argsort(ranks)[wanted].reshape(self.num_batches, self.batch_size)
        partner = jax.vmap(jax.random.permutation)(jax.random.split(mix_key, self.num_batches), index)
        share = jax.random.beta(share_key, self.mixup, self.mixup, (self.num_batches, 1))
        share = share.reshape(-1, *[1] * data.x_train.ndim)
        return share * data.x_train[index] + (1 - share) * data.x_train[partner]

    def compare(self, features: np.ndarray, other: np.ndarray) -> dict[str, Any]:
        value = linear_cka(features, other)
        if np.isnan(value) and np.isfinite(features).all() and np.isfinite(other).all():
            return {"CKA": value, "status": "CKA is undefined: a model answers the same to every input"}
        return {"CKA": value}


Metric = Losses | Hessian | ModeConnectivity | CKA

METRICS: tuple[type[Metric], ...] = (Losses, Hessian, ModeConnectivity, CKA)
"""The only registry: everything that `mdjax measure --metrics` accepts."""

_FAST = (
    Losses(),
    Hessian(num_samples=256, tolerance=1e-2, max_steps=20, trace_tolerance=0.05, max_probes=40),
    ModeConnectivity(CurveSettings(num_steps=150), num_points=5, pairs="first"),
    CKA(num_batches=2),
)

PRESETS: dict[str, tuple[Metric, ...]] = {"default": tuple(metric() for metric in METRICS), "fast": _FAST}
"""Preset → metrics with their settings. `fast` takes a quarter of the samples and about a third of the steps."""


def select(preset: str = "default", names: str | list[str] | None = None) -> tuple[Metric, ...]:
    """The metrics of a preset, or those of them that are named; InputError for an unknown preset or metric."""
    if preset not in PRESETS:
        raise InputError(f"Unknown preset {preset!r}. Choose one of {', '.join(PRESETS)}.")
    metrics = PRESETS[preset]
    if names is None:
        return metrics
    wanted = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    known = {metric.name: metric for metric in metrics}
    for name in wanted:
        if name not in known:
            raise InputError(f"Unknown metric {name!r}. Choose from {', '.join(known)}.")
    return tuple(metric for metric in metrics if metric.name in wanted)
