"""Write objects that each hold many payloads. Their layout is specified in ``docs/spec/object.md``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.model import ObjectId, Place
from gittheta.storage.files import Buffer, sync, translated, write_all

if TYPE_CHECKING:
    from gittheta.storage.objects import ObjectStore

OBJECT_HEAD = b"gittheta-pack-1\n"


@dataclass(frozen=True, slots=True)
class PendingPlace:
    """A run of bytes in an object that has no name yet: the object of this index among those that a writer writes."""

    index: int
    offset: int
    length: int


class PackWriter:
    """Writes objects one after the other. No file has an object's name before :meth:`finish`. For one thread.

    An object is synced on another thread while the next one is written.
    """

    def __init__(self, store: ObjectStore, object_size: int) -> None:
        self._store = store
        self._object_size = object_size
        self._closed: list[tuple[Path, ObjectId, Future[None]]] = []
        self._open: _OpenObject | None = None
        self._syncer = ThreadPoolExecutor(1, "gittheta-sync")

    def append(self, parts: Sequence[Buffer]) -> PendingPlace:
        """Write some bytes side by side into one object, and return their place. Raises StoreError (full disk)."""
        if self._open is None and not self._closed:
            self._store.remove_abandoned()
        with translated(self._store.root):
            current = self._open = self._open or _OpenObject(self._store)
            offset = current.length
            for part in parts:
                current.write(part)
        place = PendingPlace(len(self._closed), offset, current.length - offset)
        if current.length >= self._object_size:
            self.cut()
        return place

    def cut(self) -> int:
        """Begin a new object with the next bytes, and return its index."""
        if self._open is not None:
            current, self._open = self._open, None
            self._closed.append((current.path, current.name(), self._syncer.submit(current.close)))
        return len(self._closed)

    def discard_from(self, index: int) -> None:
        """Delete every object from this index on, which an earlier :meth:`cut` returned. Raises StoreError."""
        self.cut()
        for path, _, synced in self._closed[index:]:
            with translated(path):
                synced.result()
                path.unlink(missing_ok=True)
        del self._closed[index:]

    def finish(self) -> list[ObjectId]:
        """Make every object durable under its name, and return the names in order. Raises StoreError."""
        self.cut()
        names = []
        try:
            with translated(self._store.root):
                for path, name, synced in self._closed:
                    synced.result()
                    self._store.adopt(path, name)
                    names.append(name)
        finally:
            self.abort()
        return names

    def abort(self) -> None:
        """Delete all unfinished files."""
        self._syncer.shutdown()
        if self._open is not None:
            os.close(self._open.descriptor)
            self._open.path.unlink(missing_ok=True)
            self._open = None
        for path, _, _ in self._closed:
            path.unlink(missing_ok=True)


class _OpenObject:
    def __init__(self, store: ObjectStore) -> None:
        path = self.path = store.temporary()
        self.length = 0
        self._hash = hashlib.sha256()
        with translated(path):
            self.descriptor = store.permissions.create(path, 0o444)
        try:
            self.write(OBJECT_HEAD)
        except OSError:
            os.close(self.descriptor)
            path.unlink(missing_ok=True)
            raise

    def write(self, part: Buffer) -> None:
        self._hash.update(part)
        write_all(self.descriptor, part)
        self.length += len(part)

    def name(self) -> ObjectId:
        return ObjectId(self._hash.hexdigest())

    def close(self) -> None:
        try:
            sync(self.descriptor)
        finally:
            os.close(self.descriptor)


def places(pending: Iterable[PendingPlace], names: Sequence[ObjectId]) -> tuple[Place, ...]:
    """Pending places, now that their objects have names; neighbours in the same object become one place."""
    merged: list[Place] = []
    for place in pending:
        name = names[place.index]
        last = merged[-1] if merged else None
        if last and last.object == name and last.offset + last.length == place.offset:
            merged[-1] = Place(name, last.offset, last.length + place.length)
        else:
            merged.append(Place(name, place.offset, place.length))
    return tuple(merged)
