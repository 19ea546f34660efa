"""verify: whether a file, a digest or a signature is of the version of a checkpoint that a commit has."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.errors import FormatError, GitError
from gittheta.files.checkpoint import CheckpointFile
from gittheta.flows.checkout.smudge import read_manifest, smudge
from gittheta.git.rewriting.content import blob_stream
from gittheta.model import RunningDigest
from gittheta.storage.files import reading, translated
from gittheta.storage.manifest import MAX_TEXT, claims_to_be_manifest
from gittheta.wording import quoted

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.model import Digest, Manifest

_STEP = 1 << 20


@dataclass(frozen=True)
class Version:
    """A file as a commit, the index or a tree has it."""

    path: str
    oid: str


@dataclass(frozen=True)
class TensorDifferences:
    """How a file's tensors differ from a version's, by name."""

    alike: tuple[str, ...] = ()
    different: tuple[str, ...] = ()
    #: Those that only the version has, and those that only the file has.
    missing: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    @property
    def none(self) -> bool:
        """Whether all tensors are the same."""
        return not (self.different or self.missing or self.added)


@dataclass(frozen=True)
class FileVerdict:
    """Whether a file has the bytes of a version; if not, how the tensors compare, where both have some."""

    same: bool
    sha256: str
    tensors: TensorDifferences | None = None


def versions_of(workspace: Workspace, name: str) -> dict[str, Version]:
    """The files that ``REV:PATH`` stands for, by their path below it; a file itself is called ``.``.

    Raises GitError if that is nothing.
    """
    kind = workspace.repository.kind_of(name) if not name.startswith("-") else None
    oid = workspace.repository.object_of(name) if kind else None
    path = name.partition(":")[2]
    if kind == "blob" and oid:
        return {".": Version(path or name, oid)}
    if kind in ("tree", "commit") and oid:
        entries = workspace.repository.tree(oid)
        return {entry.path: Version(f"{path}/{entry.path}".lstrip("/"), entry.oid) for entry in entries}
    raise GitError(f"not a file of a commit: {quoted(name)}", hint="say REV:PATH, as in HEAD:model.safetensors")


def blocks_of(workspace: Workspace, version: Version) -> Iterator[bytes | memoryview]:
    """The bytes of a version as a checkout writes them. Raises ThetaError."""
    manifest = manifest_of(workspace, version)
    if manifest is not None:
        yield from smudge(workspace, version.path, manifest)
        return
    with blob_stream(workspace.repository.git, version.oid) as stream:
        while block := stream.read(_STEP):
            yield block


def manifest_of(workspace: Workspace, version: Version) -> Manifest | None:
    """The manifest of a version; None for a file that Git has as it is."""
    text = workspace.blobs.read(version.oid, MAX_TEXT)
    return read_manifest(workspace, version.path, text) if text and claims_to_be_manifest(text) else None


def hashed(workspace: Workspace, version: Version, algorithm: str = "sha256") -> str:
    """The digest in hexadecimal of a version's bytes. Raises ThetaError."""
    digest = hashlib.new(algorithm)
    for block in blocks_of(workspace, version):
        digest.update(block)
    return digest.hexdigest()


def compare_file(workspace: Workspace, version: Version, file: Path) -> FileVerdict:
    """Compare a file with a version: to the bit, else tensor by tensor. Raises ThetaError."""
    with translated(file), reading(file) as stream:
        digest = hashlib.sha256()
        while block := stream.read(_STEP):
            digest.update(block)
    found = digest.hexdigest()
    if found == hashed(workspace, version):
        return FileVerdict(same=True, sha256=found)
    manifest = manifest_of(workspace, version)
    return FileVerdict(same=False, sha256=found, tensors=_tensors(workspace, manifest, file) if manifest else None)


def tensors_with(workspace: Workspace, version: Version, digest: Digest) -> list[str]:
    """The names of a version's tensors that have a digest."""
    manifest = manifest_of(workspace, version)
    return [stanza.spec.name for stanza in manifest.stanzas if stanza.digest == digest] if manifest else []


def _tensors(workspace: Workspace, manifest: Manifest, file: Path) -> TensorDifferences | None:
    """How the tensors compare; None for a file that has none."""
    expected = {stanza.spec.name: stanza for stanza in manifest.stanzas}
    try:
        with translated(file), CheckpointFile.opened(file, workspace.tensors.registry) as opened:
            alike: list[str] = []
            different: list[str] = []
            for name in expected.keys() & opened.segments.keys():
                segment, stanza = opened.segments[name], expected[name]
                same = segment.spec == stanza.spec and _digest(opened, name) == stanza.digest
                (alike if same else different).append(name)
            missing, added = expected.keys() - opened.segments.keys(), opened.segments.keys() - expected.keys()
            return TensorDifferences(*(tuple(sorted(names)) for names in (alike, different, missing, added)))
    except FormatError:
        return None


def _digest(file: CheckpointFile, name: str) -> Digest:
    segment, digest = file.segments[name], RunningDigest(parallel=True)
    for block in file.copy(segment.offset, segment.offset + segment.spec.nbytes):
        digest.update(block)
    return digest.digest()
