"""What a product with a curvature matrix may take: memory between products, and vectors multiplied at once.

A metric is written for one model and knows neither the device nor how many models are batched around it. The engine's
plan knows both, and the engine sets the limits around the tracing of a metric; `mdjax.landscape.accumulation` reads
them there.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple


class ProductLimits(NamedTuple):
    """Limits for the products of one model.

    `residual_bytes`: how much memory the residuals may take, the intermediates of the forward and backward pass that
    JAX keeps for a linear map; where they need more, every product computes them anew. `vectors_at_once`: how many
    vectors of a `matmat` are multiplied side by side; the others follow in turn. `loops_over_batches`: whether one
    product in a loop serves all batches, in place of one for each in the program.
    """

    residual_bytes: int = 2**30
    vectors_at_once: int = 1
    loops_over_batches: bool = False


USUAL_LIMITS = ProductLimits()
_limits: ContextVar[ProductLimits] = ContextVar("limits", default=USUAL_LIMITS)


def current_limits() -> ProductLimits:
    """The limits that hold where this is called: `USUAL_LIMITS` outside of any `limited`."""
    return _limits.get()


@contextlib.contextmanager
def limited(limits: ProductLimits) -> Iterator[None]:
    """Let `limits` hold for what is traced inside; a function that was jitted and traced before keeps its own."""
    token = _limits.set(limits)
    try:
        yield
    finally:
        _limits.reset(token)
