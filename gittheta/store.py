"""The local object store: immutable files named by their SHA-256, written once, synced, then renamed into place.

An object packs the payloads of one add, up to about 64 MiB; its layout is specified in ``docs/spec/object.md``.
Unfinished files live in ``tmp`` and never under an object's name, so that a crash leaves nothing but a temporary file.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from gittheta.errors import ObjectCorrupt, ObjectMissing, StoreError
from gittheta.model import ObjectId, Place

OBJECT_HEAD = b"gittheta-pack-1\n"
OBJECT_SIZE = 64 << 20
_COPY = 4 << 20
_ABANDONED_AFTER = 24 * 3600
_OPEN_FILES = 64

Buffer = bytes | memoryview


class Store:
    """Objects under ``root``; those of ``alternates`` (stores of borrowed repositories) are read as if here."""

    def __init__(self, root: Path, alternates: Sequence[Path] = ()) -> None:
        self.root = root
        self.alternates = tuple(alternates)

    def home_of(self, object_id: ObjectId) -> Path:
        """Where this store keeps, or would keep, an object."""
        return self.root / "objects" / object_id[:2] / object_id

    def find(self, object_id: ObjectId) -> Path | None:
        """The file of an object, here or in an alternate; None if there is none."""
        for root in (self.root, *self.alternates):
            path = root / "objects" / object_id[:2] / object_id
            if path.is_file():
                return path
        return None

    def missing(self, needed: Mapping[ObjectId, int]) -> set[ObjectId]:
        """Those objects that are not here, or shorter than they must be."""
        return {object_id for object_id, size in needed.items() if not self.holds(object_id, size)}

    def holds(self, object_id: ObjectId, size: int = 0) -> bool:
        """Whether an object of at least that many bytes is here."""
        path = self.find(object_id)
        return path is not None and path.stat().st_size >= size

    def all(self) -> Iterator[ObjectId]:
        """Every object of this store itself, in order of name."""
        for path in sorted((self.root / "objects").glob("??/*")):
            if len(path.name) == 64:
                yield ObjectId(path.name)

    def temporary(self) -> Path:
        """A new name for an unfinished file."""
        folder = self.root / "tmp"
        with translated(folder):
            make_folders(folder)
        return folder / os.urandom(16).hex()

    def adopt(self, temporary: Path, object_id: ObjectId) -> None:
        """Give a finished, synced file its name, replacing what may be there: it is the same, or damaged."""
        home = self.home_of(object_id)
        with translated(home):
            make_folders(home.parent)
            with suppress(PermissionError):  # a hard link to somebody else's file
                os.chmod(temporary, 0o444)
            os.replace(temporary, home)
            sync_folder(home.parent)

    def import_file(self, object_id: ObjectId, fill: Callable[[Path], None]) -> None:
        """Let ``fill`` write a temporary file, check it against the name, and keep it. Raises ObjectCorrupt."""
        temporary = self.temporary()
        try:
            fill(temporary)
            check_file(temporary, object_id)
            self.adopt(temporary, object_id)
        finally:
            temporary.unlink(missing_ok=True)

    def check(self, object_id: ObjectId, advance: Callable[[int], None] = lambda amount: None) -> None:
        """Read an object whole. Raises ObjectMissing or ObjectCorrupt."""
        path = self.find(object_id)
        if path is None:
            raise ObjectMissing(f"object {object_id} is not in the store", mend=MEND_MISSING)
        check_file(path, object_id, advance)

    def remove_abandoned(self) -> None:
        """Delete temporary files that no process can still be writing: untouched for a day."""
        with suppress(OSError):
            for path in (self.root / "tmp").iterdir():
                with suppress(OSError):
                    status = path.stat()
                    # A file that is also linked elsewhere has that file's age, and takes no room.
                    if status.st_nlink == 1 and time.time() - status.st_mtime > _ABANDONED_AFTER:
                        path.unlink()


MEND_MISSING = "run `git theta fetch --all`; if no remote has it, restore the repository's theta folder from a copy"
MEND_CORRUPT = "delete that file and run `git theta fetch --all`, or add the checkpoint again from an intact copy"


@dataclass
class Reader:
    """Reads pieces of objects; keeps a bounded number of files open. Safe to use from several threads."""

    store: Store
    _files: OrderedDict[ObjectId, int] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def read(self, object_id: ObjectId, offset: int, length: int) -> bytes:
        """Exactly so many bytes. Raises ObjectMissing, or ObjectCorrupt if the object is shorter than that."""
        with self._lock, translated(self.store.root):
            data = self._pread(self._open(object_id), length, offset)
        if len(data) != length:
            raise ObjectCorrupt(f"object {object_id} is truncated", mend=MEND_CORRUPT)
        return data

    @staticmethod
    def _pread(descriptor: int, length: int, offset: int) -> bytes:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, length)

    def _open(self, object_id: ObjectId) -> int:
        if object_id in self._files:
            self._files.move_to_end(object_id)
            return self._files[object_id]
        path = self.store.find(object_id)
        if path is None:
            raise ObjectMissing(f"object {object_id} is not in the store", mend=MEND_MISSING)
        with translated(path):
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._files[object_id] = descriptor
        if len(self._files) > _OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        return descriptor

    def close(self) -> None:
        """Close every file."""
        while self._files:
            os.close(self._files.popitem()[1])


@dataclass(frozen=True, slots=True)
class Spot:
    """A run of bytes in the ``index``-th object of a pack, before the object has its name."""

    index: int
    offset: int
    length: int


class PackWriter:
    """Writes objects one after the other. Nothing has an object's name before :meth:`finish` returns.

    Each object is synced on a thread of its own while the next is written.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._closed: list[tuple[Path, ObjectId, Future[None]]] = []
        self._open: _OpenObject | None = None
        self._syncer = ThreadPoolExecutor(1, "gittheta-sync")

    def append(self, parts: Sequence[Buffer]) -> Spot:
        """Write some bytes that stay together. Raises StoreError (full disk)."""
        if self._open is None and not self._closed:
            self._store.remove_abandoned()
        with translated(self._store.root):
            current = self._open = self._open or _OpenObject(self._store.temporary())
            offset = current.length
            for part in parts:
                current.write(part)
        spot = Spot(len(self._closed), offset, current.length - offset)
        if current.length >= OBJECT_SIZE:
            self.cut()
        return spot

    def cut(self) -> int:
        """Begin a new object with whatever comes next; says the index that it will have."""
        if self._open is not None:
            current, self._open = self._open, None
            self._closed.append((current.path, current.name(), self._syncer.submit(current.close)))
        return len(self._closed)

    def discard_from(self, index: int) -> None:
        """Forget every object from this index on; a :meth:`cut` must have been made there."""
        self.cut()
        for path, _, synced in self._closed[index:]:
            with translated(path):
                synced.result()
                path.unlink(missing_ok=True)
        del self._closed[index:]

    def finish(self) -> list[ObjectId]:
        """Make every object durable under its name, and return the names in order."""
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
        """Leave nothing behind."""
        self._syncer.shutdown()
        if self._open is not None:
            os.close(self._open.descriptor)
            self._open.path.unlink(missing_ok=True)
            self._open = None
        for path, _, _ in self._closed:
            path.unlink(missing_ok=True)


