"""The Hessian's (or Gauss–Newton matrix's) extreme eigenvalues, trace and Frobenius norm; also as published."""

import dataclasses
import functools
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from mdjax.columns import Feature
from mdjax.errors import InputError
from mdjax.landscape import losses
from mdjax.landscape.batches import LabelledExamples
from mdjax.landscape.curvature import CurvatureMatrix, check_matrix, parameter_groups, restricted
from mdjax.landscape.loss_curvature import finite_parts, loss_curvature
from mdjax.landscape.losses import Loss
from mdjax.linalg.krylov import Krylov, Wanted, block_lanczos, ritz_pairs
from mdjax.linalg.operators import LinearOperator, Matvec
from mdjax.linalg.trace import Sampling, TraceResult, deflated_trace, hutch_pp, hutchinson, xtrace
from mdjax.metrics.contract import Examples, Metric, ModelMetric, PyTree, Raw, Weights
from mdjax.models import Model
from mdjax.models.parameters import Parameters, check_parameters, counted
from mdjax.statuses import Status, StatusCode

TraceMethod = Literal["deflated", "hutchinson", "hutch++", "xtrace"]


_FEATURES = (
    Feature(
        "hessian_e",
        "Top Hessian eigenvalue",
        "ln",
        column="hessian_eigenvalue",
        own_error="hessian_eigenvalue_residual",
        scale="signed_log",
    ),
    Feature(
        "hessian_t", "Hessian trace", "ln", column="hessian_trace", own_error="hessian_trace_se", scale="signed_log"
    ),
)

_UNCERTAIN = 5
"""A trace whose error is this many times what was asked for gets a status."""


def status_with_cause(
    status: Status, model: Model, weights: tuple[Weights, ...], examples: LabelledExamples, loss: Loss
) -> Status:
    """The status of curvature that is not finite, with the cause where the loss itself is finite.

    status: any; others are returned as they are.
    model, weights: the model, as `Metric.explained` has them.
    examples: what the curvature is of.
    loss: of each example.

    Cost: one gradient over the examples, and only for such a status.
    """
    if status.code is not StatusCode.NOT_FINITE:
        return status
    is_finite = finite_parts(model, *weights[0], examples, loss=loss)
    if not is_finite.loss:
        return status
    derivative = "second derivative" if is_finite.gradient else "derivative"
    return status._replace(
        sentence=f"{status.sentence} although the loss is: the network has a function without a {derivative} there "
        "(a norm of a zero vector, sqrt or log at 0)"
    )


