"""How long units take: measured where some of their kind are done, else estimated, so that the longest go first."""

from collections.abc import Hashable

from mdjax.sweeps.units import Unit


class Estimates:
    """Learns from the units that are done; a worker has one of its own."""

    def __init__(self) -> None:
        self._measured: dict[Hashable, tuple[float, float]] = {}
        self._rate = (0.0, 0.0)

    def learn(self, unit: Unit, seconds: float) -> None:
        """Take note of how long a unit took, compiling included."""
        amount = _amount(unit)
        total, amounts = self._measured.get(_kind(unit), (0.0, 0.0))
        self._measured[_kind(unit)] = (total + seconds, amounts + amount)
        self._rate = (self._rate[0] + seconds, self._rate[1] + amount)

    def seconds(self, unit: Unit) -> float:
        """About how long a unit takes; before anything is measured, a number that only compares."""
        amount = _amount(unit)
        total, amounts = self._measured.get(_kind(unit), self._rate)
        return amount * total / amounts if amounts else amount


def _kind(unit: Unit) -> Hashable:
    return unit.metric.name, unit.cell.architecture


def _amount(unit: Unit) -> float:
    """Passes over the data times parameters."""
    return unit.metric.weight * len(unit.members) * unit.cell.num_params
