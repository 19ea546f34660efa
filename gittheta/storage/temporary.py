"""Unfinished files of the store, and how long each of them may stay: as long as the process that writes it lives.

A process claims a key: it locks the file ``claims/KEY`` before it makes its first unfinished file, and keeps it locked
to its end. All its files are called ``tmp/KEY-...``. So nobody takes a process that is paused, for however long, for a
dead one, and what a killed process leaves goes with the next one. Where the file system has no locks, files go a day
after their last change.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gittheta.storage.permissions import Permissions

#: Seconds without a change after which a file that nobody can lock has no writer any more.
_ABANDONED_AFTER = 24 * 3600


class TemporaryFiles:
    """The unfinished files of one process. Safe to use from several threads and by several processes."""

    def __init__(self, root: Path, permissions: Permissions) -> None:
        self.folder = root / "tmp"
        self._claims = root / "claims"
        self._permissions = permissions
        self._guard = Lock()
        self._key = ""
        self._descriptor = -1
        self._count = 0

    def path(self, name: str = "") -> Path:
        """A path for a new file of this process. Raises OSError."""
        self._permissions.make_folders(self.folder)
        with self._guard:
            self._claim()
            self._count += 1
            return self.folder / f"{self._key}-{name or self._count}"

    def claim(self) -> None:
        """Show other processes that this one lives. Raises OSError."""
        with self._guard:
            self._claim()

    def _claim(self) -> None:
        while not self._key:
            self._permissions.make_folders(self._claims)
            key = os.urandom(16).hex()
            descriptor = self._permissions.create(self._claims / key)
            lock(descriptor, wait=True)
            # Before it was locked, another process may have taken it for a dead one's.
            if os.name == "nt" or os.fstat(descriptor).st_nlink:
                self._key, self._descriptor = key, descriptor
            else:
                os.close(descriptor)

    def close(self) -> None:
        """Give up the claim; unfinished files that are still there may be deleted by anyone."""
        with self._guard:
            if self._key:
                os.close(self._descriptor)
                with suppress(OSError):
                    (self._claims / self._key).unlink(missing_ok=True)
                self._key = ""

    def __del__(self) -> None:
        self.close()

    def abandoned(self) -> Iterator[Path]:
        """The files of processes that have ended, and at last their claims, which are held meanwhile."""
        groups: dict[str, list[Path]] = {key: [] for key in _names(self._claims)}
        for name in _names(self.folder):
            groups.setdefault(name.partition("-")[0], []).append(self.folder / name)
        for key, paths in groups.items():
            if key != self._key:
                yield from self._of_dead(self._claims / key, paths)

    def _of_dead(self, claim: Path, paths: list[Path]) -> Iterator[Path]:
        try:
            descriptor = os.open(claim, os.O_RDWR)
        except OSError:
            yield from filter(_is_old, paths)
            return
        try:
            locked = lock(descriptor, wait=False)
            if locked or (locked is None and all(map(_is_old, (claim, *paths)))):
                yield from (*paths, claim)
        finally:
            os.close(descriptor)

    def oldest_claim(self) -> float | None:
        """When the oldest other living process showed itself, in seconds since the epoch; None if there is none."""
        times = []
        for name in _names(self._claims):
            claim = self._claims / name
            with suppress(OSError):
                if name != self._key and not _is_dead(claim):
                    times.append(claim.stat().st_mtime)
        return min(times, default=None)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _is_dead(claim: Path) -> bool:
    descriptor = os.open(claim, os.O_RDWR)
    try:
        locked = lock(descriptor, wait=False)
        return _is_old(claim) if locked is None else locked
    finally:
        os.close(descriptor)


def lock(descriptor: int, *, wait: bool) -> bool | None:
    """Lock a file until it is closed. Says whether that worked; None where there are no locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_old(path: Path) -> bool:
    """Whether a file did not change for a day. A hard link to another file has that file's age, and takes no space."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return status.st_nlink == 1 and time.time() - status.st_mtime > _ABANDONED_AFTER
