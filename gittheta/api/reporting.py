"""How the library reports what it does: through a :class:`Reporter`, never by printing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Reporter(Protocol):
    """Receives messages and progress. Every method may be called from several threads."""

    def warn(self, message: str) -> None:
        """A message for the user."""
        ...

    def trace(self, message: str) -> None:
        """A message for developers, shown under ``-v``."""
        ...

    def start(self, what: str, total: int) -> None:
        """Work on ``total`` bytes begins; 0 if their number is unknown."""
        ...

    def advance(self, amount: int) -> None:
        """``amount`` bytes more are done."""
        ...


class NullReporter:
    """A reporter that discards everything."""

    def warn(self, message: str) -> None:
        """Discard a message for the user."""

    def trace(self, message: str) -> None:
        """Discard a message for developers."""

    def start(self, what: str, total: int) -> None:
        """Discard the beginning of some work."""

    def advance(self, amount: int) -> None:
        """Discard progress."""


@contextmanager
def timed(reporter: Reporter, what: str) -> Iterator[None]:
    """Trace how long something took, if it succeeds."""
    began = time.perf_counter()
    yield
    reporter.trace(f"{what}: {(time.perf_counter() - began) * 1000:.1f} ms")
