"""``git theta conflicts [PATH...]``."""

from __future__ import annotations

import json
from typing import Any

import click

from gittheta.cli.console import open_workspace, repository_path
from gittheta.flows.resolve.conflicts import Conflict
from gittheta.flows.resolve.conflicts import conflicts as find_conflicts
from gittheta.git.operation import Operation
from gittheta.wording import shell_word, shown


@click.command()
@click.argument("paths", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def conflicts(paths: tuple[str, ...], as_json: bool) -> None:
    """The tensors of a merge that need you, and why. `git theta resolve` settles them."""
    with open_workspace() as workspace:
        operation = Operation.read(workspace.repository)
        found = list(find_conflicts(workspace, operation, [repository_path(workspace, path) for path in paths]))
    if as_json:
        click.echo(json.dumps([_json(conflict) for conflict in found], indent=1))
        return
    for conflict in found:
        _show(conflict)
    if not found:
        click.echo("no checkpoint is in conflict")


def _show(conflict: Conflict) -> None:
    name = shell_word(conflict.made.path)
    path = shown(conflict.made.path)
    for decision in conflict.tensors:
        click.echo(f"{path}: {shown(decision.name)}: {decision.reason}")
    for objection in conflict.objections:
        click.echo(f"{path}: {objection}")
    if conflict.settled:
        click.echo(f"{path}: all settled; to keep it: git add {name}")
    elif not conflict.tensors and not conflict.objections:
        click.echo(f"{path}: nothing is in the way; to merge it: git checkout --merge -- {name}")


def _json(conflict: Conflict) -> dict[str, Any]:
    return {
        "path": conflict.made.path,
        "sides": list(conflict.versions.labels),
        "tensors": [{"name": decision.name, "reason": decision.reason} for decision in conflict.tensors],
        "objections": list(conflict.objections),
        "settled": conflict.settled,
    }
