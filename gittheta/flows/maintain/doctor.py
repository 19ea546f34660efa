"""doctor: what is installed, configured, reachable and writable here, and what to do about what is not."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING

from gittheta.errors import ThetaError
from gittheta.flows.maintain.status import filter_problem
from gittheta.flows.transfer.pointers import PointerList
from gittheta.flows.transfer.remotes import opened_remote
from gittheta.git.calling.hooks import hooks_in_force
from gittheta.git.calling.program import stale_settings
from gittheta.git.history import walk
from gittheta.git.rewriting.content import blob_stream
from gittheta.model import ObjectId
from gittheta.storage.manifest import claims_to_be_manifest
from gittheta.wording import counted, quoted, shown

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.git.entries import Blob

#: Bytes of the longest file that the Hugging Face Hub takes into Git itself; a manifest is such a file.
_HUB_LIMIT = 10 << 20
#: Bytes of a blob in history that is worth a word.
_LARGE = 1 << 20
#: Blobs in history whose beginning is read.
_MOST = 100
#: The oldest Git with all that is used: `merge-tree --write-tree`.
_OLDEST_GIT = (2, 38)
#: Of each extra, a module that it installs, and what it is for.
EXTRAS = {
    "merge": ("torch", "merges that compute"),
    "bucket": ("obstore", "objects in buckets"),
    "lfs": ("urllib3", "objects on the LFS server of a forge"),
}


class Verdict(Enum):
    """How something stands."""

    GOOD = "good"
    #: Worth knowing; nothing fails because of it.
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that was looked at, and what to do about it."""

    about: str
    verdict: Verdict
    what: str
    remedy: str = ""


def examine(workspace: Workspace, *, ask_remotes: bool = True) -> Iterator[Diagnosis]:
    """Everything that keeps models from being stored, found, sent or fetched. Never raises a ThetaError."""
    looks: list[Callable[[Workspace], Iterator[Diagnosis]]] = [
        *(_program, _extras, _settings, _hooks, _store, _manifests, _history, _other_tools),
        *((_remotes,) if ask_remotes else ()),
    ]
    for look in looks:
        try:
            yield from look(workspace)
        except (ThetaError, OSError) as error:
            what = error.what if isinstance(error, ThetaError) else str(error)
            remedy = (error.hint or "") if isinstance(error, ThetaError) else ""
            yield Diagnosis(look.__name__.lstrip("_").replace("_", " "), Verdict.BAD, what, remedy)


def _program(workspace: Workspace) -> Iterator[Diagnosis]:
    yield Diagnosis(
        "gittheta", Verdict.GOOD, f"{version('gittheta')}, Python {sys.version.split()[0]} at {sys.executable}"
    )
    text = workspace.repository.git_version()
    numbers = tuple(int(word) for word in text.split(".")[:2] if word.isdigit())
    old = numbers < _OLDEST_GIT
    remedy = f"merges need Git {'.'.join(map(str, _OLDEST_GIT))} or newer" if old else ""
    yield Diagnosis("git", Verdict.BAD if old else Verdict.GOOD, text, remedy)
    if shutil.which("git-theta") is None:
        what = "`git theta` is not on PATH; plain git commands work all the same"
        yield Diagnosis("PATH", Verdict.NOTE, what, "activate its environment, or link git-theta into a folder on PATH")


def _extras(_: Workspace) -> Iterator[Diagnosis]:
    for extra, (module, purpose) in EXTRAS.items():
        if find_spec(module) is None:
            remedy = f"pip install 'gittheta[{extra}]'"
            yield Diagnosis(f"extra {extra}", Verdict.NOTE, f"not installed; needed for {purpose}", remedy)
        else:
            yield Diagnosis(f"extra {extra}", Verdict.GOOD, f"installed, for {purpose}")


def _settings(workspace: Workspace) -> Iterator[Diagnosis]:
    problem = filter_problem(workspace.repository)
    stale = [setting.key for setting in stale_settings(workspace.repository.git)]
    if problem:
        yield Diagnosis("settings", Verdict.BAD, problem)
    elif stale:
        what = f"{', '.join(stale)} would not start gittheta"
        yield Diagnosis("settings", Verdict.BAD, what, "git theta install")
    elif not workspace.repository.setting("merge.theta.driver"):
        yield Diagnosis("settings", Verdict.BAD, "merge.theta.driver is not set", "git theta install")
    else:
        yield Diagnosis("settings", Verdict.GOOD, "Git calls gittheta for filters and merges")
    _ = workspace.settings  # raises an error that names a setting without a meaning


