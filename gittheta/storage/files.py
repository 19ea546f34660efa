"""Safe work with files and folders: everything written, synced and checked; errors that say what to do."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from gittheta.errors import ObjectCorrupt, StoreError

if TYPE_CHECKING:
    from gittheta.model import ObjectId

#: Bytes that are copied or read at a time.
_COPY = 4 << 20


Buffer = bytes | memoryview


HINT_MISSING = "run `git theta fetch --all`; if no remote has it, restore the repository's theta folder from a copy"


HINT_CORRUPT = "delete that file and run `git theta fetch --all`, or add the checkpoint again from an intact copy"


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn an OSError within the block into a StoreError that says what to do."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot read or write {path}: {error.strerror or error}",
            hint="free some space or repair the permissions there, then run the command again",
        ) from error


def write_all(descriptor: int, data: Buffer) -> None:
    """Write all bytes, in as many calls as needed. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def check_file(path: Path, object_id: ObjectId, advance: Callable[[int], None] = lambda _: None) -> None:
    """Read a whole file and compare its SHA-256 with the object's name. Raises ObjectCorrupt, and StoreError."""
    hashed = hashlib.sha256()
    with translated(path), open(path, "rb", buffering=0) as file:
        while chunk := file.read(_COPY):
            hashed.update(chunk)
            advance(len(chunk))
    if hashed.hexdigest() != object_id:
        raise ObjectCorrupt(f"object {object_id} is not what its name says: {path} is damaged", hint=HINT_CORRUPT)


def copy_synced(source: Path, target: Path, advance: Callable[[int], None]) -> None:
    """Copy a file to a new one and sync that. Raises OSError."""
    with open(source, "rb", buffering=0) as reader, open(target, "xb", buffering=0) as writer:
        while chunk := reader.read(_COPY):
            write_all(writer.fileno(), chunk)
            advance(len(chunk))
        sync(writer.fileno())


def make_folders(folder: Path) -> None:
    """Create a folder and its parents, each with the permissions of its own parent (for shared repositories)."""
    if folder.is_dir():
        return
    make_folders(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
        with suppress(OSError):
            folder.chmod(folder.parent.stat().st_mode & 0o7777)
        sync_folder(folder.parent)


def sync(descriptor: int) -> None:
    """Make what was written to a file durable, past the cache of the drive itself. Raises OSError."""
    if sys.platform == "darwin":
        import fcntl

        with suppress(OSError):  # not every file system of macOS knows it
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make a rename within a folder durable, where the system can do that. Raises OSError."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_seeking = Lock()


def read_at(descriptor: int, offset: int, length: int) -> bytes:
    """``length`` bytes of an open file from ``offset`` on; fewer only at its end. Safe to use from several threads."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, offset)
    with _seeking:  # Windows has no pread, and all threads share the position of a descriptor
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, length)


def open_new(path: Path, mode: int = 0o600) -> int:
    """A descriptor of a new file, for writing and reading. Raises OSError, also if a file of that name exists."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)


def open_unnamed(path: Path) -> int:
    """A descriptor of a new file that vanishes when it is closed; ``path`` must be free. Raises StoreError."""
    with translated(path):
        if sys.platform == "win32":
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_BINARY | os.O_TEMPORARY, 0o600)
        descriptor = open_new(path)
        os.unlink(path)
    return descriptor


def open_to_read(path: Path) -> int:
    """A descriptor of an existing file, for reading. Raises OSError."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
