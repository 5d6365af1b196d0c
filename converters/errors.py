"""Why one checkpoint is not taken; a sweep reports it and goes on."""

from mdjax.errors import InputError


class RefusedError(InputError):
    """One checkpoint file cannot be taken; the message is the reason, without the file's name."""


def first_line(error: Exception) -> str:
    """What an error says, short enough for a table."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:200].rstrip(".")
