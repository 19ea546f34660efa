"""Compares what arrives with its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gittheta.api import Advance, ObjectId, TemporaryRemoteError
from gittheta.errors import ObjectCorrupt
from gittheta.remotes.wrapper import Wrapper
from gittheta.storage.files import check_file


@dataclass(frozen=True)
class VerifyingRemote(Wrapper):
    """Refuses an object whose SHA-256 is not its name.

    A download that was damaged on its way may be whole the next time, so it is a TemporaryRemoteError: put the retries
    around this. What is to be sent is read before it is sent: a damaged object of ours raises ObjectCorrupt.
    """

    def upload(self, object_id: ObjectId, source: Path, advance: Advance) -> None:
        """Never sends a damaged object."""
        check_file(source, object_id)
        self.inner.upload(object_id, source, advance)

    def download(self, object_id: ObjectId, target: Path, advance: Advance) -> None:
        """Never leaves a damaged object."""
        self.inner.download(object_id, target, advance)
        try:
            check_file(target, object_id)
        except ObjectCorrupt as error:
            raise TemporaryRemoteError(f"its copy of {object_id} is damaged") from error
