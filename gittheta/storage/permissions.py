"""Who may read and write what is created: umask and ``core.sharedRepository`` decide, as for Git's own files.

Every file and folder of a repository that gittheta creates is created here. The mode of a file that exists already
is changed in one place, :meth:`Permissions.finish`, and never if the file has another name elsewhere.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gittheta.errors import ConfigError
from gittheta.storage.files import open_new, sync_folder

_WORDS = {
    "umask": 0,
    "group": 0o660,
    "all": 0o664,
    "world": 0o664,
    "everybody": 0o664,
    **dict.fromkeys(("true", "yes", "on", "1"), 0o660),
    **dict.fromkeys(("false", "no", "off", "0", ""), 0),
    "2": 0o664,
}
_READ, _WRITE = 0o444, 0o222


@dataclass(frozen=True)
class Permissions:
    """What ``core.sharedRepository`` says. Safe to use from several threads."""

    #: Bits of a file that anybody may write; nothing is added for 0.
    shared: int = 0
    #: Whether the bits replace those that umask leaves, instead of being added.
    exact: bool = False

    @classmethod
    def parse(cls, setting: str | None) -> Permissions:
        """The value of the setting, in all of Git's spellings. Raises ConfigError."""
        word = (setting or "").lower()
        if word in _WORDS:
            return cls(_WORDS[word])
        try:
            mode = int(word, 8)
        except ValueError:
            mode = 0
        if mode & 0o600 != 0o600:
            raise ConfigError(
                f"core.sharedRepository is '{setting}', which Git does not know",
                hint="git config core.sharedRepository group",
            )
        return cls(mode & 0o666, exact=True)

    @classmethod
    def like(cls, folder: Path) -> Permissions:
        """Those of a folder without any setting: what the group may write there, it may write in what is new."""
        try:
            return cls(0o660 if folder.stat().st_mode & stat.S_IWGRP else 0)
        except OSError:
            return cls()

    def mode(self, present: int) -> int:
        """The mode of a file or folder whose mode would be ``present`` otherwise."""
        if not self.shared:
            return present
        tweak = self.shared if present & stat.S_IWUSR else self.shared & ~_WRITE
        if present & stat.S_IXUSR:
            tweak |= (tweak & _READ) >> 2
        mode = (present & ~0o777 | tweak) if self.exact else present | tweak
        return mode | stat.S_ISGID if stat.S_ISDIR(present) and self.shared & 0o060 else mode

    def create(self, path: Path, mode: int = 0o666) -> int:
        """A descriptor of a new file, for writing and reading. Raises OSError, also if a file of that name exists."""
        return self._opened(path, open_new(path, mode))

    def append_to(self, path: Path) -> int:
        """A descriptor at the end of a file, which is created if it is not there. Raises OSError."""
        flags = os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0)
        while True:  # others may create and delete it at any moment
            with suppress(FileNotFoundError):
                return os.open(path, flags)
            try:
                return self._opened(path, os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666))
            except FileExistsError:
                if path.is_symlink():  # to nothing
                    raise

    @contextmanager
    def replacing(self, path: Path) -> Iterator[int]:
        """A descriptor of a new file that takes the place of ``path`` once all is written. Raises OSError."""
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        descriptor = self.create(temporary)
        try:
            try:
                yield descriptor
            finally:
                os.close(descriptor)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def finish(self, path: Path) -> None:
        """Make a file that nobody writes any more read-only, unless it is a link to somebody else's. Raises OSError."""
        status = path.lstat()
        mode = self.mode(status.st_mode & ~_WRITE)
        if status.st_nlink == 1 and mode != status.st_mode:
            with suppress(PermissionError):  # a file system may have none of these bits
                path.chmod(stat.S_IMODE(mode))

    def make_folders(self, folder: Path) -> None:
        """Create a folder and those above it that are not there. Raises OSError."""
        if folder.is_dir():
            return
        self.make_folders(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir()
            self._adjust(folder, folder.stat().st_mode)
            sync_folder(folder.parent)

    def _opened(self, path: Path, descriptor: int) -> int:
        with suppress(FileNotFoundError):  # somebody has deleted it already
            self._adjust(path, os.fstat(descriptor).st_mode)
        return descriptor

    def _adjust(self, path: Path, present: int) -> None:
        mode = self.mode(present)
        if mode != present:
            with suppress(PermissionError):
                path.chmod(stat.S_IMODE(mode))


#: What umask says, and nothing else.
BY_UMASK = Permissions()
