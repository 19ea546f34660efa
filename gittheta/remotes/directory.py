"""Objects in a folder: beside a bare repository on a disk, or wherever ``remote.NAME.thetaUrl`` points."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote

from gittheta.api import Advance, ObjectId, RemoteContext, RemoteError, TemporaryRemoteError
from gittheta.errors import ObjectCorrupt, StoreError
from gittheta.git.configuration import foreign_setting
from gittheta.runtime import lazy
from gittheta.storage.files import (
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
    write_all,
)
from gittheta.storage.lending import borrowers, note_push
from gittheta.storage.objects import ObjectStore, alternate_stores
from gittheta.storage.permissions import Permissions

#: What a note may be called. Anything else in that folder, such as a note that is being written, is none.
_NOTE = re.compile(r"[a-z0-9.-]{1,100}")
_HINT_PUSH = "push it again from a clone that has it: git theta push --all"


@dataclass(frozen=True)
class DirectoryRemote:
    """A store in another folder, written with the same care as the local one."""

    name: ClassVar[str] = "directory"
    wants_pointers: ClassVar[bool] = False
    verifies: ClassVar[bool] = True
    manages: ClassVar[bool] = True

    root: Path
    #: The repository that it lies in; None for a folder of its own.
    git_dir: Path | None = None
    #: Whether objects may be shared with it as hard links, as ``git clone`` does for a plain path.
    may_link: bool = False

    @classmethod
    def open(cls, url: str, context: RemoteContext) -> DirectoryRemote | None:
        """The store of the repository at a path or ``file://`` URL, or that folder itself; None for other URLs."""
        path = _local_path(url, context.base)
        if path is None:
            return None
        if not path.is_dir():
            path = path.with_name(path.name + ".git")
        if not path.is_dir():
            raise RemoteError(f"there is no folder at {url}", hint="check the path, or whether the disk is mounted")
        git_dir = _git_dir(path)
        return cls((git_dir or path) / "theta", git_dir, may_link="://" not in url)

    def sizes(self, objects: Collection[ObjectId]) -> Mapping[ObjectId, int]:
        """One look at the file system for each."""
        with _refused(self.root):
            found = ((object_id, self._store.find(object_id)) for object_id in objects)
            return {object_id: path.stat().st_size for object_id, path in found if path is not None}

    def upload(self, object_id: ObjectId, source: Path, advance: Advance) -> None:
        """Copied under a temporary name, synced, read back and compared, then renamed."""
        with _refused(self.root):
            note_push(self.root, self._store.permissions)
            try:
                self._store.import_file(object_id, lambda target: copy_synced(source, target, advance))
            except ObjectCorrupt as error:
                check_file(source, object_id)  # the likelier culprit, and the one that can be mended here
                raise TemporaryRemoteError(
                    f"object {object_id} came out damaged at {self.root}", hint="check the disk there, then push again"
                ) from error

    def download(self, object_id: ObjectId, target: Path, advance: Advance) -> None:
        """A hard link where that is possible and customary, else a copy. A link there is not followed."""
        with _refused(self.root):
            source = self._found(object_id)
            target.unlink(missing_ok=True)  # a copy is as fast as to look how much of it is there
            if self.may_link and _linked(source, target):
                advance(target.stat().st_size)
            else:
                copy_synced(source, target, advance)

    def read(self, object_id: ObjectId, offset: int, length: int) -> bytes:
        """A range of the file."""
        with _refused(self.root):
            source = self._found(object_id)
            descriptor = open_to_read(source, follow=False)
            try:
                data = read_at(descriptor, offset, length)
            finally:
                os.close(descriptor)
        if len(data) != length:
            raise RemoteError(
                f"object {object_id} at {self.root} is shorter than {offset + length} bytes", hint=_HINT_PUSH
            )
        return data

    def reservation(self) -> str:
        """Of a repository with a work tree, or with borrowers, nobody knows what it needs besides its refs."""
        if self.git_dir is not None and foreign_setting(self.git_dir, "core.bare") != "true":
            return f"the repository at {self.git_dir} has a work tree, which may need what no ref names"
        with _refused(self.root):
            borrower = next((path for _, path in borrowers(self.root)), None)
        return f"the repository at {borrower} borrows objects from here" if borrower else ""

    def names(self) -> Iterator[tuple[ObjectId, int]]:
        """A walk through the folder."""
        with _refused(self.root):
            for object_id in list(self._store.all()):
                yield object_id, self._store.own_size(object_id)

    def remove(self, object_id: ObjectId) -> None:
        """Under both names that it may have."""
        with _refused(self.root):
            self._store.discard(object_id)

    def notes(self) -> list[str]:
        """The files of a folder beside the objects."""
        with _refused(self.root):
            folder = self._notes()
            return sorted(name for name in (os.listdir(folder) if folder.is_dir() else ()) if _NOTE.fullmatch(name))

    def read_note(self, name: str) -> bytes | None:
        """A file; a link is none."""
        with _refused(self.root):
            try:
                with reading(self._notes() / name, follow=False) as file:
                    return file.read()
            except FileNotFoundError:
                return None

    def write_note(self, name: str, data: bytes) -> None:
        """Under a temporary name, synced, then renamed."""
        with _refused(self.root):
            folder = self._notes()
            self._store.permissions.make_folders(folder)
            temporary = self._store.temporary()
            try:
                descriptor = self._store.permissions.create(temporary)
                try:
                    write_all(descriptor, data)
                    sync(descriptor)
                finally:
                    os.close(descriptor)
                os.replace(temporary, folder / name)
                sync_folder(folder)
            finally:
                temporary.unlink(missing_ok=True)

    def remove_note(self, name: str) -> None:
        """Its file."""
        with _refused(self.root):
            (self._notes() / name).unlink(missing_ok=True)

    def _notes(self) -> Path:
        folder = self.root / "notes"
        if folder.is_symlink():
            raise NotRegular(folder, folder.lstat().st_mode)
        return folder

    def close(self) -> None:
        """Others may clean up after this process."""
        self._store.close()

    def _found(self, object_id: ObjectId) -> Path:
        source = self._store.find(object_id)
        if source is None:
            raise RemoteError(f"object {object_id} is not at {self.root}", hint=_HINT_PUSH)
        return source

    @lazy
    def _store(self) -> ObjectStore:
        """The store there. Where its repository borrows from others, so does it."""
        alternates = tuple(alternate_stores(self.git_dir)) if self.git_dir else ()
        return ObjectStore(self.root, alternates, self._permissions(), foreign=True)

    def _permissions(self) -> Permissions:
        """Those of the repository there, which are not the user's own; a folder of its own has its folder's."""
        if self.git_dir is None:
            return Permissions.like(self.root.parent)
        return Permissions.parse(foreign_setting(self.git_dir, "core.sharedRepository"))


