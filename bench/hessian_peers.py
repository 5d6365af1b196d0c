"""The Hessian's top eigenvalue and trace by PyHessian and curvlinops, on models as PyTorch networks of equal weights.

What `hessian_vs_peers.py` compares with, whose first lines say how each peer is run.
"""

import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from curvlinops import HessianLinearOperator
from pyhessian import hessian
from pyhessian.utils import group_product, hessian_vector_product, normalization
from scipy.sparse.linalg import LinearOperator, eigsh

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from torch_resnet import TorchResNet18

from mdjax.engine.stacks import take
from mdjax.metrics import Examples
from mdjax.models import Architecture

EIGENVALUE, TRACE = 1e-3, 0.02
"""The accuracies asked for."""

RESIDUAL = 1e-2
"""Relative residual at which a Lanczos run stops, ours and SciPy's: the eigenvalue's error is about its square over the
relative gap to the next one, so below 1e-3 for gaps from a tenth on."""

BATCH = 200
"""Examples in one pass: what the published measurements used, for the peers and here."""


class Reference(NamedTuple):
    """What is taken as true of one model: top eigenvalue, trace and Frobenius norm."""

    eigenvalue: float
    trace: float
    norm: float

    @property
    def scale(self) -> float:
        """What a trace's error is relative to: the trace, or the norm where the trace nearly cancels."""
        return max(abs(self.trace), self.norm)


@dataclasses.dataclass
class Row:
    """One width, training and number of samples: the models, their data, their references, and PyTorch's device."""

    architecture: Architecture
    params: dict
    state: dict
    x: np.ndarray
    y: np.ndarray
    budget: float
    references: list[Reference] = dataclasses.field(default_factory=list)
    device: str = "cpu"

    def examples(self) -> Examples:
        x, y = jnp.asarray(self.x), jnp.asarray(self.y)
        return Examples(x, y, jnp.asarray(len(x)), x[:1], y[:1])

    def torch_model(self, index: int) -> TorchResNet18:
        return as_torch(self.architecture, *take((self.params, self.state), [index])).to(self.device)

    def torch_batches(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        x, y = torch.from_numpy(self.x.transpose(0, 3, 1, 2).copy()), torch.from_numpy(self.y.astype(np.int64))
        return list(zip(x.to(self.device).split(BATCH), y.to(self.device).split(BATCH)))


def as_torch(architecture: Architecture, params: dict, state: dict) -> TorchResNet18:
    """One model (stacked alone) with the same weights, checked to give the same outputs."""
    names = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    arrays = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path((params, state)):
        *modules, name = [entry.key for entry in path[1:]]
        module = ".".join(modules).replace("_0", ".0").replace("_1", ".1")
        module = module.replace("shortcut_conv", "shortcut.0").replace("shortcut_bn", "shortcut.1")
        value = np.asarray(leaf)[0]
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        arrays[f"{module}.{names[name]}"] = torch.from_numpy(value.copy())
    network = TorchResNet18(architecture.width)
    network.load_state_dict(arrays | {k: v for k, v in network.state_dict().items() if k.endswith("tracked")})
    images = np.random.default_rng(0).normal(size=(4, *architecture.input_shape)).astype(np.float32)
    with torch.no_grad():
        theirs = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    single = jax.tree.map(lambda leaf: leaf[0], (params, state))
    with jax.default_matmul_precision("highest"):
        ours = architecture.model().apply(*single, images)
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-3)
    return network


def stopped(samples: np.ndarray, tolerance: float = 1e-3) -> np.ndarray:
    """The samples PyHessian's trace takes before it stops."""
    mean = 0.0
    for i in range(len(samples)):
        new = samples[: i + 1].mean()
        if abs(new - mean) / (mean + 1e-6) < tolerance:
            return samples[: i + 1]
        mean = new
    return samples


class Peer(NamedTuple):
    """A peer on one model: products to the accuracies asked for, seconds of each, errors, whether it got there."""

    products: int
    seconds_per_product: float
    eigenvalue_error: float
    trace_error: float
    reached: bool = True


