"""The Hessian's largest eigenvalue and trace."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mdjax import losses
from mdjax.curvature import hessian_matvec
from mdjax.krylov import lanczos, ritz_pairs
from mdjax.metrics.contract import Examples, PyTree, Raw
from mdjax.models import Model
from mdjax.trace import deflated_trace


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
