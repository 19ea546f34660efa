"""Tells a reporter how far transfers are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.remotes.wrapper import Wrapper

if TYPE_CHECKING:
    from gittheta.api import Advance, ObjectId, Reporter


@dataclass(frozen=True)
class ReportingRemote(Wrapper):
    """Tells a reporter of bytes as they go, besides whoever asked for the transfer."""

    reporter: Reporter

    def upload(self, object_id: ObjectId, source: Path, advance: Advance) -> None:
        """And tells the reporter."""
        self.inner.upload(object_id, source, self._both(advance))

    def download(self, object_id: ObjectId, target: Path, advance: Advance) -> None:
        """And tells the reporter."""
        self.inner.download(object_id, target, self._both(advance))

    def upload_batch(self, sources: Mapping[ObjectId, Path], advance: Advance) -> None:
        """And tells the reporter."""
        super().upload_batch(sources, self._both(advance))

    def download_batch(self, targets: Mapping[ObjectId, Path], advance: Advance) -> None:
        """And tells the reporter."""
        super().download_batch(targets, self._both(advance))

    def _both(self, advance: Advance) -> Advance:
        def both(amount: int) -> None:
            advance(amount)
            self.reporter.advance(amount)

        return both
