"""The processes of one job on several hosts, as JAX's own runtime brings them together."""

import re
from typing import NamedTuple

import jax

from mdjax.errors import InputError, first_line


class Host(NamedTuple):
    """Which of the job's processes this one is, and of how many."""

    number: int
    of: int


def join(how: str) -> Host:
    """Join the other processes of the job; devices of theirs are not used for computing, each uses its own.

    how: "auto", where JAX finds them by itself (a TPU slice, Slurm, Kubernetes, MPI), or "ADDRESS:PORT,COUNT,NUMBER":
        where the process with number 0 listens, how many there are and which this is.

    Waits until all are there. Raises InputError where they are not found, do not come, or JAX has begun without them.
    """
    found = re.fullmatch(r"(\S+:\d{1,5}),(\d{1,6}),(\d{1,6})", how)
    if found is None and how != "auto":
        raise InputError(f"Cannot join {how[:80]!r}. Give auto, or ADDRESS:PORT,COUNT,NUMBER like 10.0.0.1:8476,4,0.")
    if not jax.distributed.is_initialized():
        try:
            if found is None:
                jax.distributed.initialize()
            else:
                jax.distributed.initialize(found[1], int(found[2]), int(found[3]))
        except (RuntimeError, ValueError, TypeError) as error:
            raise InputError(
                f"Cannot join the other processes of the job: {first_line(error)}. Start this command on every host of "
                "a job that JAX knows, or give --distributed ADDRESS:PORT,COUNT,NUMBER."
            ) from None
    return Host(jax.process_index(), jax.process_count())
