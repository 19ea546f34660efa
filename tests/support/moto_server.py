"""A service like S3 on this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests", "AWS_REGION": "us-east-1"}


@dataclass
class S3Server:
    """Where it listens, and what it was asked."""

    port: int
    requests: Counter[str] = field(default_factory=Counter)

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"

    def new_bucket(self) -> str:
        """The name of a bucket of its own for a test."""
        name = f"bucket-{uuid4().hex[:12]}"
        connection = HTTPConnection("127.0.0.1", self.port)
        connection.request("PUT", f"/{name}")
        assert connection.getresponse().status == 200
        connection.close()
        return name

    def counting(self, application: WSGIApplication) -> WSGIApplication:
        """The application, with its requests counted by method."""

        def counted(environment: WSGIEnvironment, start: StartResponse) -> object:
            kind = "LIST" if "list-type" in environment.get("QUERY_STRING", "") else environment["REQUEST_METHOD"]
            self.requests[kind] += 1
            return application(environment, start)

        return counted  # type: ignore[return-value]


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server that runs for a while, in threads of this process."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    from threading import Thread

    from werkzeug.serving import make_server

    server = S3Server(0)
    application = moto.DomainDispatcherApplication(moto.create_backend_app)
    listening = make_server("127.0.0.1", 0, server.counting(application), threaded=True)
    server.port = listening.server_port
    thread = Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        thread.join()
