"""``git theta fsck``."""

from __future__ import annotations

import sys

import click

from gittheta.cli.console import open_workspace, stop_progress
from gittheta.flows.maintain.fsck import check
from gittheta.flows.maintain.status import notes


@click.command()
@click.option("--deep", is_flag=True, help="Also decode every tensor and check its digest.")
def fsck(deep: bool) -> None:
    """Check every manifest that refs and the index reach, and that its objects are whole, here or on a remote."""
    with open_workspace() as workspace:
        health = check(workspace, deep=deep)
        noted = notes(workspace)
        stop_progress(workspace)
    for note in noted:
        click.echo(f"gittheta: {note}", err=True)
    for problem in health.problems:
        click.echo(f"gittheta: {problem}", err=True)
    click.echo(f"{health.manifests} manifests, {health.objects} objects, {len(health.problems)} problems")
    if health.remote_only:
        click.echo(f"{health.remote_only} objects are on a remote only; to have them here: git theta fetch --all")
    if health.problems:
        sys.exit(health.problems[0].exit_code)
