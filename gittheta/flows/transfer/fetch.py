"""fetch: what is needed and not here, from the likeliest remote first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gittheta.errors import ObjectCorrupt, ObjectMissing, RemoteError
from gittheta.flows.transfer.absent import Absence, lost
from gittheta.flows.transfer.moving import Mover
from gittheta.flows.transfer.needs import Needs, needed_objects, tensor_needing
from gittheta.flows.transfer.remotes import opened_remote, sources
from gittheta.flows.transfer.selection import EVERYTHING, Selection
from gittheta.storage.files import HINT_CORRUPT
from gittheta.wording import counted, quoted, shell_word, shown

if TYPE_CHECKING:
    from gittheta.api import BatchRemote
    from gittheta.flows.workspace import Workspace
    from gittheta.model import Manifest, ObjectId

_HINT = (
    "push it from a clone that has it: git theta push --all; if it came from a URL that is not a remote: "
    "git remote add NAME URL; if the remote keeps objects elsewhere: git config remote.NAME.thetaUrl FOLDER"
)


@dataclass
class Asked:
    """What stood in the way of each source that was asked for objects."""

    reasons: list[str] = field(default_factory=list)
    #: Sources that sent something else than the object that was asked for.
    damaged: list[str] = field(default_factory=list)

    @property
    def told(self) -> str:
        """The reasons, to follow what is missing."""
        return "".join(f"; {reason}" for reason in self.reasons)

    @property
    def hint(self) -> str:
        """What to do where something was not found."""
        if not self.damaged:
            return _HINT
        return f"mend it in a clone that has it whole: git theta fsck --remote {shell_word(self.damaged[0])} --repair"


def fetch_missing(workspace: Workspace, manifest: Manifest) -> int:
    """Get the objects of a checkpoint that are not here, from any remote; returns how many. Raises ObjectMissing."""
    missing = workspace.tensors.store.missing(manifest.objects())
    if not missing:
        return 0
    count = len(missing)
    asked = download(
        workspace, {object_id: size for object_id, size in manifest.objects().items() if object_id in missing}
    )
    missing = workspace.tensors.store.missing(manifest.objects())
    if missing:
        object_id = min(missing)
        if workspace.tensors.store.find(object_id):
            raise ObjectCorrupt(
                f"object {object_id} is truncated",
                tensor=tensor_needing(manifest, object_id),
                hint=HINT_CORRUPT,
            )
        raise ObjectMissing(
            f"{workspace.tensors.store.absent(object_id).what}{asked.told}",
            tensor=tensor_needing(manifest, object_id),
            hint=asked.hint,
        )
    return count


def fetch_objects(workspace: Workspace, needed: Mapping[ObjectId, int]) -> None:
    """Get those of some objects that are not here, as far as any remote has them."""
    missing = workspace.tensors.store.missing(needed)
    if missing:
        download(workspace, {object_id: needed[object_id] for object_id in missing})


def download(
    workspace: Workspace,
    wanted: Iterable[ObjectId] | Mapping[ObjectId, int],
    only: str | None = None,
    but: str | None = None,
) -> Asked:
    """Get objects from all sources or one, the likeliest first; ``but``: a URL that is not asked.

    ``wanted`` may tell the least size of each object in bytes.
    """
    least = dict(wanted) if isinstance(wanted, Mapping) else dict.fromkeys(wanted, 0)
    left = set(least)
    asked = Asked()
    for name, url in _chosen(workspace, only, but).items() if left else ():
        if not left:
            break
        try:
            with opened_remote(workspace, name, url) as remote:
                there = remote.sizes({object_id: least[object_id] for object_id in left})
                if left - there.keys():
                    asked.reasons.append(f"remote {quoted(name)} does not have it")
                failed = _download_from(workspace, remote, there, asked, name)
        except RemoteError as error:
            asked.reasons.append(f"remote {quoted(name)}: {error.what}")
            continue
        left -= there.keys() - failed
    if not asked.reasons and left:
        asked.reasons.append("there is no remote")
    return asked


def _chosen(workspace: Workspace, only: str | None, but: str | None) -> dict[str, str]:
    if only is not None:
        return {only: workspace.repository.remotes().get(only, only)}
    return {name: url for name, url in sources(workspace).items() if url != but}


def _download_from(
    workspace: Workspace, remote: BatchRemote, sizes: Mapping[ObjectId, int], asked: Asked, name: str
) -> set[ObjectId]:
    """Get some objects; returns those that did not arrive whole."""
    failed = Mover(workspace, remote, workspace.settings.transfers).receive(dict(sorted(sizes.items())))
    for object_id, error in failed.items():
        if isinstance(error, ObjectCorrupt):
            asked.damaged.append(name)
            asked.reasons.append(f"remote {quoted(name)}: its copy of {object_id} is damaged")
        else:
            asked.reasons.append(f"remote {quoted(name)}: {error.what}")
    return set(failed)


@dataclass(frozen=True)
class Fetched:
    """How many objects a fetch brought, and how many it left in stores that this repository borrows from."""

    count: int
    borrowed: int


def fetch_revisions(
    workspace: Workspace,
    revisions: Iterable[str],
    only: str | None = None,
    selection: Selection = EVERYTHING,
    *,
    dissociate: bool = False,
) -> Fetched:
    """Get every object that the revisions need and that is not here; with ``dissociate`` also those that are borrowed.

    Raises ObjectMissing, after all others have been fetched.
    """
    revisions = list(revisions)
    store, needs = workspace.tensors.store, Needs(workspace, selection)
    needed = needed_objects(needs.within(revisions))
    needs.warn()
    missing = store.missing(needed)
    asked = download(workspace, {object_id: needed[object_id] for object_id in missing}, only)
    borrowed = {object_id for object_id in needed if object_id not in missing and store.borrows(object_id)}
    if dissociate:
        for object_id in sorted(borrowed):
            store.keep(object_id)
    still = store.missing({object_id: needed[object_id] for object_id in missing})
    if still:
        _report(workspace, revisions, still, asked)
    return Fetched(len(missing) - len(still) + len(borrowed) * dissociate, len(borrowed) * (not dissociate))


def plan_fetch(
    workspace: Workspace, revisions: Iterable[str], selection: Selection = EVERYTHING
) -> dict[ObjectId, int]:
    """The objects that :func:`fetch_revisions` would get, and the least size of each in bytes."""
    needs = Needs(workspace, selection)
    needed = needed_objects(needs.within(revisions))
    needs.warn()
    return {object_id: needed[object_id] for object_id in workspace.tensors.store.missing(needed)}


def _report(workspace: Workspace, revisions: list[str], still: set[ObjectId], asked: Asked) -> None:
    """Warn of objects that are nowhere, or raise ObjectMissing if a file needs one that has the filter."""
    absences = list(lost(workspace, revisions, still))
    for absence in absences:
        if not absence.filtered:
            workspace.reporter.warn(absence.warning())
    needed = [absence for absence in absences if absence.filtered]
    if needed:
        count = len({object_id for absence in needed for object_id in absence.objects})
        listed = "".join(f"\n  {line}" for line in _lines(needed))
        raise ObjectMissing(f"not found whole: {counted(count, 'object')}{asked.told}{listed}", hint=asked.hint)


def _lines(absences: Iterable[Absence]) -> Iterator[str]:
    for absence in absences:
        yield f"{shown(absence.path)} needs {', '.join(sorted(absence.objects)[:3])}"
