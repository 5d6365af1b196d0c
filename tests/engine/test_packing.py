"""Memory of matrix products that the compiler's account leaves out, read from compiled programs."""

import jax
import numpy as np
import pytest

from mdjax.engine.packing import packed_bytes


def text_of(function, *shapes):
    return jax.jit(function).lower(*(jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes)).compile().as_text()


@pytest.mark.parametrize(
    ("function", "shapes", "expected"),
    [
        (lambda x, basis: x @ basis.T, [(4, 3000), (64, 3000)], 64 * 3000 * 4),
        (lambda x, basis: x - (x @ basis.T) @ basis, [(4, 3000), (64, 3000)], 64 * 3000 * 4),
        (lambda x, kernel: x @ kernel, [(256, 300), (300, 20)], 0),
        (lambda x: x.sum(), [(256, 300)], 0),
    ],
    ids=["coefficients", "orthogonalised", "layer", "no product"],
)
def test_operands_that_are_written_down_in_another_order_are_counted(function, shapes, expected):
    assert packed_bytes(text_of(function, *shapes)) == expected


def test_the_largest_one_counts_once():
    def loop(x, basis):
        return jax.lax.fori_loop(0, 3, lambda _, x: x - (x @ basis.T) @ basis, x) @ basis[:32].T

    assert packed_bytes(text_of(loop, (4, 3000), (64, 3000))) == 64 * 3000 * 4
