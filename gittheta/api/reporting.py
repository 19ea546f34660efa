"""Where the library tells what it is doing."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Where the library tells what it is doing. It never prints itself."""

    def warn(self, message: str) -> None:
        """Something the user should know."""
        ...

    def trace(self, message: str) -> None:
        """Something a developer may want to know."""
        ...

    def start(self, what: str, total: int) -> None:
        """A piece of work of ``total`` bytes begins (0: unknown)."""
        ...

    def advance(self, amount: int) -> None:
        """So many bytes more are done."""
        ...
