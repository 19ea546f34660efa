"""A reporter for tests."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Listening:
    """A reporter that remembers."""

    warnings: list[str] = field(default_factory=list)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def trace(self, message: str) -> None: ...

    def start(self, what: str, total: int) -> None: ...

    def advance(self, amount: int) -> None: ...
