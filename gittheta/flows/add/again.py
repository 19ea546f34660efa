"""The file that is being added, read once more where what is stored of it turns out to be damaged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gittheta.model import Digest, digest_of
from gittheta.storage.files import reading


@dataclass(frozen=True)
class FileAgain:
    """The file of the work tree that most likely is what Git sends; None where there is no work tree.

    What Git sends can be something else, so that nothing is taken without its digest.
    """

    path: Path | None

    def block(self, offset: int, length: int, digest: Digest) -> memoryview | None:
        """The ``length`` bytes at ``offset``; None unless they can be read and have this digest."""
        if self.path is None:
            return None
        try:
            with reading(self.path, follow=False) as file:
                file.seek(offset)
                data = file.read(length)
        except OSError:
            return None
        return memoryview(data) if digest_of(data) == digest else None
