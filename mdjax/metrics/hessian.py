"""The Hessian's (or Gauss–Newton matrix's) extreme eigenvalues, trace and Frobenius norm."""

import dataclasses
from typing import Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from mdjax.columns import Feature
from mdjax.errors import InputError
from mdjax.landscape.batches import LabelledExamples
from mdjax.landscape.curvature import CurvatureMatrix, check_matrix, layer_names, parameter_groups, restricted
from mdjax.landscape.loss_curvature import gauss_newton_traces, has_exact_trace, loss_curvature
from mdjax.linalg.krylov import Krylov, Wanted, block_lanczos, ritz_pairs
from mdjax.linalg.operators import LinearOperator
from mdjax.linalg.trace import Sampling, TraceResult, deflated_trace, hutch_pp, hutchinson, xtrace
from mdjax.metrics.contract import Examples, Metric, ModelMetric, PyTree, Raw, Weights
from mdjax.metrics.published_hessian import DESCRIPTION, FEATURES, PublishedHessian, status_with_cause
from mdjax.models import Model
from mdjax.models.mixed import Precision, check_precision, in_precision
from mdjax.models.parameters import Parameters, check_parameters, counted
from mdjax.statuses import Status, StatusCode

TraceMethod = Literal["auto", "deflated", "hutchinson", "hutch++", "xtrace"]


_UNCERTAIN = 5
"""A trace whose error is this many times what was asked for gets a status."""