def _linked(source: Path, target: Path) -> bool:
    """Make a hard link if the source is a file of this user. Says whether there is one.

    The owner of a file can change it at any time: what belongs to others is copied.
    """
    status = source.lstat()
    if not hasattr(os, "getuid") or status.st_uid != os.getuid():
        return False
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        return False
    if is_regular(target):
        return True
    target.unlink()  # it was replaced in between
    return False


@contextmanager
def _refused(root: Path) -> Iterator[None]:
    """Turns what goes wrong with the store there into a RemoteError; not so a damaged object of ours."""
    try:
        yield
    except ObjectCorrupt:
        raise
    except (OSError, StoreError) as error:
        told = error if isinstance(error, StoreError) else os_error(root, error)
        raise RemoteError(f"the store at {root} refuses: {told.what}", hint=told.hint) from error


def _local_path(url: str, base: Path) -> Path | None:
    if url.startswith("file://"):
        path = unquote(url.removeprefix("file://"))
        return Path(path.removeprefix("/") if os.name == "nt" else path)  # file:///C:/models
    colon, slash = url.find(":"), url.find("/")
    if "://" in url or "::" in url or (colon > 0 and not 0 <= slash < colon and not Path(url).is_absolute()):
        return None
    return base / url


def _git_dir(path: Path) -> Path | None:
    """The directory that all work trees of the repository at ``path`` share; None if it is no repository."""
    inner = path / ".git"
    if inner.is_file():
        inner = path / os.fsdecode(inner.read_bytes()).removeprefix("gitdir:").strip()
    for folder in (inner, path):
        if (folder / "HEAD").is_file():
            common = folder / "commondir"
            folder = (folder / os.fsdecode(common.read_bytes()).strip()).resolve() if common.is_file() else folder
            if (folder / "objects").is_dir():
                return folder
    return None
