"""Safe work with files and folders: everything written, synced and checked; errors that say what to do."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO

from gittheta.errors import ObjectCorrupt, ObjectUnreadable, StoreError

if TYPE_CHECKING:
    from gittheta.model import ObjectId

#: Bytes that are copied or read at a time.
_COPY = 4 << 20


Buffer = bytes | memoryview


HINT_MISSING = "run `git theta fetch --all`; if no remote has it, restore the repository's theta folder from a copy"


HINT_CORRUPT = "delete that file and run `git theta fetch --all`, or add the checkpoint again from an intact copy"


#: What to do about an error of the file system, by its number.
_HINTS = {
    errno.ENOSPC: "free some space, then run the command again",
    errno.EDQUOT: "free some space, or ask for a larger quota, then run the command again",
    errno.EACCES: "repair the permissions there, then run the command again",
    errno.EPERM: "repair the permissions there, then run the command again",
    errno.EROFS: "make it writable there, or work in a copy of the repository",
    errno.EIO: "the disk or its connection fails: look at the system's log, and save what you can to another disk",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f), or use a file system that takes larger ones",
    errno.EMFILE: "raise the limit of open files (ulimit -n), then run the command again",
}


def os_error(path: Path, error: OSError) -> StoreError:
    """The StoreError for an OSError: which file, what the system says, and what to do about that."""
    hint = _HINTS.get(error.errno or 0, "mend what stands in the way there, then run the command again")
    named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else path
    return StoreError(f"cannot read or write {named}: {error.strerror or error}", hint=hint)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn an OSError within the block into a StoreError that names the file and says what to do."""
    try:
        yield
    except OSError as error:
        raise os_error(path, error) from error


def write_all(descriptor: int, data: Buffer) -> None:
    """Write all bytes, in as many calls as needed. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def check_file(path: Path, object_id: ObjectId, advance: Callable[[int], None] = lambda _: None) -> None:
    """Read a whole file and compare its SHA-256 with the object's name. Raises ObjectCorrupt and ObjectUnreadable."""
    hashed = hashlib.sha256()
    try:
        with reading(path, follow=False) as file:
            while chunk := file.read(_COPY):
                hashed.update(chunk)
                advance(len(chunk))
    except NotRegular as error:
        raise ObjectCorrupt(f"object {object_id}: {path}: {error.strerror}", hint=HINT_CORRUPT) from error
    except OSError as error:
        reason = os_error(path, error)
        raise ObjectUnreadable(f"object {object_id}: {reason.what}", hint=reason.hint) from error
    if hashed.hexdigest() != object_id:
        raise ObjectCorrupt(f"object {object_id} is not what its name says: {path} is damaged", hint=HINT_CORRUPT)


def copy_synced(source: Path, target: Path, advance: Callable[[int], None]) -> None:
    """Copy a file, not a link, to a new one and sync that. Raises OSError."""
    with reading(source, follow=False) as reader, open(target, "xb", buffering=0) as writer:
        while chunk := reader.read(_COPY):
            write_all(writer.fileno(), chunk)
            advance(len(chunk))
        sync(writer.fileno())


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


@contextmanager
def replacing(target: Path, like: Path | None = None) -> Iterator[int]:
    """A descriptor of a new file, which takes the place of ``target`` at the end: synced, as accessible as ``like``.

    If the block raises, nothing has changed. Raises StoreError.
    """
    temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}.gittheta")
    with translated(target):
        descriptor = open_new(temporary, 0o666)
        try:
            yield descriptor
            sync(descriptor)
            if like is not None:
                os.chmod(temporary, like.stat().st_mode & 0o7777)
            os.replace(temporary, target)
            sync_folder(target.parent)
        finally:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)


def open_unnamed(path: Path) -> int:
    """A descriptor of a new file that vanishes when it is closed; ``path`` must be free. Raises StoreError."""
    with translated(path):
        if sys.platform == "win32":
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_BINARY | os.O_TEMPORARY, 0o600)
        descriptor = open_new(path)
        os.unlink(path)
    return descriptor


#: Files are opened without waiting for anybody at the other end, as an open of a FIFO would.
_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link",
}


class NotRegular(OSError):
    """What has the name of a file is a folder, a FIFO, a socket, a device, or a link that is not followed."""

    def __init__(self, path: Path, mode: int) -> None:
        super().__init__(errno.EINVAL, f"it is {_KINDS.get(stat.S_IFMT(mode), 'special')}, not a file", str(path))


def is_regular(path: Path) -> bool:
    """Whether a file of its own is there: no link, folder, FIFO or device. Raises OSError if nobody can tell."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def open_to_read(path: Path, *, follow: bool = True) -> int:
    """A descriptor of an existing file, for reading. Never waits, and has no effect on a device.

    Raises NotRegular for anything but a file, also for a link unless ``follow``, and other OSErrors.
    """
    status = path.stat() if follow else path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise NotRegular(path, status.st_mode)
    descriptor = os.open(path, os.O_RDONLY | _AT_ONCE | (0 if follow else getattr(os, "O_NOFOLLOW", 0)))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):  # it was put there in between
        os.close(descriptor)
        raise NotRegular(path, mode)
    return descriptor


@contextmanager
def reading(path: Path, *, follow: bool = True) -> Iterator[BinaryIO]:
    """An existing file, opened for reading as :func:`open_to_read` does. Raises OSError."""
    with open(open_to_read(path, follow=follow), "rb") as file:
        yield file
