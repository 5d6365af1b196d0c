"""How much a curvature product may keep, and how many run side by side: said where a program is made, read in it.

A metric is written for one model and knows neither the device nor how many models are batched around it; the plan
does, and the engine says so while it traces the metric.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple


class Budget(NamedTuple):
    """For each model: bytes of intermediates that may be kept between products, and the products of a block that
    run side by side, the rest in turn."""

    kept_bytes: int = 2**30
    probes_at_once: int = 1


USUAL = Budget()
_budget: ContextVar[Budget] = ContextVar("budget", default=USUAL)


def current() -> Budget:
    """The budget that holds where this is called."""
    return _budget.get()


@contextlib.contextmanager
def using(budget: Budget) -> Iterator[None]:
    """Let `budget` hold for what is traced inside; a function that was jitted and traced before keeps its own."""
    token = _budget.set(budget)
    try:
        yield
    finally:
        _budget.reset(token)
