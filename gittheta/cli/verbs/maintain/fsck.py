"""``git theta fsck``."""

from __future__ import annotations

import sys

import click

from gittheta.cli.console import open_workspace, stop_progress
from gittheta.flows.maintain.fsck import check
from gittheta.wording import counted


@click.command()
@click.option("--deep", is_flag=True, help="Also decode every tensor and check its digest.")
def fsck(deep: bool) -> None:
    """Check every manifest that refs and the index reach, and that its objects are whole, here or on a remote."""
    with open_workspace() as workspace:
        health = check(workspace, deep=deep)
        stop_progress(workspace)
    for problem in health.problems:
        click.echo(f"gittheta: {problem}", err=True)
    found = (counted(health.manifests, "manifest"), counted(health.objects, "object"))
    click.echo(", ".join((*found, counted(len(health.problems), "problem"))))
    if health.remote_only:
        click.echo(f"{health.remote_only} objects are on a remote only; to have them here: git theta fetch --all")
    if health.problems:
        sys.exit(health.problems[0].exit_code)
