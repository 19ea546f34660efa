"""The local object store: immutable files named by their SHA-256, written once, synced, then renamed into place.

An object packs the payloads of one add, up to about 64 MiB; its layout is specified in ``docs/spec/object.md``.
Unfinished files live in ``tmp`` and never under an object's name, so that a crash leaves nothing but a temporary file.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from gittheta.errors import ObjectCorrupt, ObjectMissing, ObjectUnreadable, StoreError
from gittheta.model import ObjectId
from gittheta.storage.files import (
    HINT_CORRUPT,
    HINT_MISSING,
    NotRegular,
    check_file,
    copy_synced,
    is_regular,
    open_to_read,
    os_error,
    read_at,
    reading,
    sync,
    sync_folder,
    translated,
)
from gittheta.storage.permissions import BY_UMASK, Permissions
from gittheta.storage.temporary import TemporaryFiles

#: The most objects that a reader keeps open.
_OPEN_FILES = 64
#: Seconds for which an object that was used is not marked as used again.
FRESH = 3600.0
_NAME = 64
#: The folder of objects of which only the first bytes have arrived.
_INCOMING = "incoming"
#: Before the name of an object that is arriving.
_PART = "part-"


class ObjectStore:
    """Objects under ``root``. Those in ``alternates`` (stores of repositories that Git borrows from) are read too.

    An object is a regular file: a link, a folder or a FIFO under its name does not count, and is replaced if that is
    possible. Safe to use from several threads, and by several processes at once.
    """

    def __init__(
        self,
        root: Path,
        alternates: Sequence[Path] = (),
        permissions: Permissions = BY_UMASK,
        *,
        foreign: bool = False,
    ) -> None:
        """``foreign``: somebody else's store, in which folders that are links are refused."""
        self.root = root
        self.alternates = tuple(alternates)
        self.permissions = permissions
        self._foreign = foreign
        self.unfinished = TemporaryFiles(root, permissions)
        #: Objects that turned out to be damaged in this process: nothing new relies on them.
        self._distrusted: set[ObjectId] = set()
        self._guard = Lock()

    def home_of(self, object_id: ObjectId) -> Path:
        """The path at which this store writes an object: that of Git LFS, which so reads and writes this store too."""
        return self.root / "objects" / object_id[:2] / object_id[2:4] / object_id

    def find(self, object_id: ObjectId) -> Path | None:
        """The file of an object, here or in an alternate; None if there is none. Raises ObjectUnreadable."""
        places = [place for root in (self.root, *self.alternates) for place in _places(root, object_id)]
        # An object that moves from the former place to the present one meanwhile is found at the second look.
        for path in (*places, self.home_of(object_id)):
            try:
                if self._foreign:
                    _refuse_links(*_folders_of(path))
                if is_regular(path):
                    return path
            except OSError as error:
                raise _unreadable(object_id, path, error) from error
        return None

    def _own(self, object_id: ObjectId) -> Path | None:
        """The file of an object in this store itself. Raises OSError."""
        return next((path for path in _places(self.root, object_id) if is_regular(path)), None)

    def borrows(self, object_id: ObjectId) -> bool:
        """Whether an object is in an alternate only: it goes when that does."""
        return self._own(object_id) is None and self.find(object_id) is not None

    def keep(self, object_id: ObjectId) -> None:
        """Make an object that is borrowed this store's own. Raises ObjectCorrupt, or StoreError."""
        source = self.find(object_id)
        if source is not None and self._own(object_id) is None:
            self.import_file(object_id, lambda target: copy_synced(source, target, lambda _: None))

    def absent(self, object_id: ObjectId) -> ObjectMissing:
        """The error for an object that is not here; it says what stands in its place, if anything does."""
        home = self.home_of(object_id)
        with suppress(OSError):
            what = NotRegular(home, home.lstat().st_mode).strerror
            return ObjectMissing(
                f"object {object_id} is not in the store: {home} has its name, but {what}",
                hint=f"delete that, then: {HINT_MISSING}",
            )
        return ObjectMissing(f"object {object_id} is not in the store", hint=HINT_MISSING)

    def missing(self, needed: Mapping[ObjectId, int]) -> set[ObjectId]:
        """Those of the objects that are not here, or are shorter than their least size in bytes."""
        return {object_id for object_id, size in needed.items() if not self.holds(object_id, size)}

    def holds(self, object_id: ObjectId, size: int = 0) -> bool:
        """Whether an object of at least ``size`` bytes is here."""
        path = self.find(object_id)
        return path is not None and path.stat().st_size >= size

    def distrust(self, object_id: ObjectId) -> bool:
        """From now on, nothing new is to rely on this object. Says whether that is news."""
        with self._guard:
            news = object_id not in self._distrusted
            self._distrusted.add(object_id)
            return news

    def distrusts(self, objects: Iterable[ObjectId]) -> bool:
        """Whether one of some objects turned out to be damaged before."""
        return not self._distrusted.isdisjoint(objects)

    def reusable(self, object_id: ObjectId) -> int:
        """The bytes of an object on which something new may rely, 0 if there is none; :meth:`remove` spares it now."""
        path = None if object_id in self._distrusted else self.find(object_id)
        if path is None:
            return 0
        try:
            self._mark_used(object_id, path)
            return path.stat().st_size
        except FileNotFoundError:  # removed in between
            return 0

    def all(self) -> Iterator[ObjectId]:
        """Every object of this store itself (not of its alternates), sorted by name."""
        objects = self.root / "objects"
        names = {path.name for pattern in ("??/*", "??/??/*") for path in objects.glob(pattern)}
        yield from (ObjectId(name) for name in sorted(names) if len(name) == _NAME)

    def lay_out(self) -> int:
        """Move objects from the former place, ``objects/aa``, to the present one; returns how many. Raises StoreError.

        A reader finds each of them at every moment: it has both names before it loses the former one.
        """
        count = 0
        for former in sorted((self.root / "objects").glob("??/*")):
            if len(former.name) == _NAME and is_regular(former):
                home = self.home_of(ObjectId(former.name))
                with translated(home):
                    self.permissions.make_folders(home.parent)
                    _move(former, home)
                count += 1
        return count

    def temporary(self) -> Path:
        """A new path for an unfinished file. Raises StoreError."""
        with translated(self.unfinished.folder):
            return self.unfinished.path()

    def adopt(self, temporary: Path, object_id: ObjectId) -> None:
        """Give a finished, synced file its object's name. An existing file is replaced: it is equal, or damaged.

        Raises StoreError.
        """
        home = self.home_of(object_id)
        with translated(home):
            self.permissions.make_folders(home.parent)
            self.permissions.finish(temporary)
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
            former_place(self.root, object_id).unlink(missing_ok=True)  # a second copy, or a damaged one
        self._distrusted.discard(object_id)

    def import_file(self, object_id: ObjectId, fill: Callable[[Path], None]) -> None:
        """Let ``fill`` write a temporary file, compare it with the object's name, and keep it.

        Raises ObjectCorrupt, also if what was written is a link or not a file at all.
        """
        temporary = self.temporary()
        try:
            fill(temporary)
            check_file(temporary, object_id)
            self.adopt(temporary, object_id)
        finally:
            temporary.unlink(missing_ok=True)

    def receive(self, object_id: ObjectId, fetch: Callable[[Path], None]) -> None:
        """As :meth:`import_file`; what arrived before ``fetch`` failed is there again the next time, in any process.

        ``fetch`` gets the path of a file that holds the object's first bytes, or of none, and need not sync it.
        """
        temporary = self.arriving(object_id)
        try:
            fetch(temporary)
            self.arrived(object_id, temporary)
        finally:
            self.set_aside(object_id, temporary)

    def arriving(self, object_id: ObjectId) -> Path:
        """A path of the caller alone, for an object that is on its way here. Raises StoreError.

        Whatever happens, end with :meth:`set_aside`.
        """
        with translated(self.unfinished.folder):
            path = self.unfinished.path(f"{_PART}{object_id}-{os.urandom(4).hex()}")
            with suppress(OSError):
                os.rename(self.root / _INCOMING / object_id, path)
            return path

    def arrived(self, object_id: ObjectId, temporary: Path) -> None:
        """Keep an object that has arrived whole. One that is damaged is deleted. Raises ObjectCorrupt, StoreError."""
        try:
            check_file(temporary, object_id)
        except ObjectCorrupt:
            temporary.unlink(missing_ok=True)
            raise
        with translated(temporary), reading(temporary) as file:
            sync(file.fileno())
        self.adopt(temporary, object_id)

    def set_aside(self, object_id: ObjectId, temporary: Path) -> None:
        """Keep what has arrived of an object, if it is not whole, for whoever fetches it next."""
        with suppress(OSError):
            if temporary.lstat().st_size:
                folder = self.root / _INCOMING
                self.permissions.make_folders(folder)
                os.replace(temporary, folder / object_id)
            else:
                temporary.unlink()

    def forget_arrivals(self, before: float) -> None:
        """Delete what arrived of objects that nobody has fetched on since a time, in seconds since the epoch."""
        with suppress(OSError):
            for path in (self.root / _INCOMING).iterdir():
                with suppress(OSError):
                    if path.lstat().st_mtime < before:
                        path.unlink()

    def check(self, object_id: ObjectId, advance: Callable[[int], None] = lambda _: None) -> None:
        """Read a whole object and check it against its name. Raises ObjectMissing, ObjectCorrupt, ObjectUnreadable."""
        path = self.find(object_id)
        if path is None:
            raise self.absent(object_id)
        check_file(path, object_id, advance)

    def _mark_used(self, object_id: ObjectId, path: Path) -> None:
        """Set the time of last use. An object of somebody else, or one with other names, gets a note beside it.

        What cannot be written is left: nobody collects garbage in what nobody may write. Raises FileNotFoundError.
        """
        with suppress(OSError):
            self.unfinished.claim()
        status = path.stat()
        if time.time() - self._used(object_id, status) >= FRESH and not _touch(path, status):
            with suppress(OSError):
                note = self._note(object_id)
                self.permissions.make_folders(note.parent)
                os.close(self.permissions.append_to(note))
                os.utime(note)

    def _note(self, object_id: ObjectId) -> Path:
        return self.root / "used" / object_id

    def _used(self, object_id: ObjectId, status: os.stat_result) -> float:
        used = status.st_mtime
        with suppress(OSError):
            used = max(used, self._note(object_id).stat().st_mtime)
        return used

    def last_used(self, object_id: ObjectId) -> float:
        """When an object of this store was written or reused, in seconds since the epoch. Raises OSError."""
        return self._used(object_id, (self._own(object_id) or self.home_of(object_id)).lstat())

    def own_size(self, object_id: ObjectId) -> int:
        """The bytes of an object of this store itself; 0 if there is none. Raises OSError."""
        path = self._own(object_id)
        return path.stat().st_size if path else 0

    def remove(self, object_id: ObjectId, before: float) -> int:
        """Delete an object that nobody used since ``before``; returns its bytes, or 0 if it stays.

        It is moved away first, and comes back if somebody has used it in the meantime. Killed in between, it is
        brought back by :meth:`remove_abandoned`. Raises StoreError.
        """
        home = self._own(object_id) or self.home_of(object_id)
        with translated(home):
            aside = self.unfinished.path(object_id)
            os.rename(home, aside)
            if self._used(object_id, aside.lstat()) >= before:
                self._bring_back(aside, home)
                return 0
            size = aside.lstat().st_size
            aside.unlink()
            self._note(object_id).unlink(missing_ok=True)
            return size

    def discard(self, object_id: ObjectId) -> None:
        """Delete an object of this store, whoever may have used it. Raises StoreError."""
        for path in _places(self.root, object_id):
            with translated(path):
                path.unlink(missing_ok=True)
        with suppress(OSError):
            self._note(object_id).unlink(missing_ok=True)

    def set_apart(self, object_id: ObjectId) -> Path | None:
        """Move an object of this store where no reader looks; None if it is not there. Raises StoreError.

        Whatever happens, end with :meth:`put_back`, or delete the file. Of a process that was killed in between,
        :meth:`remove_abandoned` brings it back.
        """
        home = self._own(object_id)
        if home is None:
            return None
        with translated(home):
            aside = self.unfinished.path(object_id)
            os.rename(home, aside)
            return aside

    def put_back(self, object_id: ObjectId, aside: Path) -> None:
        """Give an object that was set apart its name again. Raises StoreError."""
        with translated(aside):
            self._bring_back(aside, self.home_of(object_id))

    def _bring_back(self, aside: Path, home: Path) -> None:
        self.permissions.make_folders(home.parent)
        try:
            os.link(aside, home, follow_symlinks=False)
        except FileExistsError:  # stored anew in the meantime
            pass
        except OSError:
            os.rename(aside, home)
        aside.unlink(missing_ok=True)

    def remove_abandoned(self) -> None:
        """Delete the unfinished files of processes that have ended; bring back what they were about to delete.

        What they had fetched of an object stays for whoever fetches it next.
        """
        for path in self.unfinished.abandoned():
            with suppress(OSError):
                object_id = path.name.partition("-")[2]
                if object_id.startswith(_PART):
                    self.set_aside(ObjectId(object_id.split("-")[1]), path)
                elif len(object_id) == _NAME:
                    self._bring_back(path, self.home_of(ObjectId(object_id)))
                else:
                    path.unlink()

    def close(self) -> None:
        """Let other processes know that this one writes nothing any more."""
        self.unfinished.close()


