"""How a measurement went: a code for programs, a sentence for people."""

import enum
from typing import NamedTuple


class StatusCode(enum.StrEnum):
    """What happened to a model, a pair or a configuration; the values stand in the column `status_code`."""

    OK = "ok"
    WEIGHTS_NOT_FINITE = "weights_not_finite"
    GROUP_DAMAGED = "group_damaged"
    COPY = "copy"  # of another model of its configuration, which counts once
    TOO_LARGE = "too_large"  # for the device's memory
    NOT_FINITE = "not_finite"  # a measured number
    DIVERGED = "diverged"  # the training of a curve
    ALIGNMENT_FAILED = "alignment_failed"  # it would have changed the network
    NOT_CONVERGED = "not_converged"  # an iteration, before its limit
    UNCERTAIN = "uncertain"  # a standard error out of all proportion
    FAILED = "failed"  # the metric itself, by an error
    DIED = "died"  # the process that measured it, time and again
    UNDEFINED = "undefined"  # the quantity itself, for this model
    FEATURES_MISSING = "features_missing"  # in a table that is diagnosed
    OTHER = "other"  # in a diagnosis: a problem that the table tells in words alone


class Status(NamedTuple):
    """A code, and the sentence of the column `status`."""

    code: StatusCode
    sentence: str


TRANSIENT = frozenset({StatusCode.TOO_LARGE, StatusCode.FAILED, StatusCode.DIED, StatusCode.GROUP_DAMAGED})
"""What may go otherwise the next time, with more memory or a mended file: shown, but never kept as a result."""

OK = Status(StatusCode.OK, "ok")
