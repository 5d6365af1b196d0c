"""Which small networks to grow: wide ones on little data, and little ones on more, around the user's temperature."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mdjax.errors import InputError

ENOUGH = 6
"""Pairs of a small width and a larger amount of data beyond which more of them are worth less than a further width."""


class Cell(NamedTuple):
    """One width on one fraction of the data; all temperatures and seeds of it are trained together."""

    width: int
    data_share: float


Cost = Callable[[Cell], float]


def cells(widths: Sequence[int], shares: Sequence[float], cost: Cost, budget: float) -> list[Cell]:
    """The cells to grow within a budget, cheapest first: an L of two bars.

        widths, shares: the values to choose from; the larger ones are what is asked about.
        cost: of a cell, in the unit of the budget; it grows with both.
        budget: the sum of the chosen cells' costs stays within it.

    One bar is the smallest fraction of the data at as many widths as the budget allows: what more width brings. The
    other is more data at the smallest widths: what more data brings. Both together say how one depends on the other.
    Raises InputError where not even two widths and two fractions of the data fit.
    """
    widths, shares = sorted(set(widths)), sorted(set(shares))
    best: tuple[float, float] = (-1.0, 0.0)
    chosen: list[Cell] = []
    for long, short in itertools.product(range(2, len(widths) + 1), range(1, len(widths) + 1)):
        for most in range(2, len(shares) + 1):
            if short > long:
                continue
            bars = [Cell(width, shares[0]) for width in widths[:long]]
            bars += [Cell(width, share) for width in widths[:short] for share in shares[1:most]]
            total = sum(map(cost, bars))
            # Where as much is known, what costs more says more: it is larger.
            worth = (long + 0.9 * min(short * (most - 1), ENOUGH), total)
            if total <= budget and worth > best:
                best, chosen = worth, bars
    if not chosen:
        least = sum(cost(Cell(width, share)) for width in widths[:2] for share in shares[:2])
        raise InputError(
            f"The budget of {budget:.3g} s is too small: two widths on two amounts of data take about {least:.3g} s. "
            "Give a larger --budget (budget=), or fewer epochs."
        )
    return sorted(chosen, key=lambda cell: (cost(cell), cell))
