"""Why one checkpoint is not taken; a sweep reports it and goes on."""

from mdjax.errors import InputError


class RefusedError(InputError):
    """One checkpoint file cannot be taken; the message is the reason, without the file's name."""


class UnknownFamilyError(RefusedError):
    """A checkpoint file is sound, but its network is none that mdjax knows; with its own code it can be measured."""
