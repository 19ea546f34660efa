"""What `git add` leaves as it is: pointers of Git LFS, and short texts that no format claims."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.errors import FormatError, ManifestError
from gittheta.files.detect import SNIFF, detect
from gittheta.files.kinds import SHORT, is_pointer, is_short_text, may_be_text
from gittheta.model import OPAQUE, digest_of
from gittheta.storage.manifest import MAX_TEXT, claims_to_be_manifest, parse_manifest
from gittheta.wording import shown

if TYPE_CHECKING:
    from gittheta.codec.stream import ByteStream
    from gittheta.flows.workspace import Workspace
    from gittheta.git.entries import Entry
    from gittheta.git.repository import Repository

POINTERS = "theta-pointers"
_HINT = "run `git lfs pull`, then `git add` it again"


def left_as_it_is(workspace: Workspace, path: str, stream: ByteStream) -> bytes | None:
    """The content of a file that Git is to keep as it is; None, and nothing has been taken, for all others."""
    if not may_be_text(stream.peek(SNIFF)):
        return None
    content = stream.peek(SHORT)
    if is_pointer(content):
        _warn_of_pointer(workspace, path, content)
        return content
    return content if is_short_text(content) and _stays_text(workspace, path, content) else None


def _stays_text(workspace: Workspace, path: str, content: bytes) -> bool:
    """Whether a short text is kept as it is: as it was before, or because no format claims it.

    Neither a new format nor a newer gittheta makes a file that did not change look changed.
    """
    for name in (f":0:{path}", f":2:{path}", f"HEAD:{path}"):
        stored = workspace.blobs.read(name, MAX_TEXT)
        if stored == content:
            return True
        if stored and claims_to_be_manifest(stored) and _describes(stored, content):
            return False
    return detect(workspace.tensors.registry, workspace.reporter, content[:SNIFF]) is None


def _describes(text: bytes, content: bytes) -> bool:
    """Whether a manifest is that of an opaque file of these very bytes."""
    try:
        manifest = parse_manifest(text)
    except ManifestError:
        return False
    digests = [stanza.digest for stanza in manifest.stanzas]
    return manifest.format == OPAQUE and digests == [digest_of(content)]


def _warn_of_pointer(workspace: Workspace, path: str, content: bytes) -> None:
    """Say once that this is not the model, and have the commit looked at."""
    if workspace.settings.allow_lfs_pointers or workspace.blobs.read(f":0:{path}", len(content)) == content:
        return
    note_pointer(workspace.repository, path)
    workspace.reporter.warn(f"{shown(path)}: a pointer of Git LFS, not the model itself; kept as it is\n  {_HINT}")


def _pointers_file(repository: Repository) -> Path:
    """The list of this work tree's pointers that were added, NUL-terminated: whether a commit has to be looked at."""
    return repository.git_dir / POINTERS


def note_pointer(repository: Repository, path: str) -> None:
    """Remember that a pointer may have been added. Where that cannot be written, no commit can be made either."""
    with suppress(OSError), open(_pointers_file(repository), "ab") as file:
        file.write(os.fsencode(path) + b"\0")


def have_been_added(repository: Repository) -> bool:
    """Whether a pointer may have been added since this was last looked at."""
    return _pointers_file(repository).exists()


def refuse_pointers(workspace: Workspace, entries: Iterable[Entry], parents: Sequence[str]) -> None:
    """Raise FormatError if a commit of these entries of the index adds a pointer of Git LFS as a checkpoint.

    ``parents`` are the commits that it will have: what stands there already is not added. If none is added, the next
    commit is not looked at.
    """
    added = [] if workspace.settings.allow_lfs_pointers else list(_added_pointers(workspace, entries, parents))
    if added:
        raise FormatError(
            "a pointer of Git LFS in place of the model, so this is not committed" + _and_others(added[1:]),
            path=added[0],
            hint=f"{_HINT}; to commit pointers all the same: git config theta.allowLfsPointers true",
        )
    _pointers_file(workspace.repository).unlink(missing_ok=True)


def _added_pointers(workspace: Workspace, entries: Iterable[Entry], parents: Sequence[str]) -> Iterator[str]:
    regular = {entry.path: entry for entry in entries if entry.mode.startswith("100") and not entry.stage}
    filters = workspace.repository.attributes(["filter"], regular)
    for path, entry in regular.items():
        if filters[path]["filter"] != "theta":
            continue
        content = workspace.blobs.read(entry.oid, SHORT)
        if content and is_pointer(content) and not _stands_in(workspace, path, content, parents):
            yield path


def _stands_in(workspace: Workspace, path: str, content: bytes, parents: Sequence[str]) -> bool:
    return any(workspace.blobs.read(f"{parent}:{path}", SHORT) == content for parent in parents)


def _and_others(paths: list[str]) -> str:
    return f"; so are {', '.join(map(shown, paths))}" if paths else ""
