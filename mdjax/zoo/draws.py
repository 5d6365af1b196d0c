"""A sample of the examples of a source, drawn once by a seed: which rows of it, before any of them is read."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from mdjax.errors import InputError, check_whole

MOST_EXAMPLES = 2**31 - 1

_HALVES = {"train": 0, "test": 1}
_AHEAD = 4096  # random numbers that are drawn together


@dataclasses.dataclass(frozen=True)
class Draw:
    """At most `num_examples` of the training and of the test examples, drawn without replacement by a seed.

    Equal draws of equally many examples are of the same rows, whatever they hold. Raises InputError for a number below
    one.
    """

    num_examples: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("num_examples", self.num_examples, 1, MOST_EXAMPLES)

    def rows(self, half: str, count: int) -> np.ndarray | None:
        """The rows [num_examples] of a half's `count`, in random order; None where all of them are taken."""
        if count <= self.num_examples:
            return None
        return self._random(half).choice(count, self.num_examples, replace=False)

    def reservoir(self, half: str) -> "Reservoir":
        """For a half of which nobody knows how many examples it has."""
        return Reservoir(self.num_examples, self._random(half))

    def _random(self, half: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, _HALVES[half]])


@dataclasses.dataclass(frozen=True)
class Slice:
    """The examples `start` to `stop` of one half, in their order, and hardly any of the other."""

    half: str
    start: int
    stop: int

    def rows(self, half: str, count: int) -> np.ndarray | None:
        """The rows of a half of `count` examples: always some, never None."""
        return np.arange(self.start, min(self.stop, count)) if half == self.half else np.arange(min(1, count))


Choice = Draw | Slice
"""Which rows are read."""


def draw_of(num_examples: int | None, seed: int = 0) -> Draw | None:
    """So many examples by a seed; None, for all of them, where no number is given."""
    return None if num_examples is None else Draw(num_examples, seed)


class Reservoir:
    """Keeps a uniform sample of what passes by, in random order: Vitter, "Random sampling with a reservoir", 1985.

    `taken` tells how many have passed; `rows` which of them stand in the places.
    """

    def __init__(self, size: int, random: np.random.Generator):
        self.size, self.taken = size, 0
        self.rows = np.full(0, -1)
        self._random = random
        self._ahead = np.zeros(0)

    def place(self) -> int | None:
        """Where the next example goes, which may be where another stood; None where it is left out."""
        number = self.taken
        self.taken += 1
        if number < self.size:
            # Which places the first ones get is settled when their number is: `order`.
            if number == len(self.rows):
                self.rows = np.resize(self.rows, min(self.size, max(64, 2 * number)))
            self.rows[number] = number
            return number
        if number % _AHEAD == 0 or not len(self._ahead):
            self._ahead = self._random.random(_AHEAD)
        place = int(self._ahead[number % _AHEAD] * (number + 1))
        if place >= self.size:
            return None
        self.rows[place] = number
        return place

    def order(self) -> np.ndarray | None:
        """A random order of the places; None where every example that passed was kept, and stands where it came."""
        return None if self.taken <= self.size else self._random.permutation(self.size)


def reorder(order: np.ndarray, *arrays: np.ndarray) -> None:
    """Put rows of arrays into an order, in place: row k becomes what row order[k] was. One row is held at a time."""
    is_done = np.zeros(len(order), bool)
    for start in range(len(order)):
        if is_done[start] or order[start] == start:
            continue
        held = [array[start].copy() for array in arrays]
        place = start
        while order[place] != start:
            for array in arrays:
                array[place] = array[order[place]]
            is_done[place] = True
            place = order[place]
        for array, row in zip(arrays, held):
            array[place] = row
        is_done[place] = True


class Drawn(NamedTuple):
    """What a sample was drawn from.

    rows: of the training examples, in their order [n]; total, test_total: how many the source has. whole: the digest
    (`Dataset.fingerprint`) of all of it, "" where not all was read. largest_label: of all training labels, where these
    were read and are whole numbers. own_scale: whether pixels are standardised by the sample, since nobody told how all
    of them are. again: reads a slice of the same source as the same kind of data; None where it gives them only once.
    """

    rows: np.ndarray
    total: int
    test_total: int
    whole: str = ""
    largest_label: int | None = None
    own_scale: bool = False
    again: Callable[[Slice], Any] | None = None


class Sampling(NamedTuple):
    """A draw, and how a slice of the arrays of its source is read; None where only all of them can be."""

    draw: Draw
    again: Callable[[Slice], Mapping[str, Any]] | None = None


DRAWN = "mdjax.drawn"
"""Where readers put the `Drawn` beside the arrays, whatever else their users call theirs."""


def drawn_rows(
    where: str, choice: Choice | None, counts: Mapping[str, int]
) -> tuple[dict[str, np.ndarray], Drawn | None]:
    """The rows to take of arrays x_train, y_train, x_test and y_test; none, and None, where all are taken.

    where: the place, as errors name it.
    choice: which; None for all.
    counts: how many examples each array has.

    Raises InputError for inputs and targets of different numbers, of which no rows belong together.
    """
    rows = {half: None if choice is None else choice.rows(half, counts[f"x_{half}"]) for half in _HALVES}
    taken: dict[str, np.ndarray] = {}
    for half, found in rows.items():
        if found is None:
            continue
        inputs, targets = counts[f"x_{half}"], counts[f"y_{half}"]
        if inputs != targets:
            raise InputError(
                f"{where}: x_{half} has {inputs} examples, but y_{half} has {targets}. Give one target for each."
            )
        taken |= {f"x_{half}": found, f"y_{half}": found}
    if not taken:
        return {}, None
    train = np.arange(counts["x_train"]) if rows["train"] is None else rows["train"]
    return taken, Drawn(train, counts["x_train"], counts["x_test"])
