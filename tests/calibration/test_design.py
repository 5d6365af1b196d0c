"""Which small networks are grown: an L within the budget."""

import pytest

from mdjax.calibration.design import Cell, cells
from mdjax.errors import InputError

WIDTHS, SHARES = (1, 2, 4, 8, 16), (0.25, 0.5, 1.0)


def cost(cell: Cell) -> float:
    return cell.width * cell.data_share


@pytest.mark.parametrize("budget", [3, 5, 8, 13, 60])
def test_the_cells_fit_the_budget_and_make_an_l(budget):
    chosen = cells(WIDTHS, SHARES, cost, budget)
    assert sum(map(cost, chosen)) <= budget
    assert [cost(cell) for cell in chosen] == sorted(map(cost, chosen))
    long = sorted(cell.width for cell in chosen if cell.data_share == 0.25)
    assert long == list(WIDTHS[: len(long)])
    for share in (0.5, 1.0):
        widths = [cell.width for cell in chosen if cell.data_share == share]
        assert sorted(widths) == list(WIDTHS[: len(widths)])
    assert len(long) >= 2 and any(cell.data_share > 0.25 for cell in chosen)


def test_more_budget_never_buys_less():
    worths = [len(cells(WIDTHS, SHARES, cost, budget)) for budget in (3, 5, 8, 13)]
    assert worths == sorted(worths)


def test_a_budget_that_is_too_small_is_told():
    with pytest.raises(InputError, match=r"The budget of 1 s is too small: .* take about 2.25 s"):
        cells(WIDTHS, SHARES, cost, 1)
