"""A Ray cluster by its address: joined, or started on this machine, and left or ended again."""

import contextlib
import importlib
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

from mdjax.console import warn
from mdjax.errors import InputError, first_line
from mdjax.processes import when_ended

_OBJECT_STORE = 80 * 2**20
"""Bytes of Ray's object store on this machine: next to nothing passes through it, and it takes no less."""

_PATIENCE = 10.0
"""Seconds in which who is at an address has to take a connection."""

_ON_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""With 0 Ray's processes listen on the loopback interface alone, which it does on its own on macOS."""


def imported() -> Any:
    """The package ray; InputError where it is missing."""
    # Else whatever is asked of Ray while this process ends would start it again.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise InputError("A sweep over machines needs Ray. Install it: pip install 'mdjax[ray]'.") from None


@contextlib.contextmanager
def joined(address: str | None) -> Iterator[Any]:
    """Yields the package ray, connected to a cluster until the block ends; to that of who calls, if there is one.

    address: "auto", a cluster that runs on this machine or is named by RAY_ADDRESS; "local", one that is started here
        and ended with the block; ray://HOST:PORT or HOST:PORT; or None, "auto" and else "local".

    InputError where there is none.
    """
    ray = imported()
    if ray.is_initialized():
        yield ray
        return
    with _unheard(ray):
        with _signals_kept():
            is_ours = _connect(ray, address)
        try:
            # Agents of a cluster that was started here would outlive a process that ends without this.
            with when_ended(ray.shutdown) if is_ours else contextlib.nullcontext():
                yield ray
        finally:
            ray.shutdown()


def _connect(ray: Any, address: str | None) -> bool:
    """Whether the cluster had to be started."""
    known: Any = {"log_to_driver": False, "logging_level": "ERROR"}
    if address != "local":
        try:
            _probe(_known(ray, address))
            ray.init(address=address or "auto", **known)
            return False
        except Exception as error:  # ConnectionError, ValueError, RuntimeError, of gRPC ...: as the address has it
            if address == "auto":
                raise InputError(
                    f"No Ray cluster runs here: {first_line(error)}. Start one with 'ray start --head', name another "
                    "with --address HOST:PORT, or use this machine alone: --address local."
                ) from None
            if address is not None or os.environ.get("RAY_ADDRESS"):
                raise InputError(
                    f"Cannot reach a Ray cluster at {address or os.environ['RAY_ADDRESS']}: {first_line(error)}. Give "
                    "the address that 'ray start --head' told, set RAY_AUTH_MODE=token where it asks for a token, or "
                    "use this machine alone: --address local."
                ) from None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if address is None:
        warn(f"No Ray cluster runs here: this machine's {cores} cores alone are used. Name a cluster with --address.")
    with _on_loopback(ray):
        try:
            ray.init(
                address="local", num_cpus=cores, include_dashboard=False, object_store_memory=_OBJECT_STORE, **known
            )
        except Exception as error:
            raise InputError(f"Ray does not start on this machine: {first_line(error)}. See /tmp/ray.") from None
    return True


def _known(ray: Any, address: str | None) -> str:
    """The address that is meant; ConnectionError where none is known."""
    if address not in (None, "auto"):
        return address
    if told := os.environ.get("RAY_ADDRESS"):
        return told
    find = getattr(getattr(getattr(ray, "_private", None), "services", None), "canonicalize_bootstrap_address", None)
    return "" if find is None else find("auto")


def _probe(address: str) -> None:
    """OSError where nobody listens: Ray itself tries for minutes, and then ends the process."""
    host, _, port = address.removeprefix("ray://").partition("/")[0].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()


@contextlib.contextmanager
def _on_loopback(ray: Any) -> Iterator[None]:
    constants, name = getattr(getattr(ray, "_private", None), "ray_constants", None), "ENABLE_RAY_CLUSTER"
    before, kept = os.environ.get(_ON_LOOPBACK), getattr(constants, name, None)
    os.environ[_ON_LOOPBACK] = "0"
    if kept is not None:
        setattr(constants, name, False)  # read from the environment when ray was imported
    try:
        yield
    finally:
        if before is None:
            del os.environ[_ON_LOOPBACK]
        else:
            os.environ[_ON_LOOPBACK] = before
        if kept is not None:
            setattr(constants, name, kept)


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself; handlers that were there before stay."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and before is not signal.getsignal(signal.SIGTERM):
            with contextlib.suppress(ValueError):  # not the main thread, in which Ray has taken none
                signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _unheard(ray: Any) -> Iterator[None]:
    """Keep Ray from printing what happens to its processes on standard output: what matters is told by the errors."""
    worker, name = getattr(getattr(ray, "_private", None), "worker", None), "print_to_stdstream"
    kept = getattr(worker, name, None)
    if kept is not None:
        setattr(worker, name, lambda *_, **__: None)
    try:
        yield
    finally:
        if kept is not None:
            setattr(worker, name, kept)
