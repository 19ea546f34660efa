"""What a plugin for a remote is, and what it owes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol

from gittheta.model import (
    ObjectId,
)

if TYPE_CHECKING:
    from pathlib import Path


class Remote(Protocol):
    """A place that keeps objects, beside a Git remote.

    Every method raises RemoteError with a mend. ``upload`` returns only when the object is durable there and whole;
    ``download`` writes to ``target`` what it has, and the caller checks it. Retrying is the caller's part.
    """

    name: ClassVar[str]

    @classmethod
    def at(cls, url: str, base: Path) -> Remote | None:
        """The remote behind a URL, relative paths from ``base``; None if URLs of that kind are not its own."""
        ...

    def missing(self, objects: Mapping[ObjectId, int]) -> set[ObjectId]:
        """Those of the objects that the remote does not have, or has with fewer bytes than the given number."""
        ...

    def upload(self, object_id: ObjectId, source: Path, advance: Callable[[int], None]) -> None:
        """Send one object; ``advance`` is told of bytes as they go."""
        ...

    def download(self, object_id: ObjectId, target: Path, advance: Callable[[int], None]) -> None:
        """Fetch one object into a new file."""
        ...
