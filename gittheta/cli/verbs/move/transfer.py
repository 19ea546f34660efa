"""``git theta push``, ``fetch`` and ``pull``: by hand what plain ``git push`` and ``checkout`` do by themselves."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from gittheta.cli.console import open_workspace, stop_progress
from gittheta.errors import GitError
from gittheta.flows.checkout.materialise import materialise_all
from gittheta.flows.transfer.fetch import fetch_revisions
from gittheta.flows.transfer.push import push_revisions
from gittheta.flows.transfer.unpushed import note_sent, warn_of_unsent
from gittheta.git.refs.names import check_remote, check_revisions
from gittheta.runtime import keep_memory
from gittheta.wording import counted, shown

if TYPE_CHECKING:
    from gittheta.errors import StoreError
    from gittheta.flows.workspace import Workspace


def borrowed_line(count: int) -> str:
    """What to say of objects that are not this store's own."""
    told = f"{counted(count, 'object')} borrowed from another repository's store"
    return f"{told}; to keep them when it goes: git theta fetch --all --dissociate"


@click.command()
@click.argument("remote", required=False)
@click.argument("revisions", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="The objects of all branches and tags.")
def push(remote: str | None, revisions: tuple[str, ...], everything: bool) -> None:
    """Send the objects of some revisions (HEAD) to a remote, without moving a ref.

    What is not here is fetched from the other remotes first. What is nowhere is listed at the end.
    """
    problems: list[StoreError] = []
    with open_workspace() as workspace:
        name, _ = named_remote(workspace, remote)
        check_revisions(workspace.repository, revisions)
        wanted = ["--all"] if everything else list(revisions or ("HEAD",))
        for url in workspace.repository.push_urls(name):
            pushed = push_revisions(workspace, name, url, wanted)
            problems += pushed.problems
            stop_progress(workspace)
            click.echo(f"{pushed.sent} of {counted(pushed.needed, 'object')} sent to {shown(name)}")
        if not problems:
            note_sent(workspace, name, wanted)
    for problem in problems:
        click.echo(f"gittheta: {problem}", err=True)
    if problems:
        sys.exit(problems[0].exit_code)


@click.command()
@click.argument("remote", required=False)
@click.argument("revisions", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="The objects of all branches and tags.")
@click.option("--dissociate", is_flag=True, help="Also copy what is borrowed from another repository's store.")
def fetch(remote: str | None, revisions: tuple[str, ...], everything: bool, dissociate: bool) -> None:
    """Get the objects of some revisions (the tree of HEAD) that are not here."""
    with open_workspace() as workspace:
        if remote is not None:
            check_remote(workspace.repository, remote, urls=False)
        check_revisions(workspace.repository, revisions)
        tree = workspace.repository.tree_of("HEAD") or ""
        wanted = ["--all"] if everything else list(revisions or (tree,))
        fetched = fetch_revisions(workspace, wanted, remote, dissociate=dissociate)
        warn_of_unsent(workspace)
        click.echo(f"{counted(fetched.count, 'object')} fetched")
        if fetched.borrowed:
            click.echo(borrowed_line(fetched.borrowed))


@click.command()
def pull() -> None:
    """Put every checkpoint of the work tree in place that still is a manifest, fetching what it needs."""
    keep_memory()
    with open_workspace() as workspace:
        for path in materialise_all(workspace):
            click.echo(shown(path))


def named_remote(workspace: Workspace, name: str | None) -> tuple[str, str]:
    """The name and URL of a remote, the likeliest if none is named. Raises GitError if there is none."""
    remotes = workspace.repository.remotes()
    if name is None:
        if not remotes:
            raise GitError("there is no remote", hint="git remote add origin URL")
        return next(iter(remotes.items()))
    check_remote(workspace.repository, name, urls=True)
    return name, remotes.get(name, name)
