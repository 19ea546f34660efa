"""``git theta gc``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gittheta.cli.console import human, open_workspace, stop_progress
from gittheta.cli.verbs.move.transfer import named_remote
from gittheta.errors import StoreError
from gittheta.flows.maintain.drop_local import Dropped, drop_local
from gittheta.flows.maintain.gc import collect, dead_in, forget_borrower
from gittheta.flows.maintain.gc_remote import RemoteCollected, collect_remote, forget_pusher
from gittheta.git.holdings import approximate_time
from gittheta.wording import counted, quoted, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gittheta.flows.workspace import Workspace
    from gittheta.model import ObjectId


@click.command()
@click.option("--prune", metavar="DATE", help="Delete what is unused since DATE: now, 3.days.ago, ... never.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@click.option("--drop-local", "drop", is_flag=True, help="Also delete what is not checked out, if a remote has it.")
@click.option("--remote", metavar="NAME", help="Delete on a remote what no ref needs there, in two steps.")
@click.option("--forget", metavar="PATH|URL", help="A repository that borrowed from here, or pushed there, is gone.")
def gc(prune: str | None, dry_run: bool, drop: bool, remote: str | None, forget: str | None) -> None:
    """Delete model objects that nothing needs any more.

    Needed is what a manifest names that Git still has, reachable or not, in this repository or one that borrows from
    it. What is not needed goes a day after it was stored or used last, if only `git status` or `git diff` stored it,
    and else after 14 days. An add, a status or a commit does the same now and then.

    With --remote NAME: what no ref of the repositories needs that push there is put on a list, and deleted by the next
    call that comes 14 days later, unless somebody has pushed it again.
    """
    if remote is not None and (prune is not None or drop):
        raise click.UsageError("--remote looks at a remote alone: leave out --prune and --drop-local")
    with open_workspace() as workspace:
        if remote is not None:
            _on_remote(workspace, remote, forget, dry_run)
            return
        if forget is not None and not forget_borrower(workspace, Path(forget).absolute()):
            raise StoreError(f"no repository at {quoted(forget)} is known to borrow from this one")
        if prune == "never":
            return
        before = approximate_time(workspace.repository.git, prune) if prune else None
        done = collect(workspace, before, dry_run=dry_run)
        dropped = drop_local(workspace, dry_run=dry_run) if drop else None
        dead = dead_in(workspace)
        stop_progress(workspace)
    _list(done.objects if dry_run else {})
    verb = "would be deleted" if dry_run else "deleted"
    click.echo(f"{counted(len(done.objects), 'unused object')} {verb}, {human(done.nbytes)}")
    if dead.objects:
        click.echo(
            f"{counted(dead.objects, 'object')} kept for less than half of their bytes, {human(dead.nbytes)} too many"
        )
    if dropped is not None:
        _show_dropped(dropped, dry_run)


def _list(objects: Mapping[ObjectId, int]) -> None:
    for object_id, size in objects.items():
        click.echo(f"{object_id} {human(size)}")


def _show_dropped(dropped: Dropped, dry_run: bool) -> None:
    _list(dropped.objects if dry_run else {})
    verb = "would be deleted" if dry_run else "deleted"
    click.echo(f"{counted(len(dropped.objects), 'object')} {verb} here that a remote has, {human(dropped.nbytes)}")
    if dropped.only_here:
        size = human(sum(dropped.only_here.values()))
        click.echo(f"{counted(len(dropped.only_here), 'object')} kept that no remote has, {size}")
    for reason in dropped.reasons:
        click.echo(f"gittheta: not asked: {shown(reason)}", err=True)


def _on_remote(workspace: Workspace, remote: str, forget: str | None, dry_run: bool) -> None:
    name, url = named_remote(workspace, remote)
    if forget is not None and not forget_pusher(workspace, name, url, forget):
        raise StoreError(f"{quoted(forget)} is not known to push there")
    done = collect_remote(workspace, name, url, time.time(), dry_run=dry_run)
    stop_progress(workspace)
    _show_remote(name, done, dry_run)


def _show_remote(name: str, done: RemoteCollected, dry_run: bool) -> None:
    _list(done.deleted if dry_run else {})
    verb = "would be deleted" if dry_run else "deleted"
    size = human(sum(done.deleted.values()))
    click.echo(f"{len(done.deleted)} of {counted(done.total, 'object')} {verb} on {shown(name)}, {size}")
    if done.earliest is not None:
        date = time.strftime("%Y-%m-%d", time.localtime(done.earliest))
        listed = f"{counted(len(done.listed), 'object')} on the list, {human(sum(done.listed.values()))}"
        click.echo(f"{listed}; run this again on {date} or later")
