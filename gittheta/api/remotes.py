"""What a plugin for a remote is, and what it must guarantee.

The duties are those that restic asks of its backends (``internal/backend/backend.go`` there). A remote need not retry,
verify, limit its speed or show progress: wrappers of the same interface do that, in :mod:`gittheta.remotes`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from gittheta.api.network import DefaultNetwork, Network
from gittheta.api.reporting import NullReporter, Reporter

if TYPE_CHECKING:
    from gittheta.model import ObjectId

#: Called with the number of bytes transferred since the call before.
Advance = Callable[[int], None]


def _nothing(_: str) -> str | None:
    return None


def _no_sizes(_: Collection[ObjectId]) -> Mapping[ObjectId, int]:
    return {}


@dataclass(frozen=True)
class RemoteContext:
    """What a remote may know about the place where it is used."""

    #: The folder from which relative paths in URLs start.
    base: Path
    #: The user's setting of a name such as ``theta.s3.endpoint``, or None. Never a setting from a committed file.
    setting: Callable[[str], str | None] = _nothing
    reporter: Reporter = field(default_factory=NullReporter)
    #: What a committed file suggests for a name such as ``lfs.url``: to be followed to the Git remote's own host only.
    suggestion: Callable[[str], str | None] = _nothing
    #: The sizes in bytes of those of some objects that are known, here or by a list that the Git remote has.
    known_sizes: Callable[[Collection[ObjectId]], Mapping[ObjectId, int]] = _no_sizes
    #: The name of the Git remote beside which the objects are kept; a URL for one without a name.
    name: str = ""
    #: Whether the user has chosen the URL for objects; otherwise it is the Git remote's own.
    chosen: bool = True
    #: The variables of the environment that a service's own command line would heed.
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    network: Network = field(default_factory=DefaultNetwork)


class Remote(Protocol):
    """A place that keeps objects, beside a Git remote. Safe to use from several threads.

    - Every method raises RemoteError with a hint, and nothing else; TemporaryRemoteError where the same call may
      succeed a little later (a dropped connection, a busy server). The caller retries. An upload may also
      raise ObjectCorrupt: the bytes that it was to send are not those that the name promises.
    - Every method is idempotent: repeating a call whose answer was lost does no harm.
    - An object's name is the SHA-256 of its bytes. The object under a name is complete or absent: nobody ever sees an
      upload that was cut short. Two clients may upload the same object at the same time.
    - Names are 64 lower-case hexadecimal digits; the caller has checked that.
    """

    def sizes(self, objects: Collection[ObjectId]) -> Mapping[ObjectId, int]:
        """The sizes in bytes of those of the objects that the remote has; missing ones are left out.

        Makes as few requests as the service allows: there may be ten thousand objects.
        """
        ...

    def upload(self, object_id: ObjectId, source: Path, advance: Advance) -> None:
        """Send one object. Returns when it is complete and durable; replaces any object of that name."""
        ...

    def download(self, object_id: ObjectId, target: Path, advance: Advance) -> None:
        """Fetch one object into a file. The caller checks it.

        A ``target`` that is there already holds the object's first bytes: an earlier download was cut short. Go on
        behind them if the service can send ranges, otherwise begin anew. Tell ``advance`` of these bytes too. After an
        error, leave what has arrived. May make ``target`` a hard link where source and target can share their bytes.
        """
        ...

    def read(self, object_id: ObjectId, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes of an object, from ``offset`` on. The caller checks them."""
        ...

    def close(self) -> None:
        """End connections. Nothing is called afterwards."""
        ...


@runtime_checkable
class BatchRemote(Remote, Protocol):
    """A remote whose service takes many objects in one request, or tells where to send each of them.

    The two methods are the fast way only: they may leave objects out, for whatever reason. The caller finds out which,
    and moves those one by one.
    """

    @property
    def batch(self) -> int:
        """The most objects that one call takes."""
        ...

    def upload_batch(self, sources: Mapping[ObjectId, Path], advance: Advance) -> None:
        """Send objects, the earlier in the mapping the better. What has been sent is complete and durable."""
        ...

    def download_batch(self, targets: Mapping[ObjectId, Path], advance: Advance) -> None:
        """Fetch objects into files, as :meth:`Remote.download` does. Files that are not complete may stay behind."""
        ...


@runtime_checkable
class ManagedRemote(Remote, Protocol):
    """A remote whose objects can be listed and deleted, and that keeps small notes beside them. Optional.

    The notes are how several users of a store agree on what is deleted (``docs/spec/store.md``). What one call has
    written, removed or deleted, every later call of anybody sees. Names of notes consist of lower-case letters, digits,
    dots and hyphens.
    """

    @property
    def manages(self) -> bool:
        """Whether that is possible at this very place. If not, the other methods are never called."""
        ...

    def reservation(self) -> str:
        """Why nothing may be deleted, since others rely on this place in ways that no note tells; empty if it may."""
        ...

    def names(self) -> Iterator[tuple[ObjectId, int]]:
        """Every object, and its size in bytes."""
        ...

    def remove(self, object_id: ObjectId) -> None:
        """Delete an object, if it is there."""
        ...

    def notes(self) -> list[str]:
        """The names of all notes."""
        ...

    def read_note(self, name: str) -> bytes | None:
        """A note; None if there is none of that name."""
        ...

    def write_note(self, name: str, data: bytes) -> None:
        """Write a note, or replace it. Nobody ever sees a part of it."""
        ...

    def remove_note(self, name: str) -> None:
        """Delete a note, if it is there."""
        ...


class RemotePlugin(Remote, Protocol):
    """A kind of remote: a class whose instances are remotes. Chosen by a URL; all other plugins are chosen by name."""

    name: ClassVar[str]
    #: Whether an upload compares what has arrived with the object's name. Otherwise files are compared before they go.
    verifies: ClassVar[bool]
    #: Whether objects that no pointer of Git LFS names may be deleted there.
    wants_pointers: ClassVar[bool]

    @classmethod
    def open(cls, url: str, context: RemoteContext) -> Remote | None:
        """The remote behind a URL; None if URLs of that kind belong to another plugin. Raises RemoteError."""
        ...
