"""``git theta fsck``."""

from __future__ import annotations

import sys

import click

from gittheta.cli.console import open_workspace, stop_progress
from gittheta.cli.verbs.move.transfer import borrowed_line, named_remote
from gittheta.flows.maintain.fsck import Health, check
from gittheta.flows.maintain.fsck_remote import check_remote
from gittheta.flows.maintain.status import notes
from gittheta.wording import counted


@click.command()
@click.option("--deep", is_flag=True, help="Also decode every tensor and check its digest.")
@click.option("--remote", metavar="NAME", help="Check the objects that a remote keeps: each is read whole.")
@click.option("--repair", is_flag=True, help="Replace damaged or missing objects by whole copies from elsewhere.")
def fsck(deep: bool, remote: str | None, repair: bool) -> None:
    """Check every manifest that refs and the index reach, and that its objects are whole, here or on a remote.

    With --remote NAME, the objects of that remote are checked instead; --repair sends whole copies to it.
    """
    if deep and remote is not None:
        raise click.UsageError("--deep looks at this repository: leave out --remote")
    with open_workspace() as workspace:
        if remote is None:
            health = check(workspace, deep=deep, repair=repair)
        else:
            health = check_remote(workspace, *named_remote(workspace, remote), repair=repair)
        noted = notes(workspace) if remote is None else []
        stop_progress(workspace)
    for note in noted:
        click.echo(f"gittheta: {note}", err=True)
    _show(health, remote)


def _show(health: Health, remote: str | None) -> None:
    for warning in health.warnings:
        click.echo(f"gittheta: warning: {warning}", err=True)
    for problem in health.problems:
        click.echo(f"gittheta: {problem}", err=True)
    if health.mended:
        click.echo(f"{counted(health.mended, 'object')} mended")
    manifests = f"{counted(health.manifests, 'manifest')}, " if remote is None else ""
    click.echo(f"{manifests}{counted(health.objects, 'object')}, {counted(len(health.problems), 'problem')}")
    if health.remote_only:
        remote_only = counted(health.remote_only, "object")
        click.echo(f"{remote_only} on a remote only; to have them here: git theta fetch --all")
    if health.borrowed:
        click.echo(borrowed_line(health.borrowed))
    if health.problems:
        sys.exit(health.problems[0].exit_code)
