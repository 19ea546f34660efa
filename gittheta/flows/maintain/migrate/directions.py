"""The two ways of a migration: which files, what becomes of their blobs, and of the files of attributes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, ClassVar, Protocol

from gittheta.codec.stream import ByteStream
from gittheta.errors import GitError, ObjectCorrupt, ObjectMissing, StoreError
from gittheta.files.kinds import SHORT, is_pointer
from gittheta.flows.add.clean import clean
from gittheta.flows.add.stored import ManifestsAtHand
from gittheta.flows.checkout.smudge import read_manifest, smudge
from gittheta.flows.maintain.migrate.converted import Conversion
from gittheta.flows.maintain.migrate.lines import with_filter, without_filter
from gittheta.git.attributes import matching
from gittheta.git.rewriting.content import blob_stream, write_file
from gittheta.storage.files import reading, translated
from gittheta.storage.manifest import MAX_TEXT, claims_to_be_manifest, parse_manifest
from gittheta.wording import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gittheta.flows.workspace import Workspace
    from gittheta.git.process import Git
    from gittheta.git.rewriting.attributes import PathAttributes

_HEAD = 4096
_POINTED = re.compile(rb"^oid sha256:([0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True)
class Version:
    """A blob of a file somewhere in history, and the manifests that it may be told from, the likeliest first."""

    path: str
    oid: str
    own: str | None = None
    others: tuple[str, ...] = ()


class Direction(Protocol):
    """One way of a migration."""

    name: ClassVar[str]

    @property
    def patterns(self) -> tuple[str, ...]:
        """Patterns as in a file of attributes at the top."""
        ...

    def attributes(self, git: Git, folder: str, content: bytes | None) -> bytes | None:
        """What becomes of a file of attributes; None if there is none, before or after."""
        ...

    def selects(self, old: PathAttributes, new: PathAttributes) -> bool:
        """Whether a file is converted, by its attributes before and after."""
        ...

    def convert(self, workspace: Workspace, version: Version) -> Conversion:
        """Write the blob that takes a version's place, and check it. Raises ThetaError."""
        ...


@dataclass(frozen=True)
class Import:
    """Raw checkpoints, or pointers of Git LFS, become manifests."""

    name: ClassVar[str] = "import"

    patterns: tuple[str, ...]
    from_lfs: bool = False
    #: The folder in which Git LFS keeps its objects.
    lfs: Path = field(default_factory=Path)

    def attributes(self, git: Git, folder: str, content: bytes | None) -> bytes | None:
        """With the filter's lines."""
        return with_filter(git, folder, content, self.patterns, from_lfs=self.from_lfs)

    def selects(self, old: PathAttributes, new: PathAttributes) -> bool:
        """All that the filter will be in force for."""
        del old
        return new.filter == "theta"

    def convert(self, workspace: Workspace, version: Version) -> Conversion:
        """As `git add` does, over the version before."""
        head = workspace.stored_blobs.begin(version.oid, SHORT) or b""
        pointed = is_pointer(head)
        if not head or claims_to_be_manifest(head):
            return Conversion(version.oid, version.oid, hashlib.sha256(head).hexdigest(), 0)
        if pointed and not self.from_lfs:
            raise GitError(
                "a pointer of Git LFS, not the model itself",
                path=version.path,
                hint="git theta migrate import --from-lfs",
            )
        with self._opened(workspace, version, head if pointed else b"") as file:
            source = _Hashing(file)
            text = clean(workspace, version.path, ByteStream(source), _at_hand(workspace, version))
        if pointed and source.sha256 != _pointed(head):
            raise ObjectCorrupt(
                f"object {_pointed(head)} of Git LFS is not what its name says", path=version.path, hint=_FETCH_LFS
            )
        if claims_to_be_manifest(text):
            _compare(workspace, version, text, source.sha256)
        new = workspace.repository.git.write_blob(text)
        return Conversion(version.oid, new, source.sha256, source.size, pointed)

    def _opened(self, workspace: Workspace, version: Version, pointer: bytes) -> AbstractContextManager[IO[bytes]]:
        if not pointer:
            return blob_stream(workspace.repository.git.as_stored(), version.oid)
        path = self.lfs_object(_pointed(pointer))
        if not path.is_file():
            raise ObjectMissing(f"Git LFS has no object {path.name} here", path=version.path, hint=_FETCH_LFS)
        return _file(path)

    def lfs_object(self, name: str) -> Path:
        """Where Git LFS keeps an object."""
        return self.lfs / "objects" / name[:2] / name[2:4] / name


