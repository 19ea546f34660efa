"""Which remote keeps the objects of which Git remote."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from gittheta.api import Remote
from gittheta.errors import RemoteError
from gittheta.flows.workspace import Workspace
from gittheta.model import ObjectId


def open_remote(workspace: Workspace, name: str, url: str) -> Remote:
    """What keeps the objects of a Git remote. Raises RemoteError if nothing here can."""
    chosen = workspace.repository.setting(f"remote.{name}.thetaurl") or url
    base = workspace.repository.top or workspace.repository.git_dir
    for kind in workspace.registry.remotes():
        remote = kind.at(chosen, base)
        if remote is not None:
            return remote
    raise RemoteError(
        f"no installed remote can keep model objects at {chosen}",
        mend=f"name a folder that everyone can reach: git config remote.{name}.thetaUrl /path/to/folder",
    )


def on_remotes(workspace: Workspace, objects: Iterable[ObjectId]) -> set[ObjectId]:
    """Those of the objects that some remote has. A remote that cannot be asked has none."""
    left = set(objects)
    found: set[ObjectId] = set()
    for name, url in workspace.repository.remotes().items():
        if left - found:
            with suppress(RemoteError):
                asked = left - found
                found |= asked - open_remote(workspace, name, url).missing(dict.fromkeys(asked, 0))
    return found
