"""Every metric × task: the same in every form of execution, and of the very loss that the task says, in float64."""

import dataclasses
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import check_alike, forms, measured, one
from jax.flatten_util import ravel_pytree
from sklearn.metrics import r2_score
from small_metrics import SMALL
from task_problems import NAMES, NUM_TRAIN, problem

from mdjax.metrics import Hessian, Losses
from mdjax.statuses import OK, StatusCode

COUNTED = NUM_TRAIN - 20
FORM = "sharded over models and data"


@functools.cache
def rows_of(metric, name, form):
    found = problem(name)
    members = None if metric.frame == "models" else [(0, 1), (1, 2)]
    return measured(metric, found.model, found.params, {}, found.examples, members=members, plan=forms()[form])


def cases():
    """Every metric on a regression, the default ones on the others; MDJAX_EXHAUSTIVE=1 crosses everything."""
    everything = bool(os.environ.get("MDJAX_EXHAUSTIVE"))
    for name, form in (("regression", "vmap"), ("next-token", FORM), ("own", FORM)):
        for metric in SMALL.values():
            if everything or name == "regression" or (metric.by_default and (name, metric.name) != ("own", "hessian")):
                for own in ("vmap", FORM) if everything else (form,):
                    yield pytest.param(metric, name, own, id=f"{metric.name}-{name}-{own}")


@pytest.mark.parametrize(("metric", "name", "form"), list(cases()))
def test_results_do_not_depend_on_the_form(metric, name, form):
    for found, single in zip(rows_of(metric, name, form), rows_of(metric, name, "single"), strict=True):
        # Sixteen probes leave the trace of a transformer uncertain.
        assert found.get("status", OK).code in (StatusCode.OK, StatusCode.UNCERTAIN)
        # Rounding moves its eigenvalues by 2e-6 of the largest, a hundredth of which the bumps are wide.
        check_alike(found, single, form, smoothed=3e-4 if name == "next-token" else 1e-5)


def in_float64(name, index=0):
    """(outputs of the raveled parameters, loss of outputs, parameters) of one model on the examples that count."""
    found = problem(name)
    data = jax.tree.map(lambda leaf: leaf[:COUNTED], (found.examples.x_train, found.examples.y_train))
    inputs, targets = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64 if leaf.dtype.kind == "f" else leaf.dtype), data
    )
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), one(found.params, index))
    flat, unravel = ravel_pytree(params)
    return (lambda flat: found.model.apply(unravel(flat), {}, inputs)), (lambda z: found.loss(z, targets)), flat


@pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("name", NAMES)
def test_curvature_is_that_of_the_tasks_loss(name, matrix):
    settings = {"num_samples": NUM_TRAIN, "batch_size": 40, "num_eigenvalues": 2, "tolerance": 1e-4}
    metric = Hessian(operator=matrix, max_probes=12, **settings)
    found = rows_of(metric, name, "single")[0]
    with jax.enable_x64(True):
        outputs, loss, flat = in_float64(name)
        if matrix == "hessian":
            dense = jax.jit(jax.hessian(lambda flat: loss(outputs(flat))))(flat)
        else:
            ravelled, unravel = ravel_pytree(outputs(flat))
            jacobian = jax.jit(jax.jacrev(lambda flat: ravel_pytree(outputs(flat))[0]))(flat)
            curvature = jax.jit(jax.hessian(lambda z: loss(unravel(z))))(ravelled)
            dense = jacobian.T @ curvature @ jacobian
    expected = np.linalg.eigvalsh(np.asarray(dense))
    np.testing.assert_allclose(found[f"{matrix}_eigenvalues"], expected[:-3:-1], rtol=1e-5)
    trace, error = found[f"{matrix}_trace"], found[f"{matrix}_trace_se"]
    assert trace == pytest.approx(expected.sum(), abs=5 * error + 1e-5 * expected.sum())
    if matrix == "gauss_newton" and name not in ("next-token", "own"):
        assert error == 0  # exactly, from the gradients of single outputs


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_the_tasks_own(name):
    row, data = rows_of(Losses(), name, "single")[0], problem(name).examples
    with jax.enable_x64(True):
        outputs, loss, flat = in_float64(name)
        logits = jax.tree.map(np.asarray, outputs(flat))
        assert row["train_loss"] == pytest.approx(float(loss(logits)), rel=1e-5)
    targets = jax.tree.map(lambda leaf: np.asarray(leaf)[:COUNTED], data.y_train)
    if name.startswith("regression"):
        every = np.asarray(data.y_train)  # the whole set's variance is what a model is held against
        flat_targets = targets.reshape(COUNTED, -1)
        error = 100 * np.mean((logits.reshape(COUNTED, -1) - flat_targets) ** 2) / np.mean(np.var(every, axis=0))
        assert row["chance_loss"] == pytest.approx(np.mean(np.var(flat_targets, axis=0)), rel=1e-5)
        assert row["chance_error"] == pytest.approx(100, rel=0.2)
    elif name == "next-token":
        counted = targets >= 0
        error = 100 * np.mean(logits.argmax(-1)[counted] != targets[counted])
        shares = np.bincount(targets[counted]) / counted.sum()
        assert row["chance_error"] == pytest.approx(100 * (1 - shares.max()), rel=1e-5)
        assert row["chance_loss"] == pytest.approx(-np.sum(shares * np.log(np.maximum(shares, 1e-30))), rel=1e-5)
    elif name == "own":
        error = 100 * row["train_loss"]  # a task that says nothing else
        assert "chance_loss" not in row
    else:
        error = 100 * np.mean((logits.reshape(targets.shape) > 0) != targets)
        p = np.clip(targets.reshape(COUNTED, -1).mean(0), 1e-9, 1 - 1e-9)
        assert row["chance_loss"] == pytest.approx(-np.mean(p * np.log(p) + (1 - p) * np.log(1 - p)), rel=1e-5)
        assert row["chance_error"] == pytest.approx(100 * np.mean(np.minimum(p, 1 - p)), rel=1e-5)
    assert row["train_error"] == pytest.approx(error, rel=1e-5)


def test_the_error_of_a_regression_is_what_r2_leaves():
    found = problem("regression")
    whole = dataclasses.replace(found.examples, num_train=jnp.asarray(NUM_TRAIN))
    row = measured(Losses(), found.model, found.params, {}, whole)[0]
    outputs = found.model.apply(one(found.params), {}, whole.x_train)
    explained = r2_score(whole.y_train, outputs, multioutput="variance_weighted")
    assert row["train_error"] == pytest.approx(100 * (1 - explained), rel=1e-5)


def test_outputs_of_many_tokens_are_taken_in_batches_that_fit(monkeypatch):
    """A vocabulary's logits at every position: one example at a time where more would not fit."""
    from mdjax.landscape import losses

    expected = rows_of(Losses(), "next-token", "single")[0]
    found, sizes, apply = problem("next-token"), [], problem("next-token").model.apply
    monkeypatch.setattr(losses, "_MOST_FLOATS", 3 * 6 * 9)

    def counting(params, state, inputs):
        sizes.append(len(inputs))
        return apply(params, state, inputs)

    model = type(found.model)(counting)
    row = measured(Losses(), model, found.params, {}, found.examples)[0]
    assert max(sizes) == 3
    assert row == pytest.approx(expected, rel=1e-5)
