"""The part of a sweep that runs on the nodes of a Ray cluster: an actor, one process, that works as any worker does.

Nothing is imported before `begin` has set the environment, which JAX reads when it starts.
"""

import contextlib
import importlib
import os
import socket
import time
from collections.abc import Mapping
from typing import NamedTuple

from mdjax.sweeps.worker import Assignment, work

_PATIENCE = 5.0
"""Seconds that a shared file system may take to show on one node what was written on another."""

_REMEDY = "All nodes have to see zoo and table under the same paths: on a file system that they share, or in a store."


class Place(NamedTuple):
    """Where a worker runs, as it says itself."""

    process: str  # as claims name it
    node: str  # Ray's name of the node
    address: str  # of the node, for people
    cores: tuple[int, ...]
    port: int = 0  # one that was free a moment ago, for the gang's first
    number: int = 0  # of its host in a TPU slice

    @property
    def machine(self) -> str:
        return self.process.partition("-")[0]


class RayWorker:
    """One process that measures; what ends it costs the unit at hand alone."""

    def begin(self, environment: Mapping[str, str], folder: str) -> Place:
        """Get ready, and say where.

        environment: variables to set, unless the node has some of its own.
        folder: to which relative paths refer.
        """
        for name, value in environment.items():
            os.environ.setdefault(name, value)
        with contextlib.suppress(OSError):  # then paths that are not absolute are told to be missing
            os.chdir(folder)
        from mdjax.sweeps.signs import process_name

        ray = importlib.import_module("ray")
        cores = tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()
        node = ray.get_runtime_context().get_node_id()
        with socket.socket() as listener:
            listener.bind(("", 0))
            port = listener.getsockname()[1]
        number = os.environ.get("TPU_WORKER_ID", "")
        return Place(
            process_name(os.getpid()),
            node,
            ray.util.get_node_ip_address(),
            cores,
            port,
            int(number) if number.isdecimal() else 0,
        )

    def work(self, assignment: Assignment, driver: str, platform: str, joined: str | None = None) -> str | None:
        """Measure until all is settled; returns what is wrong where nothing can be measured here.

        assignment: what to do.
        driver: a worker whose signs of life have to be in the table.
        platform: "cpu", or what JAX has to find instead.
        joined: how the processes of its gang are joined, if there are others (`mdjax.engine.hosts.join`).
        """
        from mdjax.errors import InputError

        try:
            if joined is not None:
                from mdjax.engine.hosts import join

                join(joined)
            self._check(assignment, driver, platform)
            work(assignment)
        except InputError as error:
            return str(error)
        return None

    def _check(self, assignment: Assignment, driver: str, platform: str) -> None:
        from mdjax.addresses import located
        from mdjax.errors import InputError
        from mdjax.stores import store_of
        from mdjax.sweeps.claims import Claims

        until = time.monotonic() + _PATIENCE
        claims, zoo = Claims(store_of(assignment.table)), located(assignment.zoo)
        for what, is_seen in (
            (f"the table {assignment.table}", lambda: claims.knows(driver)),
            (f"the zoo {zoo}", lambda: not isinstance(zoo, os.PathLike) or os.path.isdir(zoo)),  # noqa: PTH112
        ):
            while not is_seen():
                if time.monotonic() > until:
                    raise InputError(f"It does not see {what} of this sweep. {_REMEDY}")
                time.sleep(0.2)
        if platform != "cpu":
            import jax

            if jax.default_backend() == "cpu":
                raise InputError(
                    f"It was given a {platform.upper()}, and JAX sees none there. Install mdjax with JAX for it on "
                    "every node (pip install 'mdjax[cuda]' or 'mdjax[tpu]'), or measure on CPUs: --accelerator cpu."
                )
