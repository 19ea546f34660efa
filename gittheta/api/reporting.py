"""Where the library tells what it is doing. It never prints itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Reporter(Protocol):
    """Whoever is told. Every method may be called from several threads."""

    def warn(self, message: str) -> None:
        """Something the user should know."""
        ...

    def trace(self, message: str) -> None:
        """Something a developer may want to know."""
        ...

    def start(self, what: str, total: int) -> None:
        """A piece of work of ``total`` bytes begins; 0: nobody knows how many."""
        ...

    def advance(self, amount: int) -> None:
        """``amount`` bytes more are done."""
        ...


class NullReporter:
    """A reporter that tells nobody."""

    def warn(self, message: str) -> None:
        """Nothing."""

    def trace(self, message: str) -> None:
        """Nothing."""

    def start(self, what: str, total: int) -> None:
        """Nothing."""

    def advance(self, amount: int) -> None:
        """Nothing."""


@contextmanager
def timed(reporter: Reporter, what: str) -> Iterator[None]:
    """Trace how long something took, if it succeeds."""
    began = time.perf_counter()
    yield
    reporter.trace(f"{what}: {(time.perf_counter() - began) * 1000:.1f} ms")
