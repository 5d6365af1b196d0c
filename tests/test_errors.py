"""An error in one line, for use inside a sentence."""

import pytest

from mdjax.errors import InputError, first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("it is cut.\nMore of it"), "it is cut"),
        (ValueError("\n  first \nsecond"), "first"),
        (ValueError(""), "ValueError"),
        (ValueError(" \n "), "ValueError"),
        (KeyError(), "KeyError"),
        (ValueError(3), "3"),
        (ValueError("x" * 300), "x" * 200),
        (InputError("x" * 300 + ". Mend it."), "x" * 300 + ". Mend it"),
        (ValueError("and so on... "), "and so on"),
        (PermissionError(13, "Permission denied", "/some/path"), "Permission denied"),
        (OSError("no number"), "no number"),
    ],
)
def test_the_first_line_of_an_error(error, line):
    assert first_line(error) == line


def test_input_errors_are_value_errors():
    assert issubclass(InputError, ValueError)
