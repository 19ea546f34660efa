"""``git theta copy-store FROM TO``."""

from __future__ import annotations

import sys

import click

from gittheta.cli.console import human, open_workspace, stop_progress
from gittheta.errors import ObjectMissing
from gittheta.flows.transfer.copy_store import copy_store as copy_objects
from gittheta.git.refs.names import check_remote
from gittheta.wording import counted, shown


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--dry-run", is_flag=True, help="Say what would be copied, and copy nothing.")
def copy_store(source: str, target: str, dry_run: bool) -> None:
    """Copy every object of one store to another, such as a bucket: what TO has already is not sent again.

    FROM and TO are remotes or URLs. Where FROM cannot list its objects, as an LFS server, those are copied that this
    repository's branches and tags need. Afterwards: git config remote.NAME.thetaUrl TO.
    """
    with open_workspace() as workspace:
        for word in (source, target):
            check_remote(workspace.repository, word, urls=True)
        copied = copy_objects(workspace, source, target, dry_run=dry_run)
        stop_progress(workspace)
    size = f" ({human(copied.nbytes)})" if copied.sent else ""
    click.echo(
        f"{copied.sent} of {counted(copied.objects, 'object')}{size} {'would be copied' if dry_run else 'copied'}"
        f"{'' if copied.complete else '; those that the branches and tags of this repository need'}"
    )
    if copied.lost:
        click.echo(f"gittheta: {shown(source)} does not have whole: {', '.join(copied.lost[:3])}", err=True)
        sys.exit(ObjectMissing.exit_code)