_FETCH_LFS = "run `git lfs fetch --all`, then this again"


@dataclass(frozen=True)
class Export:
    """Manifests become raw checkpoints, as any other file in Git."""

    name: ClassVar[str] = "export"

    patterns: tuple[str, ...]

    def attributes(self, git: Git, folder: str, content: bytes | None) -> bytes | None:
        """Without the filter's lines."""
        del git
        return without_filter(content, self.patterns, at_top=not folder) if content is not None else None

    def selects(self, old: PathAttributes, new: PathAttributes) -> bool:
        """All that the filter was in force for, and is no more."""
        return old.filter == "theta" and new.filter != "theta"

    def convert(self, workspace: Workspace, version: Version) -> Conversion:
        """As `git checkout` does, into a blob."""
        text = workspace.stored_blobs.read(version.oid, MAX_TEXT)
        manifest = read_manifest(workspace, version.path, text) if text and claims_to_be_manifest(text) else None
        if manifest is None:
            return Conversion(version.oid, version.oid, "", 0)
        hashed, size = hashlib.sha256(), 0
        temporary = workspace.tensors.store.temporary()
        try:
            with translated(temporary), open(temporary, "xb") as file:
                for block in smudge(workspace, version.path, manifest):
                    hashed.update(block)
                    size += len(block)
                    file.write(block)
            new = write_file(workspace.repository.git, temporary)
        finally:
            temporary.unlink(missing_ok=True)
        with blob_stream(workspace.repository.git, new) as stream:
            if hashlib.file_digest(stream, "sha256").digest() != hashed.digest():  # type: ignore[arg-type]
                raise GitError("Git did not store what it was given", path=version.path, hint="run `git fsck`")
        return Conversion(version.oid, new, hashed.hexdigest(), size)


def refuse_missing(workspace: Workspace, direction: Import, blobs: Collection[tuple[str, str]]) -> None:
    """Raise ObjectMissing if objects of Git LFS are not here that pointers among some blobs (path, id) name.

    Blobs at paths that no pattern matches do not count.
    """
    missing: dict[str, str] = {}
    paths = set(matching(workspace.repository.git, "", direction.patterns, dict.fromkeys(path for path, _ in blobs)))
    for path, oid in (blob for blob in blobs if blob[0] in paths):
        content = workspace.stored_blobs.read(oid, _HEAD) or b""
        if is_pointer(content) and not direction.lfs_object(_pointed(content)).is_file():
            missing.setdefault(_pointed(content), path)
    if missing:
        first, path = next(iter(missing.items()))
        count = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ObjectMissing(f"Git LFS has no object {first}{count} here", path=path, hint=_FETCH_LFS)


def _compare(workspace: Workspace, version: Version, text: bytes, sha256: str) -> None:
    hashed = hashlib.sha256()
    for block in smudge(workspace, version.path, parse_manifest(text)):
        hashed.update(block)
    if hashed.hexdigest() != sha256:
        raise StoreError(
            f"blob {version.oid} comes out with another SHA-256",
            path=version.path,
            hint="nothing was moved; report this",
        )


def _at_hand(workspace: Workspace, version: Version) -> ManifestsAtHand:
    """What the version before holds, in place of the index and HEAD."""
    text = workspace.stored_blobs.read(version.own, MAX_TEXT) if version.own else None
    own = parse_manifest(text) if text and claims_to_be_manifest(text) else None
    others = (workspace.read_stored(oid) for oid in version.others)
    return ManifestsAtHand(((text, own),) if text and own else (), own, tuple(other for other in others if other))


def _pointed(pointer: bytes) -> str:
    found = _POINTED.search(pointer.replace(b"\r\n", b"\n"))
    return found[1].decode() if found else ""


@contextmanager
def _file(path: Path) -> Iterator[IO[bytes]]:
    with translated(path), reading(path) as file:
        yield file


class _Hashing:
    """A source of bytes that are hashed on their way. For one thread."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._hashed = hashlib.sha256()
        self.size = 0

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the buffer as far as there are bytes."""
        count: int = self._source.readinto(buffer)  # type: ignore[attr-defined]
        self._hashed.update(buffer[:count])
        self.size += count
        return count

    @property
    def sha256(self) -> str:
        """That of all bytes so far."""
        return self._hashed.hexdigest()


def described(patterns: Sequence[str]) -> str:
    """Patterns as they stand in messages."""
    return ", ".join(map(shown, patterns))