@dataclasses.dataclass(frozen=True)
class Hessian(ModelMetric):
    """Extreme eigenvalues, trace and Frobenius norm of the Hessian of the mean training loss.

    The same first `num_samples` training examples for every model, stored statistics, no weight decay, of the
    `parameters` that count: without those that the model names as frozen ("trainable"), "all", or a tuple of paths
    (`mdjax.models.parameters`); the others are constants.

    One Krylov run of at least `min_steps` products goes on until the relative residuals of the `num_eigenvalues`
    largest and `num_smallest` smallest eigenvalues are `tolerance` (an eigenvalue's relative error is about the square
    of that). `negative_curvature` is minus the smallest Ritz value of the same run as a fraction of the largest
    eigenvalue, 0 where it is positive: there is at least so much.

    The trace, by `trace_method`: "auto" computes it exactly, its standard error 0, where it is that of the Gauss–Newton
    matrix (`mdjax.landscape.loss_curvature.has_exact_trace`: networks of ReLUs, `operator` "gauss_newton" with any) of
    at most 128 outputs, at the cost of about 5 gradients for 10; else it is "deflated". That goes on with the Krylov
    run while it saves more products than it takes, then samples the complement of its basis until the standard error
    is `trace_tolerance` of the trace, or of the Frobenius norm where that is greater: the trace then nearly cancels,
    and a status says so. Other methods take products of their own: `hutch++` sketches with `sketch_size` of them,
    `xtrace` stops at `num_probes` whatever its error is. The Frobenius norm takes `min_probes` probes at least.
    `block_size` vectors are multiplied together; blocks find eigenvalues that coincide.

    `precision` "bf16" computes the network in bfloat16 (`mdjax.models.mixed`), with errors of `docs/metrics.md`.
    `operator` "gauss_newton" measures that matrix, in columns `gauss_newton_…`.
    `by_layer` adds trace and largest eigenvalue of the diagonal block of each of `layers`: top-level modules, or by
    patterns of paths such as "blocks/*" (`mdjax.landscape.curvature.layer_names`), at the same cost again
    for each (their exact traces cost nothing more). Cost: 17 products and an exact trace for most networks of ReLUs, at
    most block_size·max_steps + max_probes, an eighth more where the examples make more than four batches of
    `batch_size` (`mdjax.landscape.curvature`); memory (block_size·(max_steps + 8)) times the parameters.
    """

    name: ClassVar[str] = "hessian"
    weight: ClassVar[float] = 60.0
    description: ClassVar[str] = DESCRIPTION
    features: ClassVar[tuple[Feature, ...]] = (
        *FEATURES,
        Feature(
            "negative_curvature",
            "Most negative curvature as a fraction of the largest",
            column="hessian_negative_curvature",
            drawn=False,
        ),
    )
    by_default: ClassVar[bool] = True
    compiles_lightly: ClassVar[bool] = True

    num_samples: int = 1024
    operator: CurvatureMatrix = "hessian"
    num_eigenvalues: int = 1
    num_smallest: int = 0
    block_size: int = 1
    min_steps: int = 12
    max_steps: int = 64
    tolerance: float = 1e-3
    trace_method: TraceMethod = "auto"
    min_probes: int = 5
    max_probes: int = 100
    trace_tolerance: float = 0.02
    sketch_size: int = 12
    num_probes: int = 24
    batch_size: int = 256
    by_layer: bool = False
    layers: str = "*"
    parameters: Parameters = "trainable"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        check_parameters(self.parameters)
        check_precision(self.precision)
        check_matrix(self.operator)
        if self.trace_method not in get_args(TraceMethod):
            methods = ", ".join(get_args(TraceMethod))
            raise InputError(f"Unknown trace_method {self.trace_method!r}. Choose one of {methods}.")
        room = self.block_size * self.max_steps
        if self.num_eigenvalues < 1 or self.num_smallest < 0 or self.num_eigenvalues + self.num_smallest > room:
            raise InputError(
                f"Cannot find {self.num_eigenvalues} largest and {self.num_smallest} smallest eigenvalues among {room} "
                "Krylov vectors. Ask for at least one largest, or raise max_steps."
            )

    @classmethod
    def of_preset(cls, preset: str) -> Metric:
        fast = cls(num_samples=256, tolerance=1e-2, min_steps=8, max_steps=32, trace_tolerance=0.05, max_probes=40)
        return {"reference": PublishedHessian(), "fast": fast}.get(preset, cls())

    def measure(self, model: Model, params: PyTree, state: PyTree, data: Examples, key: jax.Array) -> Raw:
        if self.layers != "*" and not self.by_layer:
            raise InputError(f"layers is {self.layers!r}, but by_layer is false. Set hessian.by_layer=true, too.")
        examples = data.train.first(self.num_samples)
        settings = {"batch_size": self.batch_size, "matrix": self.operator}
        model, params = counted(in_precision(model, self.precision), params, self.parameters)
        curvature = loss_curvature(model, params, state, examples, **settings)
        known = self._known_traces(model, params, state, examples)
        if not self.by_layer:
            return self._spectrum(curvature, None if known is None else jnp.sum(known), key)
        groups = parameter_groups(params, self.layers)
        # The whole matrix is one more group: the product is compiled once for all of them.
        everything = jnp.ones((1, groups.indices.size), bool)
        masks = jnp.concatenate([everything, groups.indices == jnp.arange(len(groups.names))[:, None]])
        known = None if known is None else jnp.concatenate([jnp.sum(known, keepdims=True), known])
        found = jax.lax.map(lambda part: self._spectrum(restricted(curvature, part[0]), part[1], key), (masks, known))
        whole = jax.tree.map(lambda leaf: leaf[0], found)
        layers = {f"layer_{name}": leaf[1:] for name, leaf in found.items()}
        return whole | layers | {"layer_names": _encoded(groups.names)}

    def _known_traces(
        self, model: Model, params: PyTree, state: PyTree, examples: LabelledExamples
    ) -> jax.Array | None:
        """The exact traces of the layers' diagonal blocks, in order; None where they are to be sampled."""
        if self.trace_method != "auto":
            return None
        if not has_exact_trace(model, params, state, examples.inputs, matrix=self.operator):
            return None
        traces = gauss_newton_traces(model, params, state, examples)
        # In the order of `parameter_groups`: of the leaves.
        sums: dict[str, jax.Array] = {}
        for name, trace in zip(layer_names(traces, self.layers), jax.tree.leaves(traces), strict=True):
            sums[name] = sums.get(name, jnp.zeros(())) + trace
        return jnp.stack(list(sums.values()))

    def _spectrum(self, curvature: LinearOperator, known_trace: jax.Array | None, key: jax.Array) -> dict[str, Any]:
        krylov, trace = self._estimates(curvature, known_trace, key)
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

    def _estimates(
        self, curvature: LinearOperator, known_trace: jax.Array | None, key: jax.Array
    ) -> tuple[Krylov, TraceResult]:
        sampling = Sampling(self.trace_tolerance, self.block_size, self.min_probes, self.max_probes)
        wanted = Wanted(self.num_eigenvalues, self.num_smallest, self.tolerance)
        if self.trace_method in ("auto", "deflated"):
            steps = {"min_steps": self.min_steps, "max_steps": self.max_steps}
            return deflated_trace(curvature, key, sampling, **steps, wanted=wanted, known_trace=known_trace)
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
        return status_with_cause(status, model, weights, data.train.first(self.num_samples))

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
        if not np.isfinite([raw["trace"], raw["frobenius"]]).all():
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
            norm = float(raw["frobenius"])
            if abs(float(raw["trace"])) < norm and float(raw["trace_se"]) <= 1.01 * self.trace_tolerance * norm:
                sentence += ": positive and negative eigenvalues nearly cancel"
            notes.append(Status(StatusCode.UNCERTAIN, sentence))
        return Status(notes[0].code, "; ".join(note.sentence for note in notes)) if notes else None


def _encoded(names: tuple[str, ...]) -> jax.Array:
    """Names as rows of bytes: what a traced function returns are arrays."""
    texts = [name.encode() for name in names]
    width = max(map(len, texts))
    return jnp.asarray([list(text.ljust(width, b"\0")) for text in texts], jnp.uint8)


def _decoded(names: np.ndarray) -> list[str]:
    return [bytes(row).rstrip(b"\0").decode() for row in np.asarray(names, np.uint8)]
