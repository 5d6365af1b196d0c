"""Axes as digits of mixed-radix indices, and which of them are reordered alike (`mdjax.landscape.symmetries`)."""

import math
from collections.abc import Sequence

Axis = tuple[int, ...]
"""Digits, slowest first; an axis of size 1 has none."""
Value = tuple[Axis, ...]


class Digits:
    """Classes of digits (union–find), which can be split into a product of smaller ones.

    `size` and `fixed` of each: how many values it has, and whether its order is the network's own.
    """

    def __init__(self) -> None:
        self.size: list[int] = []
        self.fixed: list[bool] = []
        self._stands_for: list[Axis] = []

    def new(self, size: int, fixed: bool = False) -> Axis:
        if size <= 1:
            return ()
        self.size.append(size)
        self.fixed.append(fixed)
        self._stands_for.append(())
        return (len(self.size) - 1,)

    def value(self, shape: Sequence[int], fixed: bool = False) -> Value:
        return tuple(self.new(size, fixed) for size in shape)

    def resolved(self, axis: Sequence[int]) -> Axis:
        """The axis in the digits known by now."""
        found: list[int] = []
        for digit in axis:
            if self._stands_for[digit]:
                self._stands_for[digit] = self.resolved(self._stands_for[digit])
            found.extend(self._stands_for[digit] or (digit,))
        return tuple(found)

    def fix(self, *axes: Axis) -> None:
        for axis in axes:
            for digit in self.resolved(axis):
                self.fixed[digit] = True

    def split(self, digit: int, leading: int) -> None:
        """Make a digit two: a slower one of size `leading`, which divides its size, and a faster one."""
        sizes = leading, self.size[digit] // leading
        self._stands_for[digit] = tuple(part for size in sizes for part in self.new(size, self.fixed[digit]))

    def unify(self, first: Axis, second: Axis) -> Axis:
        """Two axes of equal size that are walked together; returns the first, which they now both are."""
        left, right = list(first), list(second)
        while left and right:
            (a, *left), (b, *right) = self.resolved(left), self.resolved(right)
            if a == b:
                continue
            if self.size[a] == self.size[b]:
                self.fixed[a] |= self.fixed[b]
                self._stands_for[b] = (a,)
            elif self.size[a] % self.size[b] == 0:
                self.split(a, self.size[b])
                left, right = [a, *left], [b, *right]
            elif self.size[b] % self.size[a] == 0:
                self.split(b, self.size[a])
                left, right = [a, *left], [b, *right]
            else:
                # Sizes like 4 × 6 against 6 × 4 have no digits in common.
                self.fix((a, b, *left, *right))
                return first
        # Digits that nothing stands against belong to axes that are not of equal size after all.
        self.fix((*left, *right))
        return first

    def describe(self, value: Value, shape: Sequence[int]) -> bool:
        """Whether the digits make up an array of this shape."""
        sizes = [math.prod(self.size[digit] for digit in self.resolved(axis)) for axis in value]
        return sizes == list(shape)

    def reshaped(self, value: Value, shape: Sequence[int]) -> Value:
        """The digits of all axes, dealt out to axes of these sizes."""
        pending = [digit for axis in value for digit in axis]
        axes = []
        for size in shape:
            axis: list[int] = []
            while size > 1 and pending:
                digit, *pending = self.resolved(pending)
                if size % self.size[digit] == 0:
                    axis.append(digit)
                    size //= self.size[digit]
                elif self.size[digit] % size == 0:
                    self.split(digit, size)
                    pending = [digit, *pending]
                else:
                    self.fix(*value)
                    return self.value(shape, fixed=True)
            axes.append(tuple(axis))
        return tuple(axes)
