"""Units of work: their names."""

import functools
import types

import jax.numpy as jnp

from mdjax.metrics import Hessian
from mdjax.sweeps import units


def scaled(factor):
    def loss(logits, labels):
        return factor * jnp.sum(logits, -1)

    return loss


def test_a_unit_is_named_by_what_its_functions_compute_and_not_by_where_they_stand():
    """A module that moves must not measure every table again; another loss must never find the rows of this one."""

    def named(loss):
        return units._described(Hessian(loss=loss))

    def documented(logits, labels):
        """Says what it does."""
        return jnp.sum(logits, -1)

    moved = types.FunctionType(documented.__code__, documented.__globals__, documented.__name__)
    moved.__module__, moved.__qualname__, moved.__doc__ = "elsewhere", documented.__qualname__, documented.__doc__
    assert named(moved) == named(documented)
    assert "mdjax" not in units._described(Hessian())
    different = [
        Hessian().loss,
        documented,
        scaled(2),
        scaled(3),
        lambda logits, labels: 2 * jnp.sum(logits, -1),
        lambda logits, labels: 3 * jnp.sum(logits, -1),
        lambda logits, labels, scale=2: scale * jnp.sum(logits, -1),
        lambda logits, labels, scale=3: scale * jnp.sum(logits, -1),
        functools.partial(documented, labels=0),
        functools.partial(documented, labels=1),
    ]
    assert len({named(loss) for loss in different}) == len(different)
