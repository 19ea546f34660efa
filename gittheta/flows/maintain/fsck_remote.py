"""fsck of a remote: its objects are read whole and compared with their names, and mended from whole copies."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gittheta.errors import ObjectCorrupt, ObjectMissing, RemoteError, StoreError, ThetaError
from gittheta.flows.maintain.fsck import Health, blobs_to_check
from gittheta.flows.transfer.absent import lost
from gittheta.flows.transfer.fetch import download
from gittheta.flows.transfer.moving import uncounted
from gittheta.flows.transfer.needs import Needs, needed_objects
from gittheta.flows.transfer.remotes import missing_at, opened_remote
from gittheta.storage.files import check_file
from gittheta.wording import quoted, shell_word, shown

if TYPE_CHECKING:
    from gittheta.api import Remote
    from gittheta.flows.workspace import Workspace
    from gittheta.model import ObjectId


def check_remote(workspace: Workspace, name: str, url: str, *, repair: bool = False) -> Health:
    """Read every object of a remote that this clone knows of, and look for those that the remote's branches need.

    With ``repair``, send whole copies in place of what is damaged or missing. Raises RemoteError if the remote cannot
    be reached.
    """
    with opened_remote(workspace, name, url) as remote:
        return _RemoteCheck(workspace, name, url, remote).run(repair=repair)


@dataclass
class _RemoteCheck:
    workspace: Workspace
    name: str
    url: str
    remote: Remote

    def run(self, *, repair: bool) -> Health:
        """The check, and where it is asked for the repair and a second check of what was mended."""
        needs = Needs(self.workspace)
        known = needed_objects(needs.of(blobs_to_check(self.workspace)))
        revisions = self.workspace.repository.remote_heads(self.url)
        needed = needed_objects(needs.within(revisions))
        needs.warn()
        bad = self._bad(known | needed, needed)
        mended: set[ObjectId] = set()
        if repair and bad:
            mended = self._mend(bad.keys(), known | needed)
            bad = {object_id: error for object_id, error in bad.items() if object_id not in mended}
        problems, warnings = self._told(revisions, bad)
        return Health(0, len(known | needed), 0, 0, len(mended), problems, warnings)

    def _bad(self, known: Mapping[ObjectId, int], needed: Mapping[ObjectId, int]) -> dict[ObjectId, ThetaError]:
        """What is wrong with each object there: it is damaged; or a branch there needs it, and it is missing."""
        sizes = self.remote.sizes(known)
        self.workspace.reporter.start(f"Checking objects of {shown(self.name)}", sum(sizes.values()))
        hint = f"mend it from here: git theta fsck --remote {shell_word(self.name)} --repair"
        bad: dict[ObjectId, ThetaError] = {
            object_id: ObjectMissing(f"object {object_id} is not at {quoted(self.name)}", hint=hint)
            for object_id in needed.keys() - sizes.keys()
        }
        for object_id in sorted(sizes):
            what = self._damage(object_id)
            if what:
                bad[object_id] = ObjectCorrupt(f"object {object_id} {what} at {quoted(self.name)}", hint=hint)
        return bad

    def _damage(self, object_id: ObjectId) -> str | None:
        """What is wrong with an object there, which is read whole; None if it is what its name says."""
        temporary = self.workspace.tensors.store.temporary()
        try:
            self.remote.download(object_id, temporary, uncounted)
            check_file(temporary, object_id)
        except ObjectCorrupt:
            return "is damaged"
        except RemoteError as error:
            return f"cannot be read ({error.what})"
        finally:
            temporary.unlink(missing_ok=True)
        return None

    def _mend(self, bad: Collection[ObjectId], least: Mapping[ObjectId, int]) -> set[ObjectId]:
        """Send whole copies of some objects, from here or from another remote; returns those that are whole there."""
        store = self.workspace.tensors.store
        absent = {object_id for object_id in bad if not self._whole_here(object_id)}
        download(self.workspace, absent, but=self.url)
        sent = set()
        for object_id in sorted(bad):
            source = store.find(object_id)
            if source is not None and self._whole_here(object_id):
                self.remote.upload(object_id, source, uncounted)
                sent.add(object_id)
        arrived = sent - missing_at(self.remote, {object_id: least[object_id] for object_id in sent})
        return {object_id for object_id in arrived if not self._damage(object_id)}

    def _whole_here(self, object_id: ObjectId) -> bool:
        try:
            self.workspace.tensors.store.check(object_id)
        except StoreError:
            return False
        return True

    def _told(
        self, revisions: list[str], bad: Mapping[ObjectId, ThetaError]
    ) -> tuple[list[ThetaError], list[ThetaError]]:
        """Problems and warnings: what is missing there is a problem if a file needs it that has the filter."""
        missing = {object_id for object_id, error in bad.items() if isinstance(error, ObjectMissing)}
        needing = {
            object_id: absence
            for absence in sorted(lost(self.workspace, revisions, missing), key=lambda absence: absence.filtered)
            for object_id in absence.objects
        }
        problems: list[ThetaError] = []
        warnings: list[ThetaError] = []
        for object_id, error in bad.items():
            absence = needing.get(object_id)
            where = error.located(path=absence.path if absence else None)
            (warnings if absence and not absence.filtered else problems).append(where)
        return problems, warnings
