"""The local object store: immutable files named by their SHA-256, written once, synced, then renamed into place.

An object packs the payloads of one add, up to about 64 MiB; its layout is specified in ``docs/spec/object.md``.
Unfinished files live in ``tmp`` and never under an object's name, so that a crash leaves nothing but a temporary file.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from gittheta.errors import ObjectCorrupt, ObjectMissing
from gittheta.model import ObjectId
from gittheta.storage.files import (
    HINT_CORRUPT,
    HINT_MISSING,
    check_file,
    make_folders,
    open_to_read,
    read_at,
    sync_folder,
    translated,
)

#: Seconds without a change after which no process can still be writing a temporary file.
_ABANDONED_AFTER = 24 * 3600
#: The most objects that a reader keeps open.
_OPEN_FILES = 64


class ObjectStore:
    """Objects under ``root``. Those in ``alternates`` (stores of repositories that Git borrows from) are read too.

    Safe to use from several threads, and by several processes at once.
    """

    def __init__(self, root: Path, alternates: Sequence[Path] = ()) -> None:
        self.root = root
        self.alternates = tuple(alternates)

    def home_of(self, object_id: ObjectId) -> Path:
        """The path at which this store keeps, or would keep, an object."""
        return self.root / "objects" / object_id[:2] / object_id

    def find(self, object_id: ObjectId) -> Path | None:
        """The file of an object, here or in an alternate; None if there is none."""
        for root in (self.root, *self.alternates):
            path = root / "objects" / object_id[:2] / object_id
            if path.is_file():
                return path
        return None

    def missing(self, needed: Mapping[ObjectId, int]) -> set[ObjectId]:
        """Those of the objects that are not here, or are shorter than their least size in bytes."""
        return {object_id for object_id, size in needed.items() if not self.holds(object_id, size)}

    def holds(self, object_id: ObjectId, size: int = 0) -> bool:
        """Whether an object of at least ``size`` bytes is here."""
        path = self.find(object_id)
        return path is not None and path.stat().st_size >= size

    def all(self) -> Iterator[ObjectId]:
        """Every object of this store itself (not of its alternates), sorted by name."""
        for path in sorted((self.root / "objects").glob("??/*")):
            if len(path.name) == 64:
                yield ObjectId(path.name)

    def temporary(self) -> Path:
        """A new path for an unfinished file. Raises StoreError."""
        folder = self.root / "tmp"
        with translated(folder):
            make_folders(folder)
        return folder / os.urandom(16).hex()

    def adopt(self, temporary: Path, object_id: ObjectId) -> None:
        """Give a finished, synced file its object's name. An existing file is replaced: it is equal, or damaged.

        Raises StoreError.
        """
        home = self.home_of(object_id)
        with translated(home):
            make_folders(home.parent)
            with suppress(PermissionError):  # it may be a hard link to another user's file
                os.chmod(temporary, 0o444)
            try:
                os.replace(temporary, home)
            except PermissionError:
                if os.name != "nt" or not home.exists():
                    raise
                # Windows replaces no file that is read-only or open: what is there does as well, if it is whole.
                check_file(home, object_id)
                os.chmod(temporary, 0o600)
                temporary.unlink()
            sync_folder(home.parent)

    def import_file(self, object_id: ObjectId, fill: Callable[[Path], None]) -> None:
        """Let ``fill`` write a temporary file, compare it with the object's name, and keep it. Raises ObjectCorrupt."""
        temporary = self.temporary()
        try:
            fill(temporary)
            check_file(temporary, object_id)
            self.adopt(temporary, object_id)
        finally:
            temporary.unlink(missing_ok=True)

    def check(self, object_id: ObjectId, advance: Callable[[int], None] = lambda _: None) -> None:
        """Read a whole object and check it against its name. Raises ObjectMissing or ObjectCorrupt."""
        path = self.find(object_id)
        if path is None:
            raise ObjectMissing(f"object {object_id} is not in the store", hint=HINT_MISSING)
        check_file(path, object_id, advance)

    def remove_abandoned(self) -> None:
        """Delete temporary files that did not change for a day, so that no process can still be writing them."""
        with suppress(OSError):
            for path in (self.root / "tmp").iterdir():
                with suppress(OSError):
                    status = path.stat()
                    # A hard link to another file has that file's age, and takes no space.
                    if status.st_nlink == 1 and time.time() - status.st_mtime > _ABANDONED_AFTER:
                        path.unlink()


@dataclass
class ObjectReader:
    """Reads pieces of objects; keeps a bounded number of files open. Safe to use from several threads."""

    store: ObjectStore
    _files: OrderedDict[ObjectId, int] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def read(self, object_id: ObjectId, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes of an object, from ``offset`` on.

        Raises ObjectMissing, or ObjectCorrupt if the object is too short.
        """
        with self._lock, translated(self.store.root):
            data = read_at(self._open(object_id), offset, length)
        if len(data) != length:
            raise ObjectCorrupt(f"object {object_id} is truncated", hint=HINT_CORRUPT)
        return data

    def _open(self, object_id: ObjectId) -> int:
        if object_id in self._files:
            self._files.move_to_end(object_id)
            return self._files[object_id]
        path = self.store.find(object_id)
        if path is None:
            raise ObjectMissing(f"object {object_id} is not in the store", hint=HINT_MISSING)
        with translated(path):
            descriptor = open_to_read(path)
        self._files[object_id] = descriptor
        if len(self._files) > _OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        return descriptor

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            while self._files:
                os.close(self._files.popitem()[1])