def former_place(root: Path, object_id: ObjectId) -> Path:
    """Where stores kept objects before they took over the layout of Git LFS."""
    return root / "objects" / object_id[:2] / object_id


def _places(root: Path, object_id: ObjectId) -> tuple[Path, Path]:
    """Where a store may keep an object: the present place, and the former one."""
    return root / "objects" / object_id[:2] / object_id[2:4] / object_id, former_place(root, object_id)


def _folders_of(path: Path) -> Iterator[Path]:
    """The folders between a store and an object's file in it, ``objects`` included."""
    for folder in path.parents:
        yield folder
        if folder.name == "objects":
            return


def _move(former: Path, home: Path) -> None:
    """Give a file another name, so that one of the two is there at every moment. Raises OSError."""
    try:
        os.link(former, home, follow_symlinks=False)
    except FileExistsError:
        with suppress(StoreError):
            check_file(home, ObjectId(home.name))
            former.unlink()
            return
        os.replace(former, home)  # what stands there is damaged
    except (OSError, NotImplementedError):  # no links there
        os.rename(former, home)
    sync_folder(home.parent)
    former.unlink(missing_ok=True)


def _refuse_links(*folders: Path) -> None:
    """Raise NotRegular for a folder that is a link: it may lead to files that whoever made it cannot read."""
    for folder in folders:
        if folder.is_symlink():
            raise NotRegular(folder, folder.lstat().st_mode)


