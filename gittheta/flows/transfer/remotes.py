"""Which remote keeps the objects of which Git remote."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gittheta.api import Remote, RemoteContext
from gittheta.errors import RemoteError
from gittheta.flows.transfer.pointers import PointerList
from gittheta.git.history import fetched_urls
from gittheta.git.network.lfsconfig import suggestions
from gittheta.git.network.settings import GitNetwork
from gittheta.remotes.wrapper import Wrapper

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.model import ObjectId


@dataclass(frozen=True)
class OpenedRemote(Wrapper):
    """A remote that is ready for use."""

    #: Whether objects that no pointer of Git LFS names may be deleted there.
    wants_pointers: bool = False


def is_chosen(workspace: Workspace, name: str) -> bool:
    """Whether the user has named a place for the objects of a remote, which others may use too."""
    repository = workspace.repository
    return bool(repository.setting(f"remote.{name}.thetaurl") or repository.setting("theta.url"))


@contextmanager
def opened_remote(workspace: Workspace, name: str, url: str, *, exact: bool = False) -> Iterator[OpenedRemote]:
    """What keeps the objects of a Git remote, with retries, limits and progress. Raises RemoteError.

    ``exact``: the URL is that of the objects, whatever the settings say.

    No damaged object is sent. What arrives is for the caller to check.
    """
    from gittheta.remotes.progress import ReportingRemote
    from gittheta.remotes.retry import RetryingRemote  # takes its time to import, and most commands need no remote

    try:
        remote, wants_pointers = _open(workspace, name, url, exact=exact)
        try:
            wrapped = ReportingRemote(RetryingRemote(_limited(workspace, remote)), workspace.reporter)
            yield OpenedRemote(wrapped, wants_pointers)
        finally:
            remote.close()
    except SystemExit as error:  # in a hook, a status of 0 would let refs move without their objects
        raise RemoteError(
            f"remote '{name}': the plugin for {url} tried to end the process",
            hint="`git theta plugins` lists the plugins; upgrade or uninstall that one",
        ) from error


def _limited(workspace: Workspace, remote: Remote) -> Remote:
    """The remote within the user's bandwidth, if that is limited."""
    settings = workspace.settings
    if settings.bandwidth is None:
        return remote
    from gittheta.remotes.limit import Bandwidth, LimitedRemote

    return LimitedRemote(remote, settings.transfers, Bandwidth(settings.bandwidth))


def _open(workspace: Workspace, name: str, url: str, *, exact: bool) -> tuple[Remote, bool]:
    """The remote, and whether it wants pointers."""
    repository = workspace.repository
    chosen = url if exact else repository.setting(f"remote.{name}.thetaurl") or repository.setting("theta.url")
    context = RemoteContext(
        repository.top or repository.git_dir,
        repository.setting,
        workspace.reporter,
        name=name,
        chosen=chosen is not None,
        environment=repository.git.environment,
        suggestion=lambda key: suggestions(repository).get(key.lower()),
        known_sizes=PointerList(workspace, name, url).sizes,
        network=GitNetwork(repository.git),
    )
    for kind in workspace.tensors.registry.remotes():
        remote = kind.open(chosen or url, context)
        if remote is not None:
            checked = remote if getattr(kind, "verifies", False) else _verifying(remote)
            return checked, getattr(kind, "wants_pointers", False)
    raise RemoteError(
        f"no installed remote can keep model objects at {chosen or url}",
        hint=f"name a folder that everyone can reach: git config remote.{name}.thetaUrl /path/to/folder",
    )


def _verifying(remote: Remote) -> Remote:
    from gittheta.remotes.verify import VerifyingRemote

    return VerifyingRemote(remote, arrivals=False)


def sources(workspace: Workspace) -> dict[str, str]:
    """Where objects may come from, by name: the remotes, the likeliest first; then what was fetched from last.

    A URL that is no remote, as of ``git pull URL``, is its own name.
    """
    remotes = workspace.repository.remotes()
    bare = {_bare(url) for url in remotes.values()}
    fetched = (url for url in fetched_urls(workspace.repository.git_dir) if _bare(url) not in bare)
    return remotes | {url: url for url in fetched if url not in remotes}


def _bare(url: str) -> str:
    """A URL as Git writes it into FETCH_HEAD."""
    return url.rstrip("/").removesuffix(".git")


def missing_at(remote: Remote, objects: Mapping[ObjectId, int]) -> set[ObjectId]:
    """Those of the objects that a remote does not have, or has with fewer bytes than the given number."""
    sizes = remote.sizes(objects)
    return {object_id for object_id, size in objects.items() if sizes.get(object_id, -1) < size}


def on_remotes(workspace: Workspace, objects: Iterable[ObjectId]) -> set[ObjectId]:
    """Those of the objects that some remote has. A remote that cannot be asked has none."""
    left = set(objects)
    found: set[ObjectId] = set()
    for name, url in sources(workspace).items() if left else ():
        if left - found:
            with suppress(RemoteError), opened_remote(workspace, name, url) as remote:
                found |= remote.sizes(left - found).keys()
    return found
