"""The largest Hessian eigenvalue and the trace as published; the features and statuses of every form of the metric."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mdjax.columns import Feature
from mdjax.landscape.batches import LabelledExamples, count_of
from mdjax.landscape.loss_curvature import finite_parts, loss_curvature
from mdjax.linalg.operators import Matvec
from mdjax.linalg.vectors import Vectors
from mdjax.metrics.contract import Examples, ModelMetric, PyTree, Raw, Weights
from mdjax.models import Model
from mdjax.models.parameters import Parameters, check_parameters, counted
from mdjax.statuses import Status, StatusCode

DESCRIPTION = "extreme eigenvalues, trace and Frobenius norm of the Hessian or Gauss–Newton matrix"

FEATURES = (
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


def status_with_cause(status: Status, model: Model, weights: tuple[Weights, ...], examples: LabelledExamples) -> Status:
    """The status of curvature that is not finite, with the cause where the loss itself is finite.

    status: any; others are returned as they are.
    model, weights: the model, as `Metric.explained` has them.
    examples: what the curvature is of.

    Cost: one gradient over the examples, and only for such a status.
    """
    if status.code is not StatusCode.NOT_FINITE:
        return status
    is_finite = finite_parts(model, *weights[0], examples)
    if not is_finite.loss:
        return status
    derivative = "second derivative" if is_finite.gradient else "derivative"
    return status._replace(
        sentence=f"{status.sentence} although the loss is: the network has a function without a {derivative} there "
        "(a norm of a zero vector, sqrt or log at 0)"
    )


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
    description: ClassVar[str] = DESCRIPTION
    features: ClassVar[tuple[Feature, ...]] = FEATURES

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
        total = count_of(data.x_train)
        # The largest of independent uniform numbers: a sample without repetition from the model's own examples.
        numbers = jnp.where(jnp.arange(total) < data.num_train, jax.random.uniform(sample_key, (total,)), -1.0)
        chosen = jax.lax.top_k(numbers, min(self.num_samples, total))[1]
        inputs, targets = jax.tree.map(lambda leaf: leaf[chosen], (data.x_train, data.y_train))
        examples = LabelledExamples(inputs, targets, jnp.minimum(data.num_train, len(chosen)), data.task)
        model, params = counted(model, params, self.parameters)
        hessian = loss_curvature(model, params, state, examples, batch_size=self.num_samples)
        return self.estimate(hessian.matvec, hessian.space, start_key, probe_key)

    def estimate(
        self, matvec: Matvec, vectors: Vectors, start_key: jax.Array, probe_key: jax.Array
    ) -> dict[str, jax.Array]:
        """The two published estimators, one after the other in one loop, so that the product is compiled once.

        matvec: v[p] → A v [p].
        vectors: those of p numbers.
        start_key: of the first vector of the power iteration.
        probe_key: of the Rademacher probes.
        """
        zero, none = jnp.zeros(()), jnp.zeros((), jnp.int32)
        start = vectors.normal(start_key)
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
            probe = vectors.signs(jax.random.fold_in(probe_key, carry["probes"]))
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
        return status_with_cause(status, model, weights, data.train.first(1024))

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
