"""Compares what arrives with its name."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gittheta.api import Advance, ObjectId, TemporaryRemoteError
from gittheta.errors import ObjectCorrupt, StoreError
from gittheta.remotes.wrapper import Wrapper
from gittheta.storage.files import check_file

_HINT = "run the command again; if that does not help, push the object again from a clone that has it whole"


@dataclass(frozen=True)
class VerifyingRemote(Wrapper):
    """Refuses an object whose SHA-256 is not its name.

    A download that was damaged on its way may be whole the next time, so it is a TemporaryRemoteError: put the retries
    around this. What is to be sent is read before it is sent: a damaged object of ours raises ObjectCorrupt.
    """

    #: False where somebody else compares what arrives.
    arrivals: bool = True

    def upload(self, object_id: ObjectId, source: Path, advance: Advance) -> None:
        """Never sends a damaged object."""
        check_file(source, object_id)
        self.inner.upload(object_id, source, advance)

    def upload_batch(self, sources: Mapping[ObjectId, Path], advance: Advance) -> None:
        """Leaves damaged objects out."""
        whole = {object_id: path for object_id, path in sources.items() if _is_whole(path, object_id)}
        super().upload_batch(whole, advance)

    def download(self, object_id: ObjectId, target: Path, advance: Advance) -> None:
        """Never leaves a damaged object."""
        self.inner.download(object_id, target, advance)
        if not self.arrivals:
            return
        try:
            check_file(target, object_id)
        except StoreError as error:
            with suppress(OSError):
                target.unlink(missing_ok=True)
            what = "is damaged" if isinstance(error, ObjectCorrupt) else "did not arrive"
            raise TemporaryRemoteError(f"its copy of {object_id} {what}", hint=_HINT) from error


def _is_whole(path: Path, object_id: ObjectId) -> bool:
    try:
        check_file(path, object_id)
    except StoreError:
        return False
    return True
