"""Units of work: what their names are made of."""

import dataclasses
import functools
import types
from typing import Any

import jax.numpy as jnp

from mdjax.metrics import Hessian, select
from mdjax.sweeps.descriptions import described
from mdjax.tasks import cross_entropy


@dataclasses.dataclass(frozen=True)
class Settings:
    loss: Any = cross_entropy


def scaled(factor):
    def loss(logits, labels):
        return factor * jnp.sum(logits, -1)

    return loss


def test_a_unit_is_named_by_what_its_functions_compute_and_not_by_where_they_stand():
    """A module that moves must not measure every table again; another loss must never find the rows of this one."""

    def named(loss):
        return described(Settings(loss))

    def documented(logits, labels):
        """Says what it does."""
        return jnp.sum(logits, -1)

    moved = types.FunctionType(documented.__code__, documented.__globals__, documented.__name__)
    moved.__module__, moved.__qualname__, moved.__doc__ = "elsewhere", documented.__qualname__, documented.__doc__
    assert named(moved) == named(documented)
    assert "mdjax" not in described(Hessian())
    different = [
        cross_entropy,
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


OWN = """
from __future__ import annotations
import dataclasses, functools
from typing import ClassVar
import jax
from mdjax.columns import Feature
from mdjax.metrics import ModelMetric

SCALE = (2.0, "x")

def helper(values):
    return deeper(values)

@jax.jit
def deeper(values):
    return 3 * values

class Shift:
    def of(self, values):
        return values + 5

class Base(ModelMetric):
    @staticmethod
    def fixed(values):
        return values * 7

    @functools.cached_property
    def wanted(self):
        return 11

@dataclasses.dataclass(frozen=True)
class Own(Base):
    name: ClassVar[str] = "own"
    power: ClassVar[int] = 13
    num_samples: int = 17

    def measure(self, model, params, state, data, key):
        def inner(values):
            return again(values) + SCALE[0]

        return {"value": inner(Shift().of(helper(params)))}

    def columns(self, raw):
        return raw

def again(values):
    return again(values) if values else helper(values)
"""


def test_a_metric_of_ones_own_is_described_with_all_that_it_names(tmp_path):
    """An edit anywhere in its file that changes what it computes must never find the rows of before."""

    def told(text):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "own.py").write_text(text)
        (metric,) = select(names=f"{folder / 'own.py'}:Own")
        return described(metric)

    numbers = ("(2.0", "return 3", "+ 5", "* 7", "return 11", "= 13", "= 17")
    assert all(OWN.count(number) == 1 for number in numbers)
    assert len({told(OWN), *(told(OWN.replace(number, f"{number}1")) for number in numbers)}) == 1 + len(numbers)
    assert told(OWN) == told(OWN + "\ndef unused():\n    return 1\n") == told(OWN.replace("\nclass", "\n\n\nclass"))