def _touch(path: Path, status: os.stat_result) -> bool:
    """Set a file's time to now, if it is nobody else's. Raises FileNotFoundError."""
    if status.st_nlink > 1:
        return False
    try:
        os.utime(path)
    except FileNotFoundError:
        raise
    except OSError:
        return False
    return True


def _unreadable(object_id: ObjectId, path: Path, error: OSError) -> ObjectUnreadable:
    told = os_error(path, error)
    return ObjectUnreadable(f"object {object_id}: {told.what}", hint=told.hint)


@dataclass
class ObjectReader:
    """Reads pieces of objects; keeps a bounded number of files open. Safe to use from several threads."""

    store: ObjectStore
    _files: OrderedDict[ObjectId, int] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def read(self, object_id: ObjectId, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes of an object, from ``offset`` on.

        Raises ObjectMissing, ObjectUnreadable, or ObjectCorrupt if the object is too short.
        """
        with self._lock:
            descriptor = self._open(object_id)
            try:
                data = read_at(descriptor, offset, length)
            except OSError as error:
                raise _unreadable(object_id, self.store.home_of(object_id), error) from error
        if len(data) != length:
            raise ObjectCorrupt(f"object {object_id} is truncated", hint=HINT_CORRUPT)
        return data

    def _open(self, object_id: ObjectId) -> int:
        if object_id in self._files:
            self._files.move_to_end(object_id)
            return self._files[object_id]
        path = self.store.find(object_id)
        if path is None:
            raise self.store.absent(object_id)
        try:
            descriptor = open_to_read(path, follow=False)
        except OSError as error:
            raise _unreadable(object_id, path, error) from error
        self._files[object_id] = descriptor
        if len(self._files) > _OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        return descriptor

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            while self._files:
                os.close(self._files.popitem()[1])


def alternate_stores(common_dir: Path) -> Iterator[Path]:
    """The stores of repositories that one borrows objects from (``clone --shared``), and of theirs."""
    seen = {common_dir.resolve()}
    waiting = [common_dir]
    while waiting:
        folder = waiting.pop() / "objects"
        try:
            lines = os.fsdecode((folder / "info" / "alternates").read_bytes()).splitlines()
        except OSError:
            continue
        for line in lines:
            lender = (folder / line).resolve().parent if line and not line.startswith("#") else None
            if lender and lender not in seen:
                seen.add(lender)
                waiting.append(lender)
                yield lender / "theta"
