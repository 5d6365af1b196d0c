"""A server that speaks S3 on this machine, whose answers a test may replace by refusals, or lose."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import pytest
from werkzeug.serving import make_server

BUCKET = "bucket"
_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_REFUSAL = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"


class ObjectServer:
    """moto's S3 behind a switch that refuses requests.

    `requests` are those that came: the method, and the path with its query.
    """

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from moto.s3.models import s3_backends

        s3_backends.reset()  # moto keeps its buckets for the whole process
        self._application = DomainDispatcherApplication(create_backend_app)
        # One request at a time, which makes each as indivisible as the service's are.
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=False)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self.requests: list[tuple[str, str]] = []
        self.refuses: Callable[[str, str], tuple[str, str, str] | None] = lambda method, path: None
        """What is answered in place of the service: a status, a code and a message; None lets it answer."""
        self.loses: Callable[[str, str], bool] = lambda method, path: False
        """Whether the service's answer is replaced by an error after it has done what it was asked."""

    def reset(self) -> None:
        self.requests.clear()
        self.refuses, self.loses = (lambda method, path: None), (lambda method, path: False)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start: Any) -> Any:
        method, path = environ["REQUEST_METHOD"], f"{environ['PATH_INFO']}?{environ['QUERY_STRING']}"
        self.requests.append((method, path))
        if (refusal := self.refuses(method, path)) is not None:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))  # the client waits until it is taken
            return _refuse(start, *refusal)
        if self.loses(method, path):
            list(self._application(environ, lambda *_: None))
            return _refuse(start, "500 Internal Server Error", "InternalError", "We encountered an internal error.")
        return self._application(environ, start)


def _refuse(start: Any, status: str, code: str, message: str) -> list[bytes]:
    start(status, [("Content-Type", "application/xml")])
    return [_REFUSAL.format(code=code, message=message).encode()]


@contextlib.contextmanager
def object_server() -> Iterator[ObjectServer]:
    """A server with an empty bucket, to which this process's S3 clients go; nothing of the user's own is read."""
    import s3fs

    with pytest.MonkeyPatch.context() as patch:
        server = ObjectServer()
        for name, value in {**_CREDENTIALS, "AWS_ENDPOINT_URL": server.address}.items():
            patch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        for protocol in s3fs.S3FileSystem.protocol:
            patch.delitem(fsspec.config.conf, protocol, raising=False)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir(BUCKET)
        try:
            yield server
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            server.close()
