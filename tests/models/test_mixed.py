"""Mixed precision: how far it moves what is measured, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import examples, measured, trained
from task_problems import problem

from mdjax.engine import Plan
from mdjax.errors import InputError
from mdjax.metrics import Hessian, Losses, select
from mdjax.models import FunctionModel
from mdjax.models.layers import Statistics, normalised
from mdjax.models.mixed import in_precision
from mdjax.sweeps.descriptions import described

SMALL_HESSIAN = Hessian(num_samples=64, max_steps=16, min_steps=8, max_probes=8, min_probes=2)

SAME_PROBES = dataclasses.replace(SMALL_HESSIAN, trace_method="hutchinson")

BOUNDS = {"train_loss": 0.002, "hessian_eigenvalue": 0.02, "hessian_trace": 0.02, "hessian_frobenius": 0.02}
"""Relative; of a trace to the Frobenius norm."""

CANCELLING = 0.15
"""Of the decoder's trace, in units of the Frobenius norm: its eigenvalues of both signs nearly cancel."""


@pytest.mark.parametrize("name", ["cnn", "next-token"])
@pytest.mark.parametrize("metric", [Losses(), SMALL_HESSIAN], ids=["losses", "hessian"])
def test_errors_beside_float32(metric, name):
    if name == "cnn":
        architecture, params, state = trained("cnn")
        what = architecture.model("patches"), params, state, examples(200)
    else:
        what = problem(name).model, problem(name).params, {}, problem(name).examples
        # Deflated by Krylov bases that differ a little, the same probes would give two samples of the trace.
        metric = SAME_PROBES if metric is SMALL_HESSIAN else metric
    usual, mixed = (
        measured(dataclasses.replace(metric, precision=precision), *what, plan=Plan("vmap", 1, "patches"))[0]
        for precision in ("float32", "bf16")
    )
    differs = False
    for column in BOUNDS.keys() & usual.keys():
        scale = abs(usual["hessian_frobenius" if column == "hessian_trace" else column])
        bound = CANCELLING if (name, column) == ("next-token", "hessian_trace") else BOUNDS[column]
        assert abs(mixed[column] - usual[column]) <= bound * scale, column
        differs |= mixed[column] != usual[column]
    assert differs


def test_sums_are_in_float32():
    model = in_precision(FunctionModel(lambda params, state, x: x @ params), "bf16")
    ones = jnp.ones((1, 4096))
    assert float(model.apply(ones.T, {}, ones)[0, 0]) == 4096  # in bfloat16 they would end at 256
    gradient = jax.grad(lambda params: jnp.sum(model.apply(params, {}, ones)))(ones.T)
    assert gradient.dtype == jnp.float32


def test_statistics_stay_in_float32():
    random = np.random.default_rng(0)
    inputs, ones = jnp.asarray(5 + random.normal(size=(64, 4, 4, 3)), jnp.bfloat16), jnp.ones(3)
    outputs, found = normalised(inputs, jnp.ones(64), ones, ones, Statistics(ones, ones))
    assert (outputs.dtype, found.mean.dtype, found.var.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    np.testing.assert_allclose(found.mean, np.asarray(inputs, np.float64).mean((0, 1, 2)), rtol=1e-5)


def test_precision_is_a_setting_and_part_of_a_rows_identity():
    usual, mixed = Hessian(), select("default", "hessian", ["hessian.precision=bf16"])[0]
    assert (usual.precision, mixed.precision) == ("float32", "bf16")
    assert described(usual) != described(mixed)
    assert in_precision(model := FunctionModel(abs), "float32") is model
    with pytest.raises(InputError, match="precision is 'half'. Choose one of float32, bf16."):
        Losses(precision="half")
    with pytest.raises(InputError, match="there is no 'precision'"):
        select("default", "cka", ["cka.precision=bf16"])


def test_a_network_that_insists_on_float32_is_refused():
    model = in_precision(FunctionModel(lambda p, s, x: jax.lax.add(x, s)), "bf16")
    with pytest.raises(InputError, match="does not compute in bfloat16: .*Leave precision=bf16 out"):
        model.apply(jnp.ones(2), jnp.ones(2), jnp.ones(2))