def _hooks(workspace: Workspace) -> Iterator[Diagnosis]:
    if hooks_in_force(workspace.repository):
        yield Diagnosis("hooks", Verdict.GOOD, "in force: pushes send objects first")
    else:
        what = "not all of them are in force; a push may leave objects behind"
        yield Diagnosis("hooks", Verdict.BAD, what, "git theta install")


def _store(workspace: Workspace) -> Iterator[Diagnosis]:
    store = workspace.tensors.store
    temporary = store.temporary()
    try:
        temporary.touch()
    finally:
        temporary.unlink(missing_ok=True)
    free = shutil.disk_usage(store.root).free
    count = sum(1 for _ in store.all())
    what = f"{counted(count, 'object')} at {store.root}, which can be written; {free >> 30} GiB are free"
    yield Diagnosis("store", Verdict.GOOD, what)


def _manifests(workspace: Workspace) -> Iterator[Diagnosis]:
    for blob in _tracked(workspace, [workspace.repository.tree_of("HEAD") or ""]):
        if blob.size > _HUB_LIMIT * 4 // 5 and _is_manifest(workspace, blob):
            what = f"the manifest of {quoted(blob.path)} has {blob.size >> 20} MiB; the Hugging Face Hub takes 10 MiB"
            yield Diagnosis("manifests", Verdict.NOTE, what, "git theta repack shortens it; a forge may take more")


def _history(workspace: Workspace) -> Iterator[Diagnosis]:
    large = [blob for blob in _tracked(workspace, ["--all"]) if blob.size > _LARGE]
    raw = [blob for blob in large[:_MOST] if not _is_manifest(workspace, blob)]
    if raw:
        size = sum(blob.size for blob in raw) >> 20
        what = f"{counted(len(raw), 'model')} whole in Git, {size} MiB, such as {quoted(raw[0].path)}"
        yield Diagnosis("history", Verdict.NOTE, what, "git theta migrate import writes history anew without them")


def _tracked(workspace: Workspace, revisions: list[str]) -> list[Blob]:
    """The blobs at paths with the filter."""
    if not any(revisions) or not workspace.repository.commit("HEAD"):
        return []
    blobs = list(walk(workspace.repository.git.as_stored(), revisions, only_here=True))
    filters = workspace.repository.attributes(["filter"], dict.fromkeys(blob.path for blob in blobs))
    return [blob for blob in blobs if filters[blob.path]["filter"] == "theta"]


def _is_manifest(workspace: Workspace, blob: Blob) -> bool:
    with blob_stream(workspace.repository.git, blob.oid) as stream:
        return claims_to_be_manifest(stream.read(64))


def _other_tools(workspace: Workspace) -> Iterator[Diagnosis]:
    top = workspace.repository.top
    if top is not None and (top / ".jj").exists():
        what = "Jujutsu works here: it calls neither filters nor hooks, so it sees manifests and sends no objects"
        yield Diagnosis(".jj", Verdict.BAD, what, "after `jj git push`: git theta push; commit models with Git")


def _remotes(workspace: Workspace) -> Iterator[Diagnosis]:
    for name, url in workspace.repository.remotes().items():
        try:
            with opened_remote(workspace, name, url) as remote:
                remote.sizes([ObjectId("0" * 64)])
                wants = remote.wants_pointers
        except ThetaError as error:
            yield Diagnosis(f"remote {shown(name)}", Verdict.BAD, error.what, error.hint or "")
            continue
        yield Diagnosis(f"remote {shown(name)}", Verdict.GOOD, "answers what objects it has")
        if wants and not _has_pointers(workspace, name, url):
            what = "does not list the objects, so its server may delete them"
            yield Diagnosis(f"remote {shown(name)}", Verdict.BAD, what, f"git theta push --all {name}")


def _has_pointers(workspace: Workspace, name: str, url: str) -> bool:
    return workspace.repository.has_remote_ref(url, PointerList(workspace, name, url).ref)
