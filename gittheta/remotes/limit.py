"""Not too much at once: transfers side by side, and bytes a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import TYPE_CHECKING

from gittheta.remotes.wrapper import Wrapper

if TYPE_CHECKING:
    from gittheta.api import Advance, ObjectId


class Bandwidth:
    """Bytes a second that all threads may move together. Safe to use from several threads.

    Whoever has moved bytes waits until these were due: the rate holds on average, pieces go at full speed.
    """

    def __init__(
        self,
        bytes_per_second: float,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate = bytes_per_second
        self._sleep = sleep
        self._clock = clock
        self._due = 0.0
        self._lock = Lock()

    def used(self, amount: int) -> None:
        """``amount`` bytes were moved; returns when the next may be."""
        with self._lock:
            now = self._clock()
            self._due = max(self._due, now) + max(amount, 0) / self._rate
            pause = self._due - now
        if pause > 0:
            self._sleep(pause)


@dataclass(frozen=True)
class LimitedRemote(Wrapper):
    """At most ``transfers`` uploads, downloads and reads at a time, and no more than the bandwidth."""

    transfers: int = 8
    bandwidth: Bandwidth | None = None
    _slots: BoundedSemaphore = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_slots", BoundedSemaphore(self.transfers))

    def upload(self, object_id: ObjectId, source: Path, advance: Advance) -> None:
        """Within the limits."""
        with self._limited(advance) as limited:
            self.inner.upload(object_id, source, limited)

    def download(self, object_id: ObjectId, target: Path, advance: Advance) -> None:
        """Within the limits."""
        with self._limited(advance) as limited:
            self.inner.download(object_id, target, limited)

    def read(self, object_id: ObjectId, offset: int, length: int) -> bytes:
        """Within the limits."""
        with self._limited(lambda _: None) as limited:
            data = self.inner.read(object_id, offset, length)
            limited(len(data))
            return data

    def upload_batch(self, sources: Mapping[ObjectId, Path], advance: Advance) -> None:
        """Within the limits."""
        with self._limited(advance) as limited:
            super().upload_batch(sources, limited)

    def download_batch(self, targets: Mapping[ObjectId, Path], advance: Advance) -> None:
        """Within the limits."""
        with self._limited(advance) as limited:
            super().download_batch(targets, limited)

    @contextmanager
    def _limited(self, advance: Advance) -> Iterator[Advance]:
        bandwidth = self.bandwidth

        def limited(amount: int) -> None:
            advance(amount)
            if bandwidth is not None:
                bandwidth.used(amount)

        with self._slots:
            yield limited
