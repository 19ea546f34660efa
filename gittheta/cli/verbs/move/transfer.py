"""``git theta push``, ``fetch`` and ``pull``: by hand what plain ``git push`` and ``checkout`` do by themselves."""

from __future__ import annotations

import sys
from collections.abc import Callable
from glob import escape
from typing import TYPE_CHECKING

import click

from gittheta.cli.console import human, open_workspace, repository_path, stop_progress
from gittheta.errors import GitError, ObjectMissing
from gittheta.flows.checkout.materialise import materialise_all, tracked_paths
from gittheta.flows.transfer.fetch import fetch_revisions, plan_fetch
from gittheta.flows.transfer.proposed import agree, how_to_agree, proposed_store
from gittheta.flows.transfer.push import plan_push, push_revisions
from gittheta.flows.transfer.selection import Selection
from gittheta.flows.transfer.unpushed import note_sent, warn_of_unsent
from gittheta.git.refs.names import check_remote, check_revisions, nearest_path
from gittheta.runtime import keep_memory
from gittheta.wording import counted, quoted, shown

if TYPE_CHECKING:
    from gittheta.errors import StoreError
    from gittheta.flows.workspace import Workspace


def borrowed_line(count: int) -> str:
    """What to say of objects that are not this store's own."""
    told = f"{counted(count, 'object')} borrowed from another repository's store"
    return f"{told}; to keep them when it goes: git theta fetch --all --dissociate"


def _selecting(command: Callable[..., None]) -> Callable[..., None]:
    """The options that choose some models, and some of their tensors."""
    dry_run = click.option("--dry-run", is_flag=True, help="Say what would travel, and send or fetch nothing.")
    tensors = click.option(
        "--tensors", metavar="GLOB", multiple=True, help="Only the objects of tensors whose names match; repeatable."
    )
    return _including(tensors(dry_run(command)))


def _including(command: Callable[..., None]) -> Callable[..., None]:
    wanted = "Only models at paths that match, from the top of the work tree; repeatable."
    return click.option("--include", metavar="GLOB", multiple=True, help=wanted)(command)


@click.command()
@click.argument("remote", required=False)
@click.argument("revisions", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="The objects of all branches and tags.")
@_selecting
def push(
    remote: str | None,
    revisions: tuple[str, ...],
    everything: bool,
    include: tuple[str, ...],
    tensors: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Send the objects of some revisions (HEAD) to a remote, without moving a ref.

    What is not here is fetched from the other remotes first. What is nowhere is listed at the end.
    """
    selection = Selection(include, tensors)
    problems: list[StoreError] = []
    with open_workspace() as workspace:
        name, _ = named_remote(workspace, remote)
        check_revisions(workspace.repository, revisions)
        wanted = ["--all"] if everything else list(revisions or ("HEAD",))
        for url in workspace.repository.push_urls(name):
            pushed = (plan_push if dry_run else push_revisions)(workspace, name, url, wanted, selection)
            problems += pushed.problems
            stop_progress(workspace)
            size = f" ({human(pushed.nbytes)})" if pushed.sent else ""
            done = "would be sent" if dry_run else "sent"
            click.echo(f"{pushed.sent} of {counted(pushed.needed, 'object')}{size} {done} to {shown(name)}")
        if not problems and not dry_run and selection.everything:
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
@_selecting
def fetch(
    remote: str | None,
    revisions: tuple[str, ...],
    everything: bool,
    dissociate: bool,
    include: tuple[str, ...],
    tensors: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Get the objects of some revisions (the tree of HEAD) that are not here."""
    selection = Selection(include, tensors)
    with open_workspace() as workspace:
        if remote is not None:
            check_remote(workspace.repository, remote, urls=False)
        check_revisions(workspace.repository, revisions)
        tree = workspace.repository.tree_of("HEAD") or ""
        wanted = ["--all"] if everything else list(revisions or (tree,))
        if dry_run:
            missing = plan_fetch(workspace, wanted, selection)
            least = f", at least {human(sum(missing.values()))}" if missing else ""
            click.echo(f"{counted(len(missing), 'object')} would be fetched{least}")
            return
        fetched = fetch_revisions(workspace, wanted, remote, selection, dissociate=dissociate)
        warn_of_unsent(workspace)
        click.echo(f"{counted(fetched.count, 'object')} fetched")
        if fetched.borrowed:
            click.echo(borrowed_line(fetched.borrowed))


@click.command()
@click.argument("paths", nargs=-1)
@_including
def pull(paths: tuple[str, ...], include: tuple[str, ...]) -> None:
    """Put every checkpoint of the work tree in place that still is a manifest, fetching what it needs.

    Only PATHS, files or folders, if any are given.
    """
    keep_memory()
    try:
        _pull(paths, Selection(include))
    except ObjectMissing:
        with open_workspace() as workspace:
            if not _agrees(workspace):
                raise
        _pull(paths, Selection(include))


def _pull(paths: tuple[str, ...], included: Selection) -> None:
    with open_workspace() as workspace:
        named = _named(workspace, paths)
        written = materialise_all(workspace, lambda path: named.takes(path) and included.takes(path))
        stop_progress(workspace)
        for path in written:
            click.echo(shown(path))


def _agrees(workspace: Workspace) -> bool:
    """Whether the user agrees, now, to a store that the repository proposes. Without a terminal, how to is said."""
    url = proposed_store(workspace)
    if url is None:
        return False
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        workspace.reporter.warn(how_to_agree(workspace, url))
        return False
    question = f"theta.toml says that the models are kept at {shown(url)}. Fetch them from there, and push there?"
    if not click.confirm(question, err=True):
        return False
    agree(workspace, url)
    return True


def _named(workspace: Workspace, paths: tuple[str, ...]) -> Selection:
    """The files and folders that a user typed. Raises GitError for a path at which no model is tracked."""
    wanted = [repository_path(workspace, path) for path in paths]
    tracked = tracked_paths(workspace.repository) if wanted else []
    for path, typed in zip(wanted, paths, strict=True):
        if not any(Selection((escape(path),)).takes(each) for each in tracked) and path != ".":
            raise GitError(
                f"no model is tracked at {quoted(typed)}",
                hint=nearest_path(path, tracked, "`git theta ls-files` lists them"),
            )
    return Selection(() if "." in wanted else tuple(escape(path) for path in wanted))


def named_remote(workspace: Workspace, name: str | None) -> tuple[str, str]:
    """The name and URL of a remote, the likeliest if none is named. Raises GitError if there is none."""
    remotes = workspace.repository.remotes()
    if name is None:
        if not remotes:
            raise GitError("there is no remote", hint="git remote add origin URL")
        return next(iter(remotes.items()))
    check_remote(workspace.repository, name, urls=True)
    return name, remotes.get(name, name)
