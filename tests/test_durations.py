"""Lengths of time: numbers with units, and nothing that could mean two things."""

import pytest

from mdjax.durations import seconds_of
from mdjax.errors import InputError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h", 3600), ("1.5h", 5400), ("1h30m", 5400), (" 1H 5m 2 s ", 3902), ("0.5s", 0.5)],
)
def test_units_are_multiplied_out(text, seconds):
    assert seconds_of(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize("text", ["", "10", "m", "-5m", "10 minutes", "5d", "1e3s", "1.m", "10m,", "nan", "m10"])
def test_other_texts_are_refused(text):
    with pytest.raises(InputError, match="Give a number with s, m or h, like 90s, 10m or 1h30m"):
        seconds_of(text)


@pytest.mark.parametrize("text", ["0s", "0h0m", f"{'9' * 400}h"])
def test_no_time_and_endless_time_are_refused(text):
    with pytest.raises(InputError, match="more than 0 and less than infinity"):
        seconds_of(text)
