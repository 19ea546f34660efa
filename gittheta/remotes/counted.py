"""A file that tells how far it was read."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from gittheta.api import Advance


class CountedFile(io.FileIO):
    """An existing file, read once or several times. Bytes that are read again are not counted again."""

    def __init__(self, path: Path, advance: Advance) -> None:
        super().__init__(path, "rb")
        self._advance = advance
        self._furthest = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Bytes from the present position on."""
        data = super().read(-1 if size is None else size) or b""
        at = self.tell()
        if at > self._furthest:
            further, self._furthest = at - self._furthest, at
            self._advance(further)
        return data
