"""Lengths of time as people write them."""

import math
import re

from mdjax.errors import InputError

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_PART = r"(\d+(?:\.\d+)?)\s*([smh])"


def seconds_of(text: str) -> float:
    """The seconds that a text stands for: "90s", "10m", "1.5h" or several parts, "1h 30m".

    Raises InputError for anything else, a number without its unit included, and for no time at all.
    """
    told = text.strip().lower()
    if not re.fullmatch(rf"{_PART}(?:\s*{_PART})*", told):
        raise InputError(f"Cannot read the time {text!r}. Give a number with s, m or h, like 90s, 10m or 1h30m.")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_PART, told))
    if not 0 < seconds < math.inf:
        raise InputError(f"The time {text!r} is {seconds:g} seconds. Give more than 0 and less than infinity.")
    return seconds
