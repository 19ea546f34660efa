"""What a plugin for a remote is, and what it owes.

The duties are those that restic asks of its backends (``internal/backend/backend.go`` there): whatever is retried,
verified, limited or shown to the user is so by wrappers of this same interface, in :mod:`gittheta.remotes`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from gittheta.api.reporting import NullReporter, Reporter
from gittheta.model import ObjectId

#: Told of bytes as they go.
Advance = Callable[[int], None]


def _nothing(key: str) -> str | None:
    return None


@dataclass(frozen=True)
class RemoteContext:
    """What a remote may know of where it is used."""

    #: What relative paths in URLs are relative to.
    base: Path
    #: The user's setting of that name (``theta.s3.endpoint``), never one that a repository brings along.
    setting: Callable[[str], str | None] = _nothing
    reporter: Reporter = field(default_factory=NullReporter)


class Remote(Protocol):
    """A place that keeps objects, beside a Git remote. Safe to use from several threads.

    - Every method raises RemoteError with a hint, and nothing else; TemporaryRemoteError where the same call may
      succeed a little later (a dropped connection, a busy server). Retrying is the caller's part. An upload may also
      raise ObjectCorrupt: the bytes that it was to send are not those that the name promises.
    - Every method is idempotent: a call that is made again, because its answer was lost, does no harm.
    - An object's name is the SHA-256 of its bytes. What is under that name is whole, or not there: an upload that was
      cut short is never seen by anybody. Two clients may upload the same object at the same time.
    - Names are 64 lower-case hexadecimal digits; whoever calls has checked that.
    """

    def sizes(self, objects: Collection[ObjectId]) -> Mapping[ObjectId, int]:
        """The size in bytes of each of the objects that is there; those that are not are left out.

        As few requests as the place allows: there may be ten thousand objects.
        """
        ...

    def upload(self, object_id: ObjectId, source: Path, advance: Advance) -> None:
        """Send one object. Returns when it is durable there and whole; replaces what was there under that name."""
        ...

    def download(self, object_id: ObjectId, target: Path, advance: Advance) -> None:
        """Fetch one object into a new file, which may be left half-written on an error. The caller checks it.

        May make ``target`` a hard link where source and target can share their bytes.
        """
        ...

    def read(self, object_id: ObjectId, offset: int, length: int) -> bytes:
        """A range of an object's bytes: exactly ``length`` of them. The caller checks them."""
        ...

    def close(self) -> None:
        """End connections. Nothing is called afterwards."""
        ...


class RemotePlugin(Remote, Protocol):
    """A kind of remote: a class whose instances are remotes. The one plugin that is opened, not called by name."""

    name: ClassVar[str]

    @classmethod
    def open(cls, url: str, context: RemoteContext) -> Remote | None:
        """The remote behind a URL; None if URLs of that kind belong to another plugin. Raises RemoteError."""
        ...
