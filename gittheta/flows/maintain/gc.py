"""gc: what nobody needs leaves the store. What "needed" means is specified in ``docs/spec/store.md``."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.api import NullReporter
from gittheta.errors import StoreError, ThetaError
from gittheta.flows.maintain.dead_bytes import DeadBytes, dead_bytes
from gittheta.flows.workspace import Workspace
from gittheta.git.holdings import files_in, is_partial, local_blobs, work_trees
from gittheta.git.repository import Repository
from gittheta.model import ObjectId
from gittheta.storage.files import reading, translated
from gittheta.storage.lending import borrowers, is_pushed_to
from gittheta.storage.manifest import MAX_TEXT, claims_to_be_manifest
from gittheta.storage.objects import FRESH, alternate_stores

if TYPE_CHECKING:
    from gittheta.storage.objects import ObjectStore

DAY = 24 * 3600.0
#: Seconds for which an object stays that a manifest in Git's object database named, and names no more.
KEPT = 14 * DAY
#: Seconds that an automatic run may take.
BUDGET = 2.0
#: No manifest that names an object is shorter, in bytes.
_SHORTEST = 100
#: An object wherever a manifest names it, in this version of the format or in a later one.
_NAMED = re.compile(rb"\b([0-9a-f]{64}):[0-9]+\+[0-9]")
#: The store's list of objects that a manifest was seen to name.
_RECORD = "named"
#: Its time is that of the last automatic run.
_STAMP = "collected"


class _TooLong(Exception):
    """The time for an automatic run is over."""


@dataclass
class Collected:
    """What was deleted, or would be."""

    objects: dict[ObjectId, int] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """The bytes of all objects."""
        return sum(self.objects.values())


def collect(
    workspace: Workspace, before: float | None = None, *, dry_run: bool = False, budget: float | None = None
) -> Collected:
    """Delete objects that nothing needs and that nobody wrote or used lately; with ``dry_run`` only name them.

    ``before`` is a time in seconds since the epoch; by default objects stay a day, and 14 days if a manifest was seen
    to name them. Raises StoreError if it cannot be known what is needed.
    """
    store = workspace.tensors.store
    store.remove_abandoned()
    now = time.time()
    if not dry_run and budget is None:
        store.lay_out()
        store.forget_arrivals(now - KEPT)
    refuse_if_unknown(workspace)
    oldest = store.unfinished.oldest_claim()
    # What a living process uses stays, whatever was asked for.
    limit = min(now if oldest is None else oldest - FRESH, now - DAY if before is None else before)
    left = {object_id for object_id in store.all() if _last_used(store, object_id) < limit}
    if not left:
        return Collected()
    until = time.monotonic() + budget if budget is not None else None
    needed = _needed_among(workspace, left, until)
    recorded = _recorded(store)
    if not dry_run:
        _record(store, (recorded | needed) & set(store.all()))
    done = Collected()
    for object_id in sorted(left - needed):
        longer = min(limit, now - KEPT) if before is None and object_id in recorded else limit
        size = _size_if_unused(store, object_id, longer) if dry_run else _removed(store, object_id, longer)
        if size:
            done.objects[object_id] = size
    return done


def collect_now_and_then(workspace: Workspace) -> None:
    """At most once a day, and for two seconds at most: :func:`collect`. Never fails."""
    stamp = workspace.repository.common_dir / "theta" / _STAMP
    if workspace.repository.top is None:
        return
    try:
        last = stamp.stat().st_mtime if stamp.exists() else None
        if not stamp.parent.is_dir() or (last is not None and time.time() - last < DAY):
            return
        os.close(workspace.permissions.append_to(stamp))
        os.utime(stamp)
        if last is not None and workspace.settings.auto_gc:
            done = collect(workspace, budget=BUDGET)
            workspace.reporter.trace(f"{len(done.objects)} unused objects deleted")
    except _TooLong:
        workspace.reporter.warn("to look for unused objects takes longer here than by the way: run `git theta gc`")
    except (ThetaError, OSError) as error:
        workspace.reporter.trace(f"unused objects are left: {error}")


def refuse_if_unknown(workspace: Workspace) -> None:
    """Raise StoreError in a store of which it cannot be known who needs its objects."""
    repository, store = workspace.repository, workspace.tensors.store
    if repository.top is None or is_pushed_to(store.root):
        raise StoreError(
            "others push objects here, and may need what no manifest of this repository names",
            hint="nothing was deleted",
        )
    if is_partial(repository.git):
        raise StoreError(
            "a partial clone does not have all manifests, so it cannot be known what they need",
            hint="nothing was deleted; to have all of them: git fetch --refetch --no-filter",
        )


def dead_in(workspace: Workspace) -> DeadBytes:
    """What the objects of this store hold beyond what any manifest needs of them."""
    return dead_bytes(workspace.tensors.store, filter(None, _texts(workspace)))


def named_objects(text: bytes) -> set[ObjectId]:
    """The objects that a text names as manifests do, be it of this version of the format or of a later one."""
    return {ObjectId(name.decode()) for name in _NAMED.findall(text)}


def may_be_manifest(size: int) -> bool:
    """Whether a blob of this size in bytes can be a manifest that names an object."""
    return _SHORTEST <= size <= MAX_TEXT


def forget_borrower(workspace: Workspace, borrower: Path) -> bool:
    """No longer keep what a repository needs that borrowed from here; says whether it was known."""
    for note, path in borrowers(workspace.tensors.store.root):
        if path in (borrower, borrower / ".git"):
            note.unlink()
            return True
    return False


def _needed_among(workspace: Workspace, left: Iterable[ObjectId], until: float | None) -> set[ObjectId]:
    """Those of some objects that a manifest names, wherever it stands."""
    unknown = set(left)
    needed: set[ObjectId] = set()
    for text in _texts(workspace):
        if until is not None and time.monotonic() > until:
            raise _TooLong
        if text:
            named = named_objects(text) & unknown
            needed |= named
            unknown -= named
        if not unknown:
            break
    return needed


def _texts(workspace: Workspace) -> Iterator[bytes]:
    """Every manifest of this repository and of those that borrow from it; empty where something else was looked at."""
    yield from _texts_of(workspace)
    yield from texts_of_borrowers(workspace)


def texts_of_borrowers(workspace: Workspace) -> Iterator[bytes]:
    """Every manifest of the repositories that borrow from this one. Raises StoreError if one of them is not there."""
    for borrower in _borrowing(workspace):
        with borrower:
            yield from _texts_of(borrower)


def texts_in_work_trees(workspace: Workspace) -> Iterator[bytes]:
    """The manifests that stand as files in any work tree of a repository."""
    for top in work_trees(workspace.repository.git):
        with _elsewhere(top) as other:
            yield from _texts_in(other, top)


def _texts_of(workspace: Workspace) -> Iterator[bytes]:
    git = workspace.repository.git.as_stored()
    for oid, size in local_blobs(git):
        if may_be_manifest(size):
            text = workspace.stored_blobs.read(oid, MAX_TEXT)
            yield text if text and claims_to_be_manifest(text) else b""
    yield from texts_in_work_trees(workspace)


def _texts_in(workspace: Workspace, top: Path) -> Iterator[bytes]:
    """The manifests that stand as files in a work tree."""
    repository = workspace.repository
    for path, values in repository.attributes(["filter"], dict.fromkeys(files_in(repository.git))).items():
        if values["filter"] == "theta":
            with suppress(OSError), reading(top / path, follow=False) as file:
                head = file.read(_SHORTEST)
                yield head + file.read(MAX_TEXT) if claims_to_be_manifest(head) else b""


def _borrowing(workspace: Workspace) -> Iterator[Workspace]:
    """The repositories that borrow from this one. Raises StoreError if one of them is not there."""
    root = workspace.tensors.store.root
    with translated(root):
        known = list(borrowers(root))
    for note, path in known:
        if not path.is_dir():
            raise StoreError(
                f"a repository that borrows from this one is not there: {path}",
                hint=f"if it is gone for good: git theta gc --forget '{path}'; nothing was deleted",
            )
        if root.resolve() in {lender.resolve() for lender in alternate_stores(path)}:
            yield _elsewhere(path)
        else:
            note.unlink(missing_ok=True)


def _elsewhere(place: Path) -> Workspace:
    return Workspace(Repository.elsewhere(place), NullReporter())


def _last_used(store: ObjectStore, object_id: ObjectId) -> float:
    try:
        return store.last_used(object_id)
    except OSError:
        return time.time()


def _size_if_unused(store: ObjectStore, object_id: ObjectId, before: float) -> int:
    return store.own_size(object_id) if _last_used(store, object_id) < before else 0


def _removed(store: ObjectStore, object_id: ObjectId, before: float) -> int:
    return store.remove(object_id, before) if _last_used(store, object_id) < before else 0


def _recorded(store: ObjectStore) -> set[ObjectId]:
    try:
        return {ObjectId(name) for name in (store.root / _RECORD).read_text().split()}
    except (OSError, ValueError):
        return set()


def _record(store: ObjectStore, objects: Iterable[ObjectId]) -> None:
    with translated(store.root), store.permissions.replacing(store.root / _RECORD) as descriptor:
        os.write(descriptor, "".join(f"{object_id}\n" for object_id in sorted(objects)).encode())
