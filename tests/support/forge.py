"""A forge on this machine: Git by HTTP (``git http-backend``), an LFS server (dulwich's), and perhaps a password."""

from __future__ import annotations

import base64
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread

import pytest

from tests.support.http_server import QuietHandler, serving

USER, PASSWORD = "me", "password-of-the-tests"


@dataclass
class Forge:
    """Repositories below a folder, each at ``/NAME.git``."""

    folder: Path
    lfs_port: int
    password: bool
    port: int = 0
    #: How often each kind of request was made.
    requests: Counter[str] = field(default_factory=Counter)
    #: The headers of every request: name and value.
    seen: list[tuple[str, str, str]] = field(default_factory=list)

    def url(self, name: str = "hub.git") -> str:
        """A repository."""
        return f"http://127.0.0.1:{self.port}/{name}"


class _Handler(QuietHandler):
    forge: Forge

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        forge = self.forge
        path = self.path.partition("?")[0]
        lfs = "/info/lfs/" in path or path.startswith("/objects/")
        forge.requests[f"{self.command} {'batch' if path.endswith('batch') else 'lfs' if lfs else 'git'}"] += 1
        forge.seen += [(path, name.lower(), value) for name, value in self.headers.items()]
        body = self.body()
        expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if forge.password and self.headers.get("Authorization") != expected:
            self._send(401, {"WWW-Authenticate": 'Basic realm="tests"'}, b"")
        elif lfs:
            self._lfs(path.partition("/info/lfs")[2] or path, body)
        else:
            self._git(body)

    def _lfs(self, path: str, body: bytes) -> None:
        connection = HTTPConnection("127.0.0.1", self.forge.lfs_port)
        kept = ("accept", "content-type", "host")
        headers = {name: value for name, value in self.headers.items() if name.lower() in kept}
        connection.request(self.command, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        self._send(answer.status, {"Content-Type": answer.headers.get("Content-Type", "text/plain")}, content)

    def _git(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        variables = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.forge.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REMOTE_USER": USER,
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=variables, capture_output=True, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        status = int(headers.pop("Status", "200").split()[0])
        self._send(status, headers, content)

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def forge(folder: Path, *, password: bool = False) -> Iterator[Forge]:
    """A forge that runs for a while, over the repositories in a folder."""
    pytest.importorskip("urllib3", reason="urllib3 is not installed")
    server = pytest.importorskip("dulwich.lfs_server", reason="dulwich is not installed")
    server.LFSRequestHandler.disable_nagle_algorithm = True
    lfs_server, _ = server.run_lfs_server(host="127.0.0.1", lfs_dir=str(folder / "lfs"))
    place = Forge(folder, lfs_server.server_address[1], password)
    Thread(target=lfs_server.serve_forever, daemon=True).start()
    try:
        with serving(type("Handler", (_Handler,), {"forge": place})) as place.port:
            yield place
    finally:
        lfs_server.shutdown()
        lfs_server.server_close()
