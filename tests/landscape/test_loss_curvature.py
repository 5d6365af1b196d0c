"""The curvature of a model's mean loss against the dense Hessian: which examples count, in which batches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_problems import vectors
from helpers import dense_hessian, examples, one, trained

from mdjax.landscape.batches import LabelledExamples
from mdjax.landscape.loss_curvature import loss_curvature, loss_quadratic_forms

NUM_SAMPLES = 64


@pytest.mark.parametrize("batch_size", [NUM_SAMPLES, 40, 10, 1000])
@pytest.mark.parametrize("counted", ["array", "number"])
def test_only_the_examples_that_count_make_the_curvature(batch_size, counted):
    architecture, params, state = trained("mlp")
    model, dense = architecture.model("patches"), dense_hessian("mlp", 0, NUM_SAMPLES)
    data = examples().train
    # Either the arrays end where the examples do, or what comes after does not count.
    sample = (
        data.first(NUM_SAMPLES) if counted == "array" else dataclasses.replace(data, num_examples=NUM_SAMPLES).first(75)
    )

    @jax.jit
    def run(params, state, block):
        mean_loss = model, params, state, sample
        operator = loss_curvature(*mean_loss, batch_size=batch_size)
        forms = loss_quadratic_forms(*mean_loss, batch_size=batch_size)
        return operator.matmat(block), operator.matvec(block[0]), forms(block)

    block = vectors(2, len(dense))
    products, single, forms = run(one(params), one(state), jnp.asarray(block))
    expected = block @ dense
    scale = np.abs(expected).max()
    np.testing.assert_allclose(products, expected, atol=1e-5 * scale)
    np.testing.assert_allclose(single, expected[0], atol=1e-5 * scale)
    wanted = np.sum(block * expected, axis=1)
    np.testing.assert_allclose(forms, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("function", [loss_curvature, loss_quadratic_forms])
def test_up_to_four_batches_make_no_larger_a_program_than_one(function):
    architecture, params, state = trained("mlp")
    sample = examples().train.first(NUM_SAMPLES)

    def num_products(num_batches: int) -> int:
        def run(params, block):
            size = NUM_SAMPLES // num_batches
            found = function(architecture.model("patches"), params, one(state), sample, batch_size=size)
            return (found if function is loss_quadratic_forms else found.matmat)(block)

        block = jnp.asarray(vectors(2, sum(leaf.size for leaf in jax.tree.leaves(one(params)))))
        return str(jax.make_jaxpr(run)(one(params), block)).count("dot_general")

    assert num_products(4) == num_products(2) == num_products(1)


def test_the_first_examples_are_no_more_than_there_are():
    data = LabelledExamples(jnp.arange(10.0), jnp.arange(10), jnp.asarray(6))
    for number, (length, count) in {4: (4, 4), 8: (8, 6), 100: (10, 6)}.items():
        first = data.first(number)
        assert (len(first.inputs), len(first.targets), int(first.num_examples)) == (length, length, count)
