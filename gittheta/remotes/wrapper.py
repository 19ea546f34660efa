"""A remote that hands everything on to another one: what retrying, verifying, limiting and progress have in common."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.api import BatchRemote

if TYPE_CHECKING:
    from gittheta.api import Advance, ObjectId, Remote


@dataclass(frozen=True)
class Wrapper:
    """The inner remote as it is; subclasses change what they are for. Safe to use from several threads."""

    inner: Remote

    def sizes(self, objects: Collection[ObjectId]) -> Mapping[ObjectId, int]:
        """As the inner remote."""
        return self.inner.sizes(objects)

    def upload(self, object_id: ObjectId, source: Path, advance: Advance) -> None:
        """As the inner remote."""
        self.inner.upload(object_id, source, advance)

    def download(self, object_id: ObjectId, target: Path, advance: Advance) -> None:
        """As the inner remote."""
        self.inner.download(object_id, target, advance)

    def read(self, object_id: ObjectId, offset: int, length: int) -> bytes:
        """As the inner remote."""
        return self.inner.read(object_id, offset, length)

    def close(self) -> None:
        """As the inner remote."""
        self.inner.close()

    @property
    def batch(self) -> int:
        """As the inner remote; 1 if it takes objects one by one only."""
        return self.inner.batch if isinstance(self.inner, BatchRemote) else 1

    def upload_batch(self, sources: Mapping[ObjectId, Path], advance: Advance) -> None:
        """As the inner remote."""
        if isinstance(self.inner, BatchRemote):
            self.inner.upload_batch(sources, advance)

    def download_batch(self, targets: Mapping[ObjectId, Path], advance: Advance) -> None:
        """As the inner remote."""
        if isinstance(self.inner, BatchRemote):
            self.inner.download_batch(targets, advance)
