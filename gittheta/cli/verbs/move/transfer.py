"""``git theta push``, ``fetch`` and ``pull``: by hand what plain ``git push`` and ``checkout`` do by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gittheta.cli.console import open_workspace
from gittheta.errors import GitError
from gittheta.flows.checkout.materialise import materialise_all
from gittheta.flows.transfer.fetch import fetch_revisions
from gittheta.flows.transfer.needs import manifests_in, needed_objects
from gittheta.flows.transfer.push import upload
from gittheta.flows.transfer.remotes import opened_remote
from gittheta.git.names import check_remote, check_revisions
from gittheta.runtime import keep_memory
from gittheta.wording import counted, shown

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace


@click.command()
@click.argument("remote", required=False)
@click.argument("revisions", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="The objects of all branches and tags.")
def push(remote: str | None, revisions: tuple[str, ...], everything: bool) -> None:
    """Send the objects of some revisions (HEAD) to a remote, without moving a ref."""
    with open_workspace() as workspace:
        name, url = _remote(workspace, remote)
        check_revisions(workspace.repository, revisions)
        wanted = ["--all"] if everything else list(revisions or ("HEAD",))
        needed = needed_objects(manifest for _, manifest in manifests_in(workspace, wanted))
        with opened_remote(workspace, name, url) as opened:
            count = upload(workspace, opened, needed)
        click.echo(f"{count} of {counted(len(needed), 'object')} sent to {shown(name)}")


@click.command()
@click.argument("remote", required=False)
@click.argument("revisions", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="The objects of all branches and tags.")
def fetch(remote: str | None, revisions: tuple[str, ...], everything: bool) -> None:
    """Get the objects of some revisions (the tree of HEAD) that are not here."""
    with open_workspace() as workspace:
        if remote is not None:
            check_remote(workspace.repository, remote, urls=False)
        check_revisions(workspace.repository, revisions)
        tree = workspace.repository.tree_of("HEAD") or ""
        wanted = ["--all"] if everything else list(revisions or (tree,))
        count = fetch_revisions(workspace, wanted, remote)
        click.echo(f"{counted(count, 'object')} fetched")


@click.command()
def pull() -> None:
    """Put every checkpoint of the work tree in place that still is a manifest, fetching what it needs."""
    keep_memory()
    with open_workspace() as workspace:
        for path in materialise_all(workspace):
            click.echo(shown(path))


def _remote(workspace: Workspace, name: str | None) -> tuple[str, str]:
    remotes = workspace.repository.remotes()
    if name is None:
        if not remotes:
            raise GitError("there is no remote", hint="git remote add origin URL")
        return next(iter(remotes.items()))
    check_remote(workspace.repository, name, urls=True)
    return name, remotes.get(name, name)
