"""``git theta gc``."""

from __future__ import annotations

from pathlib import Path

import click

from gittheta.cli.console import human, open_workspace, stop_progress
from gittheta.errors import StoreError
from gittheta.flows.maintain.gc import collect, forget_borrower
from gittheta.git.holdings import approximate_time


@click.command()
@click.option("--prune", metavar="DATE", help="Delete what is unused since DATE: now, 3.days.ago, ... never.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@click.option("--forget", metavar="PATH", help="A repository that borrowed from this one is gone for good.")
def gc(prune: str | None, dry_run: bool, forget: str | None) -> None:
    """Delete model objects that nothing needs any more.

    Needed is what a manifest names that Git still has, reachable or not, in this repository or one that borrows from
    it. What is not needed goes a day after it was stored or used last, if only `git status` or `git diff` stored it,
    and else after 14 days. An add, a status or a commit does the same now and then.
    """
    with open_workspace() as workspace:
        if forget is not None and not forget_borrower(workspace, Path(forget).absolute()):
            raise StoreError(f"no repository at {forget} is known to borrow from this one")
        if prune == "never":
            return
        before = approximate_time(workspace.repository.git, prune) if prune else None
        done = collect(workspace, before, dry_run=dry_run)
        stop_progress(workspace)
    for object_id, size in done.objects.items() if dry_run else ():
        click.echo(f"{object_id} {human(size)}")
    verb = "would be deleted" if dry_run else "deleted"
    click.echo(f"{len(done.objects)} unused object{'s' if len(done.objects) != 1 else ''} {verb}, {human(done.nbytes)}")
