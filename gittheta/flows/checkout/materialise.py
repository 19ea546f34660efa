"""materialise: write large checkpoints into the work tree directly, past Git's memory.

Git keeps a smudged file whole in memory. Above ``theta.smudgeLimit`` the filter therefore hands Git the manifest itself
and notes the path as *pending*; a hook, or ``git theta pull``, then puts the checkpoint in its place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.errors import GitError, ThetaError
from gittheta.flows.checkout.smudge import read_manifest, smudge
from gittheta.flows.workspace import permissions_of
from gittheta.git.index import remembered_sizes, untracked_files
from gittheta.git.locked_index import replace_entries
from gittheta.model import ObjectId
from gittheta.runtime import total_memory
from gittheta.storage.files import open_new, reading, translated, write_all
from gittheta.storage.manifest import MAX_TEXT, claims_to_be_manifest, parse_manifest
from gittheta.storage.shared_list import SharedList

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.git.entries import Entry
    from gittheta.git.operation import Operation
    from gittheta.git.repository import Repository
    from gittheta.model import Manifest

PENDING = "theta-pending"
#: What the list begins with once a hook has looked at it: a path of no letters.
_SEEN = b"\0"


def pending_file(repository: Repository) -> Path:
    """The list of this work tree's pending paths, NUL-terminated; the hooks' shims look whether it is there."""
    return repository.git_dir / PENDING


def note_pending(repository: Repository, path: str) -> None:
    """Remember that Git was given a manifest for this file."""
    with translated(pending_file(repository)):
        _pending_list(repository).append(os.fsencode(path) + b"\0")


def _pending_list(repository: Repository) -> SharedList:
    return SharedList(pending_file(repository), permissions_of(repository))


def pending_paths(repository: Repository) -> list[str]:
    """What is noted, each path once."""
    return _paths_in(_noted(repository))


def _noted(repository: Repository) -> bytes:
    try:
        noted = pending_file(repository).read_bytes()
    except FileNotFoundError:
        return b""
    return noted[: noted.rfind(b"\0") + 1]  # what follows is still being written


def _settle(repository: Repository, before: bytes, after: bytes) -> None:
    """Replace what was read of the list; what was noted since, while files were written, stays."""
    if before:
        with translated(pending_file(repository)):
            _pending_list(repository).replace(before, after)


def _paths_in(noted: bytes) -> list[str]:
    return [path for path in dict.fromkeys(os.fsdecode(noted).split("\0")) if path]


def pending_mark(repository: Repository) -> tuple[int, int] | None:
    """Something that changes whenever the list does; None while there is none."""
    try:
        status = os.stat(pending_file(repository))
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size


def handed_elsewhere(workspace: Workspace) -> list[str]:
    """Pending paths at which no manifest stands, although no hook has looked: Git has put it elsewhere."""
    repository = workspace.repository
    try:
        seen = pending_file(repository).read_bytes().startswith(_SEEN)
    except FileNotFoundError:
        return []
    if seen or repository.top is None:
        return []
    return [path for path in pending_paths(repository) if manifest_text(repository.top / path) is None]


def is_large(workspace: Workspace, manifest: Manifest) -> bool:
    """Whether a checkpoint is larger than ``theta.smudgeLimit``."""
    return manifest.file_size > workspace.settings.smudge_limit


def must_wait(workspace: Workspace, manifest: Manifest, operation: Operation) -> bool:
    """Whether a checkpoint is too large to go through Git's memory.

    In a sequence it goes there all the same, as long as it fits at all: no hook is called at the end of most of them.
    """
    return is_large(workspace, manifest) and not (operation.in_sequence and manifest.file_size <= total_memory() // 2)


def materialise_pending(workspace: Workspace) -> list[str]:
    """Put in place what the filter has noted; returns the paths that were written.

    A git command that is still running may write its own idea of the index over what is mended here: a path stays
    noted until a later hook finds nothing more to do for it. If the index is in use, that later hook does it all.
    """
    noted = _noted(workspace.repository)
    paths = _paths_in(noted)
    if not paths:
        return []
    try:
        written, unsure = _materialise(workspace, paths)
    except GitError as error:
        workspace.reporter.trace(f"the index is in use: {error.what}")
        return []
    left = b"".join(os.fsencode(path) + b"\0" for path in unsure)
    _settle(workspace.repository, noted, _SEEN + left if left else b"")
    return written


def materialise_all(workspace: Workspace, takes: Callable[[str], bool] = lambda _: True) -> list[str]:
    """The same for every file of the work tree that gittheta stores or would store, and for all that is noted.

    ``takes`` says which paths are meant. What all of them lack is fetched first, at once.
    """
    noted = _noted(workspace.repository)
    paths = dict.fromkeys([*tracked_paths(workspace.repository), *_paths_in(noted)])
    chosen = [path for path in paths if takes(path)]
    _fetch_for(workspace, chosen)
    written, _ = _materialise(workspace, chosen)
    left = [path for path in _paths_in(noted) if not takes(path)]
    _settle(workspace.repository, noted, b"".join(os.fsencode(path) + b"\0" for path in left))
    return written


def _fetch_for(workspace: Workspace, paths: Iterable[str]) -> None:
    """Get what manifests in the work tree need; each file says what it lacks when it is written."""
    top, needed = workspace.repository.top, dict[ObjectId, int]()
    for path in paths if top else ():
        with suppress(ThetaError):
            manifest = parse_manifest(manifest_text(top / path) or b"") if top else None
            for object_id, size in manifest.objects().items() if manifest else ():
                needed[object_id] = max(size, needed.get(object_id, 0))
    if workspace.tensors.store.missing(needed):
        from gittheta.flows.transfer.fetch import fetch_objects

        with suppress(ThetaError):
            fetch_objects(workspace, needed)


def tracked_paths(repository: Repository) -> list[str]:
    """Every path with the filter, in the index or not, ignored or not: `git stash -a` takes all of them away."""
    git = repository.git
    paths = dict.fromkeys([*(entry.path for entry in repository.index()), *untracked_files(git)])
    filters = repository.attributes(["filter"], paths)
    return [path for path in filters if filters[path]["filter"] == "theta"]


def _materialise(workspace: Workspace, paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """The paths that were written, and those for which the index had to be mended.

    Raises GitError if the index is locked; the files are then in place, but Git takes them for modified.
    """
    repository = workspace.repository
    paths = list(dict.fromkeys(paths))
    if not paths or repository.top is None:
        return [], []
    written, failed = [], []
    for path in paths:
        try:
            if write_checkpoint(workspace, repository.top / path, path):
                written.append(path)
        except ThetaError as error:
            failed.append(error)
    stale = _stale(workspace, paths)
    if stale:
        replace_entries(repository, [(entry, entry) for entry in stale])
    if failed:
        # One that cannot be rebuilt must not keep the others from their places.
        raise failed[0]
    return written, [entry.path for entry in stale]


def _stale(workspace: Workspace, paths: Iterable[str]) -> list[Entry]:
    """Entries of the index that remember the manifest's size where the checkpoint is."""
    repository = workspace.repository
    wanted = set(paths)
    sizes = remembered_sizes(repository.git)
    return [
        entry
        for entry in repository.index()
        if entry.path in wanted
        and not entry.stage
        and repository.top
        and _has_stale_size(workspace, entry, repository.top, sizes)
    ]


