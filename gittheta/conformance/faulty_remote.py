"""A remote that does wrong what it is told to: for tests of whatever must cope with bad networks and bad servers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Literal, TypeVar

from gittheta.api import Advance, ObjectId, Remote, RemoteError, TemporaryRemoteError

Method = Literal["sizes", "upload", "download", "read"]
Kind = Literal["busy", "refuse", "drop", "lose", "truncate", "flip", "vanish", "claim", "slow", "none"]
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one call, or with ``times`` calls.

    - ``busy``: TemporaryRemoteError, before anything is done; asks for a pause of ``after`` seconds, if that is set.
    - ``refuse``: RemoteError, before anything is done.
    - ``drop``: half of the bytes go over the line, then TemporaryRemoteError; an upload leaves nothing behind.
    - ``lose``: everything is done, but the answer does not arrive: TemporaryRemoteError.
    - ``truncate``: a download or range lacks its last byte, and nothing is said.
    - ``flip``: one bit of a download or range is another, and nothing is said.
    - ``vanish``: a download leaves no file, and nothing is said.
    - ``claim``: ``sizes`` tells one byte for each object that is not there.
    - ``slow``: takes ``after`` seconds longer, and goes well.
    - ``none``: goes well.
    """

    kind: Kind
    #: The method that it happens to; None for whichever is called next.
    method: Method | None = None
    times: int = 1
    after: float | None = None


class FaultyRemote:
    """Hands each call on to another remote, and does wrong what the plan says. Safe to use from several threads.

    A call gets the first fault of the plan that is for its method and not used up; without one it goes well.
    """

    def __init__(self, inner: Remote, plan: Iterable[Fault] = (), sleep: Callable[[float], None] = time.sleep) -> None:
        self.inner = inner
        #: How often each method was called.
        self.calls: Counter[str] = Counter()
        self._plan = [fault for fault in plan for _ in range(fault.times)]
        self._sleep = sleep
        self._lock = Lock()

    def sizes(self, objects: Collection[ObjectId]) -> Mapping[ObjectId, int]:
        """What the inner remote has, and perhaps what it has not."""
        fault = self._next("sizes")
        sizes = self.inner.sizes(objects)
        if fault.kind == "claim":
            sizes = {object_id: sizes.get(object_id, 1) for object_id in objects}
        return self._answer(fault, sizes)

    def upload(self, object_id: ObjectId, source: Path, advance: Advance) -> None:
        """Send an object, or half of it."""
        fault = self._next("upload")
        if fault.kind == "drop":
            advance(source.stat().st_size // 2)
        else:
            self.inner.upload(object_id, source, advance)
        self._answer(fault, None)

    def download(self, object_id: ObjectId, target: Path, advance: Advance) -> None:
        """Fetch an object, half of it, or what only looks like it."""
        fault = self._next("download")
        if fault.kind in ("none", "slow", "lose"):
            self.inner.download(object_id, target, advance)
        elif fault.kind != "vanish":
            size = self.inner.sizes([object_id]).get(object_id, 1)
            data = self.inner.read(object_id, 0, size)
            spoilt = data[: size // 2] if fault.kind == "drop" else _spoilt(fault, data)
            target.write_bytes(spoilt)
            advance(len(spoilt))
        self._answer(fault, None)

    def read(self, object_id: ObjectId, offset: int, length: int) -> bytes:
        """A range, or what only looks like it."""
        fault = self._next("read")
        return self._answer(fault, _spoilt(fault, self.inner.read(object_id, offset, length)))

    def close(self) -> None:
        """Close the inner remote."""
        with self._lock:
            self.calls["close"] += 1
        self.inner.close()

    def _next(self, method: Method) -> Fault:
        """The fault of this call, as far as it comes before anything is done."""
        with self._lock:
            self.calls[method] += 1
            fault = next((fault for fault in self._plan if fault.method in (None, method)), Fault("none"))
            if fault in self._plan:
                self._plan.remove(fault)
        if fault.kind == "busy":
            raise TemporaryRemoteError("the server is busy", hint="try again later", after=fault.after)
        if fault.kind == "refuse":
            raise RemoteError("the server refuses", hint="ask whoever runs it")
        if fault.kind == "slow":
            self._sleep(fault.after or 0.01)
        return fault

    def _answer(self, fault: Fault, answer: Answer) -> Answer:
        if fault.kind in ("drop", "lose"):
            raise TemporaryRemoteError("the connection was dropped", hint="try again")
        return answer


def _spoilt(fault: Fault, data: bytes) -> bytes:
    if fault.kind == "truncate":
        return data[:-1]
    if fault.kind == "flip" and data:
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    return data
