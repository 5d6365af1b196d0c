"""A program compiled for CPUs → memory that its matrix products take beside the compiler's account.

XLA hands products whose second operand lies with its contracted axis last to a library (YNNPACK, jaxlib 0.10) that
first writes that operand down in another order: a copy of all of it, of which `memory_analysis` knows nothing. For a
Krylov basis that is as much as the basis itself.
"""

import math
import re
from collections.abc import Iterator

_ARRAY = re.compile(r"%?([\w.-]+) = \(?(pred|[a-z]+)(\d+)?\w*\[([\d,]*)\]")
_PRODUCT = re.compile(r" dot\([^%)]*%?([\w.-]+), [^%)]*%?([\w.-]+)\).*?rhs_contracting_dims=\{(\d+)\}")


def packed_bytes(text: str) -> int:
    """Bytes of the largest such copy; `text` is the compiled program's (`jax.stages.Compiled.as_text`)."""
    lines = text.splitlines()
    arrays = dict(_arrays(lines))
    return max((arrays[name][1] for name, axis in _second_operands(lines) if _is_last(arrays, name, axis)), default=0)


def _arrays(lines: list[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    """The name of each array, its number of axes and its bytes."""
    for line in lines:
        if found := _ARRAY.search(line):
            name, _, bits, sizes = found.groups()
            shape = [int(size) for size in sizes.split(",") if size]
            yield name, (len(shape), math.prod(shape) * int(bits or 8) // 8)


def _second_operands(lines: list[str]) -> Iterator[tuple[str, int]]:
    """The second operand of each product, and the axis of it that is summed over."""
    for line in lines:
        if found := _PRODUCT.search(line):
            yield found[2], int(found[3])


def _is_last(arrays: dict[str, tuple[int, int]], name: str, axis: int) -> bool:
    return name in arrays and axis == arrays[name][0] - 1 > 0