def _has_stale_size(workspace: Workspace, entry: Entry, top: Path, sizes: dict[str, int]) -> bool:
    remembered = sizes.get(entry.path)
    try:
        actual = os.lstat(top / entry.path).st_size
    except OSError:
        return False
    if not remembered or remembered == actual or not entry.mode.startswith("100"):
        return False
    text = workspace.blobs.read(entry.oid, MAX_TEXT)
    return bool(text) and claims_to_be_manifest(text or b"") and remembered == len(text or b"")


def write_checkpoint(workspace: Workspace, target: Path, path: str) -> bool:
    """Write a checkpoint beside the manifest that stands in the work tree, then replace it.

    Says whether there was one. Nothing but a valid manifest is ever replaced. Raises a ThetaError, naming the file and
    the tensor, if the checkpoint cannot be rebuilt; the manifest then stays.
    """
    text = manifest_text(target)
    manifest = read_manifest(workspace, path, text) if text else None
    if manifest is None or text is None:
        return False
    return replace_checkpoint(workspace, target, path, manifest, lambda: manifest_text(target) == text)


def replace_checkpoint(
    workspace: Workspace, target: Path, path: str, manifest: Manifest, may: Callable[[], bool]
) -> bool:
    """Put a checkpoint in the place of a file, with its permissions, if it ``may`` once all is written; says whether.

    Raises a ThetaError, naming the file and the tensor, if it cannot be rebuilt; the file then stays.
    """
    temporary = workspace.tensors.store.temporary()
    if temporary.parent.stat().st_dev != target.parent.stat().st_dev:
        temporary = target.with_name(f".{temporary.name}.gittheta")
    try:
        with translated(target):
            _write(workspace, path, manifest, temporary)
            os.chmod(temporary, target.stat().st_mode & 0o7777)
            if not may():
                return False
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _write(workspace: Workspace, path: str, manifest: Manifest, temporary: Path) -> None:
    workspace.reporter.start(f"Writing {path}", manifest.file_size)
    descriptor = open_new(temporary)
    try:
        for part in smudge(workspace, path, manifest):
            write_all(descriptor, part)
            workspace.reporter.advance(len(part))
    finally:
        os.close(descriptor)


def manifest_text(path: Path) -> bytes | None:
    """The content of a file of the work tree if it claims to be a manifest."""
    try:
        if path.lstat().st_size > MAX_TEXT:
            return None
        with reading(path, follow=False) as file:
            head = file.read(64)
            return head + file.read() if claims_to_be_manifest(head) else None
    except OSError:
        return None
