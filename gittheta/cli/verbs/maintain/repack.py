"""``git theta repack [PATH...]``."""

from __future__ import annotations

import click

from gittheta.cli.console import human, open_workspace, repository_path, stop_progress
from gittheta.flows.maintain.repack import repack as repack_paths
from gittheta.wording import counted, shown


@click.command()
@click.argument("paths", nargs=-1)
def repack(paths: tuple[str, ...]) -> None:
    """Store tensors that are told from older versions by themselves again: faster to check out, and larger.

    Works on the files of the index (PATHS, or all). What they hold does not change; commit the result to keep it.
    """
    with open_workspace() as workspace:
        done = repack_paths(workspace, [repository_path(workspace, path) for path in paths])
        stop_progress(workspace)
    for file in done:
        count, change = counted(file.tensors, "tensor"), f"{human(file.before)} of chains now {human(file.after)}"
        click.echo(f"{shown(file.path)}: {count}, {change}")
    click.echo("commit to keep it; no tensor has changed" if done else "nothing is told from anything else")