@dataclasses.dataclass(frozen=True)
class Hessian(ModelMetric):
    """Extreme eigenvalues, trace and Frobenius norm of the Hessian of the mean training loss.

    The same first `num_samples` training examples for every model, stored statistics, no weight decay, of the
    `parameters` that count: without those that the model names as frozen ("trainable"), "all", or a tuple of paths
    (`mdjax.models.parameters`); the others are constants.

    One block Krylov run, of at least `min_steps` blocks of `block_size` products, goes on until the relative residuals
    of the `num_eigenvalues` largest and `num_smallest` smallest eigenvalues are `tolerance` (an eigenvalue's relative
    error is about the square of that); its basis deflates the trace, which is then sampled in blocks until its standard
    error is `trace_tolerance` of it. `negative_curvature` is minus the smallest Ritz value of the same run as a
    fraction of the largest eigenvalue, 0 where it is positive: there is at least so much. Other trace methods take
    products of their own: `hutch++` sketches with `sketch_size` of them, `xtrace` stops at `num_probes` whatever its
    error is.

    `operator` "gauss_newton" measures that matrix, in columns `gauss_newton_…`; `loss` is any loss of an example.
    `by_layer` adds trace and largest eigenvalue of each top-level module's diagonal block, at the same cost again
    for each. Cost: 28–40 products for three quarters of the demo's networks, block_size·max_steps + max_probes at most,
    an eighth more where the examples make more than four batches of `batch_size` (`mdjax.landscape.curvature`); memory
    (block_size·(max_steps + 8)) times the parameters.
    """

    name: ClassVar[str] = "hessian"
    weight: ClassVar[float] = 60.0
    description: ClassVar[str] = "extreme eigenvalues, trace and Frobenius norm of the Hessian or Gauss–Newton matrix"
    features: ClassVar[tuple[Feature, ...]] = (
        *_FEATURES,
        Feature(
            "negative_curvature",
            "Most negative curvature as a fraction of the largest",
            column="hessian_negative_curvature",
            drawn=False,
        ),
    )
    by_default: ClassVar[bool] = True

    num_samples: int = 1024
    operator: CurvatureMatrix = "hessian"
    num_eigenvalues: int = 1
    num_smallest: int = 0
    block_size: int = 4
    min_steps: int = 5
    max_steps: int = 16
    tolerance: float = 1e-3
    trace_method: TraceMethod = "deflated"
    min_probes: int = 8
    max_probes: int = 100
    trace_tolerance: float = 0.02
    sketch_size: int = 12
    num_probes: int = 24
    batch_size: int = 256
    by_layer: bool = False
    loss: Loss = losses.cross_entropy
    parameters: Parameters = "trainable"

    def __post_init__(self) -> None:
        check_parameters(self.parameters)
        check_matrix(self.operator)
        if self.trace_method not in ("deflated", "hutchinson", "hutch++", "xtrace"):
            raise InputError(
                f"Unknown trace_method {self.trace_method!r}. Choose one of deflated, hutchinson, hutch++, xtrace."
            )
        room = self.block_size * self.max_steps
        if self.num_eigenvalues < 1 or self.num_smallest < 0 or self.num_eigenvalues + self.num_smallest > room:
            raise InputError(
                f"Cannot find {self.num_eigenvalues} largest and {self.num_smallest} smallest eigenvalues among {room} "
                "Krylov vectors. Ask for at least one largest, or raise max_steps."
            )

    @classmethod
    def of_preset(cls, preset: str) -> Metric:
        fast = cls(num_samples=256, tolerance=1e-2, min_steps=4, max_steps=8, trace_tolerance=0.05, max_probes=40)
        return {"reference": PublishedHessian(), "fast": fast}.get(preset, cls())

    def measure(self, model: Model, params: PyTree, state: PyTree, data: Examples, key: jax.Array) -> Raw:
        examples = data.train.first(self.num_samples)
        settings = {"batch_size": self.batch_size, "matrix": self.operator, "loss": self.loss}
        model, params = counted(model, params, self.parameters)
        curvature = loss_curvature(model, params, state, examples, **settings)
        if not self.by_layer:
            return self._spectrum(curvature, key)
        groups = parameter_groups(params)
        # The whole matrix is one more group: the product is compiled once for all of them.
        everything = jnp.ones((1, curvature.size), bool)
        masks = jnp.concatenate([everything, groups.indices == jnp.arange(len(groups.names))[:, None]])
        found = jax.lax.map(lambda mask: self._spectrum(restricted(curvature, mask), key), masks)
        whole = jax.tree.map(lambda leaf: leaf[0], found)
        layers = {f"layer_{name}": leaf[1:] for name, leaf in found.items()}
        return whole | layers | {"layer_names": _encoded(groups.names)}

    def _spectrum(self, curvature: LinearOperator, key: jax.Array) -> dict[str, Any]:
        krylov, trace = self._estimates(curvature, key)
        return {
            "projected": krylov.projected,
            "off_diagonal": krylov.off_diagonal,
            "dropped": krylov.dropped,
            "num_steps": krylov.num_steps,
            "trace": trace.trace.value,
            "trace_se": trace.trace.standard_error,
            "frobenius": trace.frobenius.value,
            "frobenius_se": trace.frobenius.standard_error,
            "num_products": trace.num_products,
        }

    def _estimates(self, curvature: LinearOperator, key: jax.Array) -> tuple[Krylov, TraceResult]:
        sampling = Sampling(self.trace_tolerance, self.block_size, self.min_probes, self.max_probes)
        wanted = Wanted(self.num_eigenvalues, self.num_smallest, self.tolerance)
        if self.trace_method == "deflated":
            steps = {"min_steps": self.min_steps, "max_steps": self.max_steps}
            return deflated_trace(curvature, key, sampling, **steps, wanted=wanted)
        krylov_key, key = jax.random.split(key)
        krylov = block_lanczos(
            curvature, krylov_key, block_size=self.block_size, max_steps=self.max_steps, wanted=wanted
        )
        if self.trace_method == "hutchinson":
            result = hutchinson(curvature, key, sampling)
        elif self.trace_method == "hutch++":
            result = hutch_pp(curvature, key, sampling, sketch_size=self.sketch_size)
        else:
            result = xtrace(curvature, key, num_probes=self.num_probes)
        return krylov, result._replace(num_products=result.num_products + krylov.num_products)

    def explained(self, status: Status, model: Model, weights: tuple[Weights, ...], data: Examples) -> Status:
        return status_with_cause(status, model, weights, data.train.first(self.num_samples), self.loss)

    def columns(self, raw: Raw) -> dict[str, Any]:
        ritz = ritz_pairs(raw["projected"], raw["off_diagonal"], raw["dropped"], raw["num_steps"])
        top, residuals = ritz.values[::-1][: self.num_eigenvalues], ritz.residuals[::-1][: self.num_eigenvalues]
        columns = {
            "eigenvalue": float(top[0]),
            "eigenvalue_residual": float(residuals[0]),
            "eigenvalues": top.tolist(),
            "eigenvalue_residuals": residuals.tolist(),
            "trace": float(raw["trace"]),
            "trace_se": float(raw["trace_se"]),
            "frobenius": float(raw["frobenius"]),
            "frobenius_se": float(raw["frobenius_se"]),
            "negative_curvature": float(max(-ritz.values[0], 0) / abs(top[0])) if top[0] else 0.0,
            "products": int(raw["num_products"]),
        }
        if self.num_smallest:
            columns["smallest"] = float(ritz.values[0])
            columns["smallest_residual"] = float(ritz.residuals[0])
            columns["smallest_eigenvalues"] = ritz.values[: self.num_smallest].tolist()
            columns["smallest_residuals"] = ritz.residuals[: self.num_smallest].tolist()
        if self.by_layer:
            columns |= self._layer_columns(raw)
        columns = {f"{self.operator}_{name}": value for name, value in columns.items()}
        status = self._status(ritz.converged(1.1 * self.tolerance), raw)
        return columns | ({"status": status} if status is not None else {})

    def _layer_columns(self, raw: Raw) -> dict[str, Any]:
        names = ("projected", "off_diagonal", "dropped", "num_steps")
        runs = zip(*(raw[f"layer_{name}"] for name in names), strict=True)
        tops = [ritz_pairs(*run) for run in runs]
        return {
            "layers": _decoded(raw["layer_names"]),
            "layer_trace": np.asarray(raw["layer_trace"], np.float64).tolist(),
            "layer_trace_se": np.asarray(raw["layer_trace_se"], np.float64).tolist(),
            "layer_eigenvalue": [float(ritz.values[-1]) for ritz in tops],
            "layer_eigenvalue_residual": [float(ritz.residuals[-1]) for ritz in tops],
            "layer_products": np.asarray(raw["layer_num_products"]).tolist(),
        }

    def _status(self, converged: np.ndarray, raw: Raw) -> Status | None:
        """What fell short of the settings; the values are usable, and their errors tell how far."""
        if not np.isfinite(raw["trace"]):
            return Status(StatusCode.NOT_FINITE, f"{self.operator} is not finite")
        wanted = np.r_[converged[: self.num_smallest], converged[::-1][: self.num_eigenvalues]]
        notes: list[Status] = []
        if not wanted.all():
            products = int(raw["num_steps"]) * len(raw["off_diagonal"])
            missing = f"{(~wanted).sum()} of {len(wanted)} eigenvalues" if len(wanted) > 1 else "eigenvalue"
            sentence = f"{self.operator} {missing} not converged after {products} products"
            notes.append(Status(StatusCode.NOT_CONVERGED, sentence))
        share = float(raw["trace_se"]) / max(abs(float(raw["trace"])), np.finfo(float).tiny)
        # Its standard error stands beside it; a word is due where it is out of all proportion.
        if share > _UNCERTAIN * self.trace_tolerance:
            sentence = f"{self.operator} trace known to {100 * share:.2g} % only"
            notes.append(Status(StatusCode.UNCERTAIN, sentence))
        return Status(notes[0].code, "; ".join(note.sentence for note in notes)) if notes else None


