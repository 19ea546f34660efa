"""Pointers for objects on an LFS server: without one, a server may take an object for garbage.

One ref at the Git remote, ``refs/theta/pointers``, names a commit whose tree lists a pointer for each object that was
ever sent there. It is only added to. Since pointers tell sizes, it is also the list of exact sizes that some servers
ask for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gittheta.errors import GitError
from gittheta.git.network import pointers
from gittheta.model import ObjectId
from gittheta.wording import quoted

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace

REF = "refs/theta/pointers"
#: How often an update is tried that somebody else's was faster than.
_ATTEMPTS = 5


@dataclass(frozen=True)
class PointerList:
    """The list of one Git remote, and this clone's copy of it. For one thread at a time."""

    workspace: Workspace
    name: str
    url: str

    @property
    def ref(self) -> str:
        """The ref at the remote."""
        return self.workspace.repository.setting("theta.pointersref") or REF

    @property
    def copy(self) -> str:
        """The ref here that names what the remote was last seen to have."""
        plain = re.fullmatch(r"[\w-]+", self.name)
        return f"refs/theta/pointers-at/{self.name if plain else hashlib.sha256(self.url.encode()).hexdigest()}"

    def add(self, objects: Mapping[ObjectId, int]) -> None:
        """See to it that the remote lists objects of these sizes in bytes, all of which it has.

        Where the ref is refused, a warning says so.
        """
        git = self.workspace.repository.git
        refused, before = "", ""
        for _ in range(_ATTEMPTS):
            there = pointers.at_remote(git, self.url, self.ref) or ""
            if refused and there == before:
                break
            before, base = there, self._united(there)
            known = pointers.listed(git, base) if base else set()
            missing = {str(object_id): size for object_id, size in objects.items() if object_id not in known}
            commit = pointers.extended(git, base, missing) if missing else base
            if not commit or commit == there:
                return
            refused = pointers.send(git, self.url, commit, self.ref) or ""
            if not refused:
                pointers.keep(git, self.copy, commit)
                return
        self.workspace.reporter.warn(
            f"{quoted(self.name)} does not take the ref {self.ref}: {refused}\n"
            "  objects that no pointer names may be deleted there some day; `git config theta.pointersRef "
            "refs/heads/BRANCH` keeps the pointers on a branch instead"
        )

    def _united(self, there: str) -> str | None:
        """What the remote has, with what it was seen to have before; None where that is nothing. Raises GitError."""
        git = self.workspace.repository.git
        mine = pointers.present(git, self.copy)
        if not there or there == mine:
            return mine
        former = pointers.listed(git, mine) if mine else set()
        if not pointers.fetch(git, self.url, self.ref, self.copy):
            raise GitError(f"cannot fetch {self.ref} from {quoted(self.name)}", hint="git fetch, then push again")
        lost = former - pointers.listed(git, there)
        return pointers.extended(git, there, pointers.sizes(git, mine, lost)) if mine and lost else there

    def sizes(self, objects: Collection[ObjectId]) -> Mapping[ObjectId, int]:
        """The exact sizes of objects: of those that are here, and of those that the list has."""
        store, git = self.workspace.tensors.store, self.workspace.repository.git
        found = {object_id: path.stat().st_size for object_id in objects if (path := store.find(object_id))}
        left = [object_id for object_id in objects if object_id not in found]
        for fetched in (False, True):
            if not left or (fetched and not pointers.fetch(git, self.url, self.ref, self.copy)):
                break
            commit = pointers.present(git, self.copy)
            if commit:
                told = pointers.sizes(git, commit, left)
                found |= {ObjectId(object_id): size for object_id, size in told.items()}
                left = [object_id for object_id in left if object_id not in found]
        return found


def add_pointers(workspace: Workspace, name: str, url: str, objects: Mapping[ObjectId, int]) -> None:
    """Add to the list of a remote those of its objects that are here. A remote that cannot be asked is a warning."""
    store = workspace.tensors.store
    sizes = {object_id: path.stat().st_size for object_id in objects if (path := store.find(object_id))}
    try:
        PointerList(workspace, name, url).add(sizes)
    except GitError as error:
        workspace.reporter.warn(f"the pointers of {quoted(name)} are as they were: {error.what}")
