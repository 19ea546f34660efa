"""``git theta merge-driver``: called by Git with the three manifests of a file that both sides changed."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gittheta.cli.console import Console, open_workspace
from gittheta.cli.memory import keep_memory
from gittheta.errors import ThetaError
from gittheta.flows.merge import Outcome, merge_manifests
from gittheta.flows.smudge import read_manifest
from gittheta.flows.workspace import Workspace
from gittheta.manifest import format_manifest
from gittheta.model import Manifest

METHOD = "linear"
#: How many conflicting tensors are named one by one.
_NAMED = 20


@click.command(hidden=True)
@click.argument("base")
@click.argument("ours")
@click.argument("theirs")
@click.argument("marker_size")
@click.argument("path")
def merge_driver(base: str, ours: str, theirs: str, marker_size: str, path: str) -> None:
    """Merge THEIRS into OURS. Exits 1 on a conflict, and then OURS stays as it is, valid."""
    keep_memory()
    with open_workspace() as workspace:
        versions = [_read(workspace, path, name) for name in (base, ours, theirs)]
        if versions[1] is None or versions[2] is None:
            click.echo(f"CONFLICT ({path}): not stored by gittheta on both sides, so it cannot be merged", err=True)
            sys.exit(1)
        try:
            outcome = merge_manifests(workspace, versions[0], versions[1], versions[2], METHOD)
        except ThetaError as error:
            # Git counts any status up to 128 as a conflict: the file stays ours, and the reason is said.
            click.echo(f"CONFLICT ({path}): {error.located(path=path)}", err=True)
            sys.exit(1)
        if isinstance(workspace.reporter, Console):
            workspace.reporter.stop()
        if outcome.manifest is None:
            _explain(path, outcome)
            sys.exit(1)
        Path(ours).write_bytes(format_manifest(outcome.manifest))
        click.echo(f"gittheta: {path}: {outcome.plan.summary(METHOD)}", err=True)


def _read(workspace: Workspace, path: str, name: str) -> Manifest | None:
    text = Path(name).read_bytes()
    return read_manifest(workspace, path, text) if text else None


def _explain(path: str, outcome: Outcome) -> None:
    for line in outcome.conflicts[:_NAMED]:
        click.echo(f"CONFLICT ({path}): {line}", err=True)
    if len(outcome.conflicts) > _NAMED:
        click.echo(f"CONFLICT ({path}): and {len(outcome.conflicts) - _NAMED} more", err=True)
    click.echo(
        f"gittheta: {path} stays as it is in ours; to take the other version whole: git checkout --theirs -- {path}\n"
        f"  then: git add {path}",
        err=True,
    )