@dataclasses.dataclass(frozen=True)
class PublishedHessian(ModelMetric):
    """Largest eigenvalue and trace as in the published measurements, their oddities included.

    Another random batch of `num_samples` training examples for each model. Power iteration of at most
    `max_iterations`, until μ moves by less than `tolerance` relative: it finds the largest |λ| and returns the value
    before the last. Hutchinson's trace of at most `max_probes` Rademacher probes, until the running mean moves by
    less than `trace_tolerance`, with no absolute value in the denominator: a negative mean stops at once.
    `hessian_trace_se` is the spread of the probes over √n, which the published recipe does not compute. Of the
    `parameters` that count, as in `Hessian`; PyHessian takes those that require gradients.
    Cost: 10–200 products. Source: Zhou et al., ICML 2024, with the public code behind its measurements.
    """

    name: ClassVar[str] = "hessian"
    weight: ClassVar[float] = 60.0
    description: ClassVar[str] = Hessian.description
    features: ClassVar[tuple[Feature, ...]] = _FEATURES

    num_samples: int = 200
    max_iterations: int = 100
    tolerance: float = 1e-3
    max_probes: int = 100
    trace_tolerance: float = 1e-3
    parameters: Parameters = "trainable"

    def __post_init__(self) -> None:
        check_parameters(self.parameters)

    def measure(self, model: Model, params: PyTree, state: PyTree, data: Examples, key: jax.Array) -> Raw:
        sample_key, start_key, probe_key = jax.random.split(key, 3)
        total = len(data.x_train)
        # The largest of independent uniform numbers: a sample without repetition from the model's own examples.
        numbers = jnp.where(jnp.arange(total) < data.num_train, jax.random.uniform(sample_key, (total,)), -1.0)
        chosen = jax.lax.top_k(numbers, min(self.num_samples, total))[1]
        examples = LabelledExamples(
            data.x_train[chosen], data.y_train[chosen], jnp.minimum(data.num_train, len(chosen))
        )
        model, params = counted(model, params, self.parameters)
        hessian = loss_curvature(model, params, state, examples, batch_size=self.num_samples)
        return self.estimate(hessian.matvec, hessian.size, start_key, probe_key)

    def estimate(self, matvec: Matvec, size: int, start_key: jax.Array, probe_key: jax.Array) -> dict[str, jax.Array]:
        """The two published estimators, one after the other in one loop, so that the product is compiled once.

        matvec: v[p] → A v [p].
        size: p.
        start_key: of the first vector of the power iteration.
        probe_key: of the Rademacher probes.
        """
        zero, none = jnp.zeros(()), jnp.zeros((), jnp.int32)
        start = jax.random.normal(start_key, (size,))
        carry = {
            "vector": start / (jnp.linalg.norm(start) + 1e-6),
            "eigenvalue": zero,
            "iterations": none,
            "powering": jnp.ones((), bool),
            "trace": zero,
            "squares": zero,
            "probes": none,
            "sampling": jnp.ones((), bool),
        }

        def power(carry: dict[str, jax.Array], product: jax.Array) -> dict[str, jax.Array]:
            value, number = carry["eigenvalue"], carry["iterations"] + 1
            quotient = jnp.vdot(carry["vector"], product)
            # The first step has nothing to compare with.
            close = (number > 1) & (jnp.abs(value - quotient) / (jnp.abs(value) + 1e-6) < self.tolerance)
            return carry | {
                "vector": product / (jnp.linalg.norm(product) + 1e-6),
                "eigenvalue": jnp.where(close, value, quotient),
                "iterations": number,
                "powering": ~close & (number < self.max_iterations) & jnp.isfinite(quotient),
            }

        def sample(carry: dict[str, jax.Array], probe: jax.Array, product: jax.Array) -> dict[str, jax.Array]:
            value, number = carry["trace"], carry["probes"] + 1
            step = jnp.vdot(probe, product) - value
            mean = value + step / number
            close = jnp.abs(mean - value) / (value + 1e-6) < self.trace_tolerance
            return carry | {
                "trace": mean,
                "squares": carry["squares"] + step * (step - step / number),
                "probes": number,
                "sampling": ~close & (number < self.max_probes) & jnp.isfinite(mean),
            }

        def step(carry: dict[str, jax.Array]) -> dict[str, jax.Array]:
            probe = jax.random.rademacher(jax.random.fold_in(probe_key, carry["probes"]), (size,), jnp.float32)
            product = matvec(jnp.where(carry["powering"], carry["vector"], probe))
            return jax.lax.cond(
                carry["powering"],
                functools.partial(power, carry, product),
                functools.partial(sample, carry, probe, product),
            )

        carry = jax.lax.while_loop(lambda carry: carry["powering"] | carry["sampling"], step, carry)
        del carry["vector"]
        return carry

    def explained(self, status: Status, model: Model, weights: tuple[Weights, ...], data: Examples) -> Status:
        # Of those that may have been drawn.
        return status_with_cause(status, model, weights, data.train.first(1024), losses.cross_entropy)

    def columns(self, raw: Raw) -> dict[str, Any]:
        iterations, probes = int(raw["iterations"]), int(raw["probes"])
        freedom = probes * (probes - 1)
        # The two largest sources of error are not measured: the stale eigenvalue, and the sample of the data.
        columns: dict[str, Any] = {
            "hessian_eigenvalue": float(raw["eigenvalue"]),
            "hessian_trace": float(raw["trace"]),
            "hessian_trace_se": float(np.sqrt(raw["squares"] / freedom)) if freedom else np.nan,
            "hessian_products": iterations + probes,
        }
        if not np.isfinite([columns["hessian_eigenvalue"], columns["hessian_trace"]]).all():
            columns["status"] = Status(StatusCode.NOT_FINITE, "hessian is not finite")
        elif iterations == self.max_iterations:
            sentence = f"hessian eigenvalue not converged after {iterations} products"
            columns["status"] = Status(StatusCode.NOT_CONVERGED, sentence)
        return columns


def _encoded(names: tuple[str, ...]) -> jax.Array:
    """Names as rows of bytes: what a traced function returns are arrays."""
    texts = [name.encode() for name in names]
    width = max(map(len, texts))
    return jnp.asarray([list(text.ljust(width, b"\0")) for text in texts], jnp.uint8)


def _decoded(names: np.ndarray) -> list[str]:
    return [bytes(row).rstrip(b"\0").decode() for row in np.asarray(names, np.uint8)]
