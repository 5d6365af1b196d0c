"""Asking a service over the network: again where it refuses for the moment, with its reason where it does for good."""

import errno
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from mdjax.console import warn
from mdjax.errors import first_line

T = TypeVar("T")

PATIENCE = 300.0
"""Seconds for which a service that refuses for the moment is asked again."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 20.0
_PASSING_STATUSES = {408, 409, 425, 429, *range(500, 600)} - {501, 505}
"""HTTP statuses that may be others the next time. 409: another request for the same object was under way."""

_PASSING_TYPES = {
    "botocore.exceptions": ("ConnectionError", "HTTPClientError", "IncompleteReadError"),
    "botocore.parsers": ("ResponseParserError",),
    "aiohttp": ("ClientConnectionError", "ClientPayloadError"),
    "requests.exceptions": ("ConnectionError", "Timeout", "ChunkedEncodingError"),
    "google.auth.exceptions": ("TransportError",),
}
"""The errors by which the packages that speak to services tell of a connection that failed or was cut."""

_DENIED = {401, 403}


class Patience:
    """Asks one service, from any number of threads, and tells once when it stops answering and when it answers again.

    address: how sentences name the service.
    seconds: for which each question is asked again.
    """

    def __init__(self, address: str, seconds: float = PATIENCE):
        self._address, self._seconds = address, seconds
        self._lock = threading.Lock()
        self._is_troubled = False

    def ask(self, call: Callable[[], T]) -> T:
        """What `call` returns, once it does not fail for the moment.

        Raises FileNotFoundError as `call` does, where there is no such object, and OSError with the service's reason
        where it refuses for good, such as for wrong credentials, or for longer than the patience lasts.
        """
        until, pause, tries = time.monotonic() + self._seconds, _FIRST_PAUSE, 0
        while True:
            try:
                answer = call()
            except Exception as error:  # the packages raise many types
                if not is_passing(error):
                    self._end()
                    raise _told(error) from None
                tries += 1
                if time.monotonic() + pause > until:
                    raise OSError(
                        errno.EIO, f"{first_line(error)} (tried again for {self._seconds:g} seconds)"
                    ) from None
                if tries > 1:  # a busy service often refuses one request and takes the next
                    self._begin(error)
                time.sleep(pause * random.uniform(0.5, 1))
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._end()
                return answer

    def _begin(self, error: Exception) -> None:
        with self._lock:
            if not self._is_troubled:
                self._is_troubled = True
                warn(
                    f"{self._address} does not answer as it should: {first_line(error)}. "
                    f"It is asked again for {self._seconds:g} seconds at most."
                )

    def _end(self) -> None:
        if not self._is_troubled:
            return
        with self._lock:
            if self._is_troubled:
                self._is_troubled = False
                warn(f"{self._address} answers again: the work goes on.")


def is_passing(error: BaseException) -> bool:
    """Whether the same request may be answered the next time: the service is busy or broken, the network is down."""
    number = status(error)
    if number is not None:
        return number in _PASSING_STATUSES
    return any(isinstance(part, (ConnectionError, TimeoutError, *_known_types())) for part in _chain(error))


def status(error: BaseException) -> int | None:
    """The HTTP status by which a service refused, where an error tells it."""
    for part in _chain(error):
        response = getattr(part, "response", None)
        if isinstance(response, dict):
            part_status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            told = (getattr(part, name, None) for name in ("status", "status_code", "code"))
            part_status = next((value for value in told if value is not None), None)
        if isinstance(part_status, int | str) and str(part_status).isdecimal() and 100 <= int(part_status) < 600:
            return int(part_status)
    return None


def _told(error: Exception) -> OSError:
    if isinstance(error, FileNotFoundError) and not _names_the_bucket(error):
        return error
    number = errno.EACCES if isinstance(error, PermissionError) or status(error) in _DENIED else errno.EIO
    return OSError(number, first_line(error))


def _names_the_bucket(error: BaseException) -> bool:
    """Whether an error says that the whole bucket is missing: no object of it is merely not there."""
    responses: list[Any] = [getattr(part, "response", None) for part in _chain(error)]
    return any(isinstance(found, dict) and found.get("Error", {}).get("Code") == "NoSuchBucket" for found in responses)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was made of."""
    part: BaseException | None = error
    for _ in range(10):
        if part is None:
            return
        yield part
        part = part.__cause__ or (None if part.__suppress_context__ else part.__context__)


def _known_types() -> tuple[type[BaseException], ...]:
    modules = [(sys.modules.get(module), names) for module, names in _PASSING_TYPES.items()]
    return tuple(
        getattr(module, name) for module, names in modules if module for name in names if hasattr(module, name)
    )
