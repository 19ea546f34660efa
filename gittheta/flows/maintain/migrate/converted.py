"""What a migration has converted already: a list on disk, so that a killed command goes on where it stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.git.rewriting.content import objects_here
from gittheta.storage.files import translated

if TYPE_CHECKING:
    from gittheta.git.process import Git


@dataclass(frozen=True, slots=True)
class Conversion:
    """A blob, the one in its place, and the SHA-256 that the checkpoint has by either of them."""

    old: str
    new: str
    sha256: str
    #: The bytes of the checkpoint.
    size: int
    #: Whether the bytes came from the store of Git LFS.
    from_lfs: bool = False


@dataclass
class ConvertedBlobs:
    """The list, in memory and in a file. For one thread, and one process at a time."""

    path: Path
    _known: dict[str, Conversion] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, git: Git) -> ConvertedBlobs:
        """What the file says, as far as Git still has the blobs. Raises StoreError."""
        with translated(path):
            lines = path.read_text().splitlines() if path.exists() else []
        read = {found.old: found for line in lines if (found := _parsed(line))}
        here = objects_here(git, [found.new for found in read.values()]) if read else set()
        return cls(path, {old: found for old, found in read.items() if found.new in here})

    def get(self, old: str) -> Conversion | None:
        """What became of a blob."""
        return self._known.get(old)

    def add(self, new: Conversion) -> None:
        """Remember a conversion that was checked. Raises StoreError."""
        self._known[new.old] = new
        origin = "lfs" if new.from_lfs else "git"
        with translated(self.path), open(self.path, "a") as file:
            file.write(f"{new.old} {new.new} {new.sha256} {new.size} {origin} .\n")

    def __iter__(self) -> Iterator[Conversion]:
        return iter(self._known.values())


def _parsed(line: str) -> Conversion | None:
    """One line; None if its end was never written."""
    words = line.split(" ")
    if len(words) != 6 or words[5] != ".":
        return None
    old, new, sha256, size, origin, _ = words
    return Conversion(old, new, sha256, int(size), origin == "lfs")