def pyhessian_peers(row: Row, forms: list[np.ndarray]) -> list[Peer]:
    """PyHessian continued until it is as accurate as asked; errors are those at its own stopping rules.

    row: with references.
    forms: samples of Hutchinson's estimator for each model: its trace takes their variance / (2 % of the scale)².
    """
    batches = row.torch_batches()
    found, start = [], time.perf_counter()
    for i, reference in enumerate(row.references):
        torch.manual_seed(i)
        data = {"data": batches[0]} if len(batches) == 1 else {"dataloader": batches}
        peer = hessian(row.torch_model(i), torch.nn.functional.cross_entropy, cuda=row.device != "cpu", **data)
        vector = normalization([torch.randn(p.size(), device=row.device) for p in peer.params])

        def multiplied(vector: list, peer=peer) -> tuple[float, list]:
            if peer.full_dataset:
                return peer.dataloader_hv_product(vector)
            product = hessian_vector_product(peer.gradsH, peer.params, vector)
            return group_product(product, vector).item(), product

        multiplied(vector)  # a GPU's first one takes seconds
        # Its own steps, run past its own stopping rule: the value that the rule would return is noted on the way.
        value, own, iterations, begin = None, None, 0, time.perf_counter()
        while iterations < 100:
            new, product = multiplied(vector)
            vector, iterations = normalization(product), iterations + 1
            if own is None and value is not None and abs(value - new) / (abs(value) + 1e-6) < 1e-3:
                own = value
            value = new
            if abs(value - reference.eigenvalue) <= EIGENVALUE * abs(reference.eigenvalue):
                break
            if iterations >= 3 and time.perf_counter() - begin > row.budget:
                break
        each = (time.perf_counter() - begin) / iterations
        reached = abs(value - reference.eigenvalue) <= EIGENVALUE * abs(reference.eigenvalue)
        own = value if own is None else own
        probes = math.ceil(np.var(forms[i], ddof=1) / (TRACE * reference.scale) ** 2)
        trace_error = abs(stopped(forms[i]).mean() - reference.trace) / reference.scale
        eigenvalue_error = abs(own - reference.eigenvalue) / abs(reference.eigenvalue)
        found.append(Peer(iterations + probes, each, float(eigenvalue_error), float(trace_error), bool(reached)))
        if time.perf_counter() - start > row.budget:
            break
    return found


def curvlinops_peers(row: Row, needs: list) -> list[Peer]:
    """SciPy's eigsh over curvlinops' Hessian, and XTrace at the fewest products that are accurate enough.

    row: with references.
    needs: each model's `hessian_references.XTraceNeed`.
    """
    batches = row.torch_batches()
    found, start = [], time.perf_counter()
    for i, (reference, need) in enumerate(zip(row.references, needs)):
        torch.manual_seed(i)
        network = row.torch_model(i)
        loss = torch.nn.CrossEntropyLoss()
        matrix = HessianLinearOperator(network, loss, list(network.parameters()), batches, check_deterministic=False)
        flat, number = matrix.to_scipy(), 0

        def counted(vector, flat=flat):
            nonlocal number
            number += 1
            return flat @ vector.astype(flat.dtype)

        flat @ np.ones(flat.shape[1], np.float32)  # traces and compiles: not part of a product's time
        begin = time.perf_counter()
        operator = LinearOperator(flat.shape, matvec=counted, dtype=np.float64)
        # As few vectors and as loose a tolerance as reach the accuracy asked for.
        top = eigsh(operator, k=1, which="LA", tol=RESIDUAL, ncv=8, return_eigenvectors=False)[0]
        each = (time.perf_counter() - begin) / number
        error = abs(top - reference.eigenvalue) / abs(reference.eigenvalue)
        found.append(Peer(number + need.products, each, float(error), need.error, need.reached))
        if time.perf_counter() - start > row.budget:
            break
    return found
