"""materialise: write large checkpoints into the work tree directly, past Git's memory.

Git keeps a smudged file whole in memory. Above ``theta.smudgeLimit`` the filter therefore hands Git the manifest itself
and notes the path as *pending*; a hook, or ``git theta pull``, then puts the checkpoint in its place.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from gittheta.errors import GitError
from gittheta.flows.smudge import smudge
from gittheta.flows.workspace import Workspace
from gittheta.git import Entry, Repository
from gittheta.manifest import MAX_TEXT, claims_to_be_manifest, parse_manifest
from gittheta.store import translated, write_all

PENDING = "theta-pending"


def pending_file(repository: Repository) -> Path:
    """The list of this work tree's pending paths, NUL-terminated; the hooks' shims look whether it is there."""
    return repository.git_dir / PENDING


def note_pending(repository: Repository, path: str) -> None:
    """Remember that Git was given a manifest for this file."""
    with translated(pending_file(repository)), open(pending_file(repository), "ab") as file:
        file.write(os.fsencode(path) + b"\0")


def materialise_pending(workspace: Workspace) -> list[str]:
    """Put in place what the filter has noted. Paths stay noted until the index has forgotten the manifest's size."""
    noted = pending_file(workspace.repository)
    try:
        paths = dict.fromkeys(os.fsdecode(noted.read_bytes()).split("\0")[:-1])
    except FileNotFoundError:
        return []
    written, unsure = _materialise(workspace, paths)
    # A git command that is still running may write its own idea of the index over what was mended just now:
    # a path is done with once a later hook finds nothing more to do for it.
    _note(noted, unsure)
    return written


def _note(noted: Path, paths: Iterable[str]) -> None:
    text = b"".join(os.fsencode(path) + b"\0" for path in paths)
    if text:
        noted.write_bytes(text)
    else:
        noted.unlink(missing_ok=True)


def materialise(workspace: Workspace, paths: Iterable[str]) -> list[str]:
    """Replace manifests in the work tree by their checkpoints; returns the paths that were.

    Only where the work-tree file is the very manifest that the index holds: nothing of the user's is overwritten.
    Raises GitError if the index is locked; the files are then in place, but Git takes them for modified.
    """
    return _materialise(workspace, paths)[0]


def _materialise(workspace: Workspace, paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """The paths that were written, and those for which anything had to be done."""
    repository = workspace.repository
    wanted = set(paths)
    if not wanted or repository.top is None:
        return [], []
    sizes = repository.index_sizes(wanted)
    written, stale = [], []
    for entry in repository.index():
        if entry.path not in wanted or entry.stage or not entry.mode.startswith("100"):
            continue
        text = workspace.blobs.read(entry.oid, MAX_TEXT)
        if not text or not claims_to_be_manifest(text):
            continue
        if _is_text(repository.top / entry.path, text):
            write_checkpoint(workspace, entry, text)
            written.append(entry.path)
        if entry.path in written or sizes.get(entry.path) == len(text):
            stale.append(entry)
    if stale:
        repository.forget_stat(stale)
    return written, [entry.path for entry in stale]


def write_checkpoint(workspace: Workspace, entry: Entry, text: bytes) -> None:
    """Write one checkpoint beside its manifest, then replace it."""
    assert workspace.repository.top is not None  # noqa: S101 - materialise has looked
    target = workspace.repository.top / entry.path
    manifest = parse_manifest(text)
    temporary = workspace.store.temporary()
    if temporary.parent.stat().st_dev != target.parent.stat().st_dev:
        temporary = target.with_name(f".{temporary.name}.gittheta")
    workspace.reporter.start(f"Writing {entry.path}", manifest.file_size)
    try:
        with translated(target):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
            try:
                for part in smudge(workspace, entry.path, manifest):
                    write_all(descriptor, part)
                    workspace.reporter.advance(len(part))
            finally:
                os.close(descriptor)
            os.chmod(temporary, target.stat().st_mode & 0o7777)
            if _is_text(target, text):
                os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def unwritten(workspace: Workspace) -> list[str]:
    """Paths of the index whose work-tree file still is a manifest."""
    repository = workspace.repository
    found = []
    for entry in repository.index():
        if repository.top is None or entry.stage or not entry.mode.startswith("100"):
            continue
        with suppress(OSError), open(repository.top / entry.path, "rb") as file:
            if claims_to_be_manifest(file.read(64)):
                found.append(entry.path)
    return found


def _is_text(path: Path, text: bytes) -> bool:
    try:
        return not path.is_symlink() and path.stat().st_size == len(text) and path.read_bytes() == text
    except OSError:
        return False


def try_pending(workspace: Workspace) -> list[str]:
    """As :func:`materialise_pending`, but a locked index is no trouble: a later hook will find the path still noted."""
    try:
        return materialise_pending(workspace)
    except GitError as error:
        workspace.reporter.trace(f"the index is in use: {error.what}")
        return []