class _OpenObject:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.length = 0
        self._hash = hashlib.sha256()
        with translated(path):
            self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)
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
            os.fsync(self.descriptor)
        finally:
            os.close(self.descriptor)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turns an OSError within the block into a StoreError that says what to do."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot read or write {path}: {error.strerror or error}",
            mend="free some space or mend the permissions there, then run the command again",
        ) from error


def places(spots: Iterable[Spot], names: Sequence[ObjectId]) -> tuple[Place, ...]:
    """Spots as places, now that the objects have names; neighbours in one object become one place."""
    merged: list[Place] = []
    for spot in spots:
        name = names[spot.index]
        last = merged[-1] if merged else None
        if last and last.object == name and last.offset + last.length == spot.offset:
            merged[-1] = Place(name, last.offset, last.length + spot.length)
        else:
            merged.append(Place(name, spot.offset, spot.length))
    return tuple(merged)


def write_all(descriptor: int, data: Buffer) -> None:
    """Write every byte, however many calls that takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def check_file(path: Path, object_id: ObjectId, advance: Callable[[int], None] = lambda amount: None) -> None:
    """Read a file whole and compare its SHA-256 with its name. Raises ObjectCorrupt."""
    hashed = hashlib.sha256()
    with translated(path), open(path, "rb", buffering=0) as file:
        while chunk := file.read(_COPY):
            hashed.update(chunk)
            advance(len(chunk))
    if hashed.hexdigest() != object_id:
        raise ObjectCorrupt(f"object {object_id} is not what its name says: {path} is damaged", mend=MEND_CORRUPT)


def copy_synced(source: Path, target: Path, advance: Callable[[int], None]) -> None:
    """Copy a file and sync the copy."""
    with open(source, "rb", buffering=0) as reader, open(target, "xb", buffering=0) as writer:
        while chunk := reader.read(_COPY):
            write_all(writer.fileno(), chunk)
            advance(len(chunk))
        os.fsync(writer.fileno())


def make_folders(folder: Path) -> None:
    """Create a folder and its parents, each with the permissions of the one above it (shared repositories)."""
    if folder.is_dir():
        return
    make_folders(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
        with suppress(OSError):
            folder.chmod(folder.parent.stat().st_mode & 0o7777)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename within a folder durable, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
