"""status: how each file with the filter stands: in Git, in the work tree, in the store, on the remote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from gittheta.errors import RemoteError, ThetaError
from gittheta.files.kinds import SHORT, Kind, kind_of
from gittheta.flows.checkout.materialise import manifest_text, pending_paths, tracked_paths
from gittheta.flows.checkout.smudge import check_plugins
from gittheta.flows.transfer.remotes import missing_at, on_remotes, opened_remote
from gittheta.git.index import blob_sizes
from gittheta.storage.manifest import MAX_TEXT
from gittheta.wording import shown

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.git.entries import Entry
    from gittheta.git.repository import Repository
    from gittheta.model import ObjectId

_NAMED = 10
#: Bytes that say whether a long blob is a manifest.
_HEAD = 64


class State(Enum):
    """How a file stands, in words that programs may rely on."""

    COMPLETE = "complete"
    #: Whole in Git, past the filter.
    WHOLE = Kind.WHOLE.value
    POINTER = Kind.POINTER.value
    TEXT = Kind.TEXT.value
    EMPTY = Kind.EMPTY.value
    #: Its manifest stands in the work tree, and no hook will write it.
    MANIFEST_ONLY = "manifest only"
    #: The same, and the next hook will write it.
    PENDING = "pending"
    #: What Git has for it is not a valid manifest, or its objects are nowhere.
    BROKEN = "broken"
    UNMERGED = "unmerged"


_AS_THEY_ARE = {kind: State(kind.value) for kind in Kind if kind is not Kind.MANIFEST}


@dataclass(frozen=True)
class FileStatus:
    """One file."""

    path: str
    state: State
    #: Of the checkpoint, or of what Git has instead.
    bytes: int | None = None
    #: Why it is broken, or what to do about it.
    reason: str = ""
    #: Whether the remote has all of its objects; None if there is no remote to ask, or nothing to send.
    pushed: bool | None = None


@dataclass(frozen=True)
class Overview:
    """All files, and what they are compared with."""

    files: tuple[FileStatus, ...]
    #: What keeps Git from using the filter.
    filter_problem: str | None
    #: The remote that was asked, and why it could not answer.
    remote: str | None = None
    remote_problem: str | None = None


def filter_problem(repository: Repository) -> str | None:
    """Why Git would not store checkpoints with gittheta here, and what to do; None if all is well."""
    if not repository.setting("filter.theta.process") or not repository.setting("filter.theta.clean"):
        return "git does not know gittheta here yet; run `git theta install`"
    if (repository.setting("filter.theta.required") or "").lower() not in ("true", "yes", "on", "1"):
        return "filter.theta.required is not true here, so a failure stores models whole; run `git theta install`"
    return None


def kinds(workspace: Workspace) -> dict[str, Kind]:
    """What Git has for each file of the index with the filter; unmerged ones are left out."""
    entries = [entry for entry in _tracked_entries(workspace.repository) if not entry.stage]
    return {entry.path: kind for entry, kind, _ in _with_kinds(workspace, entries)}


def _tracked_entries(repository: Repository) -> list[Entry]:
    entries = [entry for entry in repository.index() if entry.mode.startswith("100")]
    filters = repository.attributes(["filter"], dict.fromkeys(entry.path for entry in entries))
    return [entry for entry in entries if filters[entry.path]["filter"] == "theta"]


def _with_kinds(workspace: Workspace, entries: Iterable[Entry]) -> list[tuple[Entry, Kind, int]]:
    """Entries, what each is, and its size in bytes in Git."""
    entries = list(entries)
    sizes = blob_sizes(workspace.repository.git, (entry.oid for entry in entries))
    return [
        (entry, blob_kind(workspace, entry.oid, sizes[entry.oid]), sizes[entry.oid])
        for entry in entries
        if entry.oid in sizes
    ]


def blob_kind(workspace: Workspace, oid: str, size: int) -> Kind:
    """What a blob of so many bytes is. Of long ones no more than the beginning is kept."""
    if size > MAX_TEXT:
        return Kind.WHOLE
    head = workspace.blobs.begin(oid, size if size < SHORT else _HEAD) or b""
    if size >= SHORT:
        head = head.ljust(SHORT, b"\0")
    return kind_of(workspace.tensors.registry, workspace.reporter, head)


def renormalize_hint(found: Mapping[str, Kind]) -> str | None:
    """What to say of files that are whole in Git; None if there are none."""
    paths = [path for path, kind in found.items() if kind is Kind.WHOLE]
    if not paths:
        return None
    named = "\n".join(f"    {shown(path)}" for path in paths[:_NAMED]) + ("\n    ..." if len(paths) > _NAMED else "")
    return (
        f"{_counted(len(paths), 'file is', 'files are')} whole in Git, past gittheta:\n{named}\n"
        "  to let gittheta store what matches from now on:\n"
        "    git add .gitattributes && git add --renormalize . && git commit\n"
        "  (older commits keep it whole; a branch from before is merged by git merge -X renormalize BRANCH)"
    )


def notes(workspace: Workspace) -> list[str]:
    """What a look at the index has to say of files that are not stored as checkpoints: for fsck."""
    found = kinds(workspace)
    whole = renormalize_hint(found)
    pointers = [path for path, kind in found.items() if kind is Kind.POINTER]
    texts = [path for path, kind in found.items() if kind is Kind.TEXT]
    said = [whole] if whole else []
    if pointers:
        said.append(f"pointers of Git LFS, not models: {_listed(pointers)}\n  {POINTER_HINT}")
    return [*said, f"text, as it is: {_listed(texts)}"] if texts else said


POINTER_HINT = "run `git lfs pull`, then `git add` them again"


def _listed(paths: list[str]) -> str:
    return ", ".join(map(shown, paths[:_NAMED])) + (f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else "")


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def overview(workspace: Workspace, *, ask_remote: bool) -> Overview:
    """Look at everything. Reads manifests, asks one remote what it has, and writes nothing."""
    repository = workspace.repository
    entries = _tracked_entries(repository)
    unmerged = dict.fromkeys(entry.path for entry in entries if entry.stage)
    looked = _with_kinds(workspace, (entry for entry in entries if not entry.stage))
    look = _Look(workspace, frozenset(pending_paths(repository)))
    files = [FileStatus(path, State.UNMERGED, reason=_of_two_kinds(workspace, path)) for path in unmerged]
    files += [look.at(entry, kind, size) for entry, kind, size in looked]
    files += look.at_untracked({entry.path for entry in entries})
    files = look.with_missing(files, ask_remote=ask_remote)
    remote = next(iter(repository.remotes()), None) if ask_remote else None
    problem = None
    if remote:
        files, problem = look.with_pushed(files, remote)
    order = sorted(files, key=lambda file: file.path)
    return Overview(tuple(order), filter_problem(repository), remote, problem)


def _of_two_kinds(workspace: Workspace, path: str) -> str:
    """What to do about an unmerged file that one side has whole in Git and the other does not; empty for all others."""
    heads = [workspace.blobs.begin(f":{stage}:{path}", SHORT) for stage in (2, 3)]
    sides = {kind_of(workspace.tensors.registry, workspace.reporter, head) for head in heads if head is not None}
    if sides != {Kind.WHOLE, Kind.MANIFEST}:
        return ""
    return "whole in Git on one side: git merge --abort, then git merge -X renormalize BRANCH"


@dataclass
class _Look:
    """What is known while all files are looked at."""

    workspace: Workspace
    pending: frozenset[str]

    def __post_init__(self) -> None:
        self._needed: dict[str, dict[ObjectId, int]] = {}

    def at(self, entry: Entry, kind: Kind, size: int) -> FileStatus:
        """A file of the index."""
        if kind is not Kind.MANIFEST:
            return FileStatus(entry.path, _AS_THEY_ARE[kind], size)
        try:
            manifest = self.workspace.read_manifest(entry.oid)
            if manifest is None:
                return FileStatus(entry.path, State.BROKEN, size, "it cannot be read")
            check_plugins(self.workspace.tensors.registry, manifest)
        except ThetaError as error:
            return FileStatus(entry.path, State.BROKEN, size, error.what)
        self._needed[entry.path] = manifest.objects()
        return FileStatus(entry.path, self._in_work_tree(entry.path), manifest.file_size)

    def _in_work_tree(self, path: str) -> State:
        top = self.workspace.repository.top
        if top is None or manifest_text(top / path) is None:
            return State.COMPLETE
        return State.PENDING if path in self.pending else State.MANIFEST_ONLY

    def at_untracked(self, known: set[str]) -> list[FileStatus]:
        """Manifests in the work tree that the index does not have."""
        if self.workspace.repository.top is None:
            return []
        states = ((path, self._in_work_tree(path)) for path in tracked_paths(self.workspace.repository))
        return [FileStatus(path, state) for path, state in states if path not in known and state is not State.COMPLETE]

    def with_missing(self, files: list[FileStatus], *, ask_remote: bool) -> list[FileStatus]:
        """The same, where files whose objects are nowhere are broken."""
        store = self.workspace.tensors.store
        missing = {path: lacking for path, needed in self._needed.items() if (lacking := store.missing(needed))}
        wanted = set().union(*missing.values())
        elsewhere = on_remotes(self.workspace, wanted) if wanted and ask_remote else set()
        lost = {path: lacking - elsewhere for path, lacking in missing.items()} if ask_remote else {}
        return [
            replace(file, state=State.BROKEN, reason=_missing(objects)) if (objects := lost.get(file.path)) else file
            for file in files
        ]

    def with_pushed(self, files: list[FileStatus], remote: str) -> tuple[list[FileStatus], str | None]:
        """The same, with what the remote has; or why it does not say."""
        needed: dict[ObjectId, int] = {}
        for objects in self._needed.values():
            needed |= objects
        if not needed:
            return files, None
        try:
            url = self.workspace.repository.remotes()[remote]
            with opened_remote(self.workspace, remote, url) as opened:
                lacking = missing_at(opened, needed)
        except RemoteError as error:
            return files, error.what
        pushed = {path: lacking.isdisjoint(objects) for path, objects in self._needed.items()}
        return [replace(file, pushed=pushed.get(file.path)) for file in files], None


def _missing(objects: set[ObjectId]) -> str:
    return f"{_counted(len(objects), 'object is', 'objects are')} neither here nor on a remote, {min(objects)} for one"


def why_not_stored(workspace: Workspace, name: str, path: str) -> tuple[str, str] | None:
    """Of a blob under a tracked pattern that is not a manifest: what it is, and what to do; None for any other."""
    head = workspace.blobs.begin(name, SHORT)
    if head is None or workspace.repository.attributes(["filter"], [path])[path]["filter"] != "theta":
        return None
    kind = kind_of(workspace.tensors.registry, workspace.reporter, head)
    return _EXPLAINED.get(kind, ("empty, so it has no tensors", "save a model there and `git add` it"))


_EXPLAINED = {
    Kind.WHOLE: (
        "whole in Git, past gittheta",
        "to let gittheta store it: git add --renormalize . && git commit",
    ),
    Kind.POINTER: ("a pointer of Git LFS, not a model", POINTER_HINT),
    Kind.TEXT: ("a text, kept as it is", "git show shows it"),
}
