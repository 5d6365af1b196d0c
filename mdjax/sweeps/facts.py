"""What the user says of the training of models given in Python, where no manifest tells it."""

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from mdjax.columns import LIMITS, TRAINING
from mdjax.errors import InputError, brief

KNOWN = tuple(name for name in ("width", "depth", *TRAINING) if name in LIMITS)
"""The facts that can be said, called as the columns of a manifest."""


def checked_facts(facts: Mapping[str, Any] | None) -> dict[str, int | float]:
    """The facts in the types of their columns, in the order of `KNOWN`; InputError for unknown names and bad values."""
    if facts is None:
        return {}
    if not isinstance(facts, Mapping):
        raise InputError(f"facts is {brief(facts)}. Give a dictionary, like {{'width': 16, 'batch_size': 64}}.")
    if unknown := [name for name in facts if name not in KNOWN]:
        raise InputError(f"Unknown fact {brief(unknown[0])}. Give some of {', '.join(KNOWN)}.")
    return {name: _checked(name, facts[name]) for name in KNOWN if name in facts}


def read_facts(told: Mapping[str, Any]) -> dict[str, int | float]:
    """As `checked_facts`, of values that may be text, as commands give them."""
    numbers: dict[str, Any] = {}
    for name, value in told.items():
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError, OverflowError):
            numbers[name] = value  # told by the check
    return checked_facts(numbers)


def _checked(name: str, value: Any) -> int | float:
    kind, least, greatest = LIMITS[name]
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    # NaN is between no limits.
    if not least <= number <= greatest or not math.isfinite(number) or (kind is int and not number.is_integer()):
        noun = "a whole number" if kind is int else "a number"
        limits = f"from {least} to 1" if greatest == 1 else f"of at least {least} and at most {greatest:,}"
        raise InputError(f"facts: {name} is {brief(value)}. Give {noun} {limits}.")
    if name == "data_share" and number == 0:
        raise InputError("facts: data_share is 0. Give a fraction above 0 and at most 1.")
    return kind(number)


def configuration_name(facts: Mapping[str, int | float]) -> str:
    """What models of these facts are called as a configuration: "given-width16-batch_size64"; "given" without any."""
    return "-".join(["given", *(f"{name}{value:g}" for name, value in facts.items())])
