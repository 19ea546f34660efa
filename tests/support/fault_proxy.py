"""A proxy that does to HTTP what bad networks and busy services do, by a seeded plan."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from threading import Lock

from tests.support.http_server import QuietHandler, serving

#: What is done instead of passing an answer on.
FAULTS = ("500", "503", "429", "refused", "lost", "cut", "short", "flipped", "stalled")
_HOP_BY_HOP = ("connection", "transfer-encoding", "content-length", "keep-alive")


@dataclass
class FaultProxy:
    """Where it listens, and how often it did what."""

    target: int
    seed: int
    #: Which requests may suffer: method and path.
    suffers: Callable[[str, str], bool]
    #: How many of these do, from 0 to 1.
    share: float = 0.2
    port: int = 0
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = Lock()

    def fault(self, method: str, path: str) -> str:
        """What to do with one request; empty: pass it on."""
        if not self.suffers(method, path):
            return ""
        with self._lock:
            chosen = self._random.choice(FAULTS) if self._random.random() < self.share else ""
            if chosen:
                self.done[chosen] += 1
            return chosen

    def place(self, size: int) -> int:
        """A random offset in an answer of this many bytes."""
        with self._lock:
            return self._random.randrange(size) if size else 0


class _Handler(QuietHandler):
    proxy: FaultProxy

    def handle_one_request(self) -> None:
        with suppress(ConnectionError):
            super().handle_one_request()

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self._pass_on
        raise AttributeError(name)

    def _pass_on(self) -> None:
        body = self.body()
        fault = self.proxy.fault(self.command, self.path)
        if fault in ("500", "503", "429"):
            self._send(int(fault), [("Retry-After", "0")] if fault == "429" else [], b"not now")
            return
        if fault == "refused":
            self._drop()
            return
        try:
            status, headers, content = self._ask(body)
        except (HTTPException, OSError):
            self._drop()
            return
        self._answer(fault, status, headers, content)

    def _answer(self, fault: str, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        at = self.proxy.place(len(content))
        if fault == "stalled":
            time.sleep(0.3)
        if fault in ("lost", "stalled"):
            self._drop()
        elif fault == "cut":
            self._send(status, headers, content[:at], promised=len(content))
            self._drop()
        elif fault == "short" and self.command == "GET":
            self._send(status, headers, content[:at])
        elif fault == "flipped" and self.command == "GET" and content:
            self._send(status, headers, content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        else:
            self._send(status, headers, content)

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = HTTPConnection("127.0.0.1", self.proxy.target, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        connection.request(self.command, self.path, body or None, headers | {"Content-Length": str(len(body))})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        kept = [each for each in answer.getheaders() if each[0].lower() not in _HOP_BY_HOP]
        if self.command == "HEAD":  # it speaks of what a GET would get
            kept += [("Content-Length", value) for value in answer.headers.get_all("Content-Length", [])]
        return answer.status, kept, content

    def _send(self, status: int, headers: list[tuple[str, str]], content: bytes, promised: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.command != "HEAD" or not content_length(headers):
            self.send_header("Content-Length", str(len(content) if promised is None else promised))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _drop(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(2)


def content_length(headers: list[tuple[str, str]]) -> bool:
    """Whether the length is told already."""
    return any(name.lower() == "content-length" for name, _ in headers)


@contextmanager
def fault_proxy(
    target: int, seed: int, suffers: Callable[[str, str], bool], share: float = 0.2
) -> Iterator[FaultProxy]:
    """A proxy before a port of this machine, for a while."""
    proxy = FaultProxy(target, seed, suffers, share)
    with serving(type("Handler", (_Handler,), {"proxy": proxy})) as proxy.port:
        yield proxy
