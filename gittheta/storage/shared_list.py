"""A small file to which several processes append, and which one of them rewrites after long work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.storage.files import write_all
from gittheta.storage.temporary import lock

if TYPE_CHECKING:
    from gittheta.storage.permissions import Permissions


@dataclass(frozen=True)
class SharedList:
    """The file, which need not be there. Safe to use from several threads and by several processes."""

    path: Path
    permissions: Permissions

    def append(self, data: bytes) -> None:
        """Add to its end. Raises OSError."""
        with self._locked() as descriptor:
            write_all(descriptor, data)

    def replace(self, before: bytes, after: bytes) -> None:
        """Put ``after`` in the place of ``before``, which was read from it; what others have appended since stays.

        An empty file is deleted. Raises OSError.
        """
        with self._locked():
            present = self.path.read_bytes()
            since = present[len(before) :] if present.startswith(before) else present
            if after + since:
                with self.permissions.replacing(self.path) as descriptor:
                    write_all(descriptor, after + since)
            else:
                self.path.unlink()

    @contextmanager
    def _locked(self) -> Iterator[int]:
        while True:
            descriptor = self.permissions.append_to(self.path)
            try:
                lock(descriptor, wait=True)
                if os.name == "nt" or os.fstat(descriptor).st_nlink:  # else it was replaced before we had the lock
                    yield descriptor
                    return
            finally:
                os.close(descriptor)
