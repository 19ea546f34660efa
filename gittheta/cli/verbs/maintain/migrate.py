"""``git theta migrate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gittheta.cli.console import human, open_workspace, stop_progress
from gittheta.flows.maintain.migrate.directions import Direction, Export, Import
from gittheta.flows.maintain.migrate.run import Migration
from gittheta.flows.maintain.migrate.run import migrate as run
from gittheta.flows.maintain.tracking import check_pattern
from gittheta.runtime import keep_memory
from gittheta.wording import counted, shell_word, shown

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace

_DEFAULT = "*.safetensors"

_include = click.option(
    "--include", "patterns", metavar="GLOB", multiple=True, help="Only files that match, as in .gitattributes."
)
_yes = click.option("--yes", is_flag=True, help="Move branches and tags; the old ones stay in refs/original/theta.")


@click.group()
def migrate() -> None:
    """Write history anew: with manifests in place of checkpoints, or the other way round.

    Nothing moves without --yes: until then, the new history stands in refs/theta/migrate, to be looked at.
    """


@migrate.command("import")
@_include
@click.option("--from-lfs", is_flag=True, help="Also take over what Git LFS has.")
@_yes
def import_(patterns: tuple[str, ...], from_lfs: bool, yes: bool) -> None:
    """Let every commit hold manifests of its checkpoints (*.safetensors), and track them.

    Whoever has a clone must clone again, or reset to the new branches: all commits get new names.
    """
    keep_memory()
    with open_workspace() as workspace:
        direction = Import(_checked(patterns or (_DEFAULT,)), from_lfs, _lfs_folder(workspace))
        _run(workspace, direction, patterns, yes)


@migrate.command()
@_include
@_yes
def export(patterns: tuple[str, ...], yes: bool) -> None:
    """Let every commit hold its checkpoints as they are, as plain files in Git, and no longer track them."""
    keep_memory()
    with open_workspace() as workspace:
        _run(workspace, Export(_checked(patterns)), patterns, yes)


def _checked(patterns: Sequence[str]) -> tuple[str, ...]:
    for pattern in patterns:
        check_pattern(pattern, pattern)
    return tuple(patterns)


def _lfs_folder(workspace: Workspace) -> Path:
    """Where Git LFS keeps what it has fetched."""
    folder = workspace.repository.setting("lfs.storage") or "lfs"
    return workspace.repository.common_dir / folder


def _run(workspace: Workspace, direction: Direction, patterns: Sequence[str], yes: bool) -> None:
    done = run(workspace, direction, move=yes)
    stop_progress(workspace)
    _show(done)
    if not done.moved and done.moves:
        words = ["git theta migrate", direction.name]
        words += ["--from-lfs"] if isinstance(direction, Import) and direction.from_lfs else []
        words += [f"--include {shell_word(pattern)}" for pattern in patterns]
        first = done.moves[0].name.replace("refs/", "refs/theta/migrate/", 1)
        click.echo(f"nothing has moved yet; look at it: git log {shown(first)}")
        click.echo(f"then: {' '.join([*words, '--yes'])}")


def _show(done: Migration) -> None:
    click.echo(
        f"{counted(done.commits, 'commit')}, {done.rewritten} of them with another name; "
        f"{counted(done.versions, 'version')} of {counted(done.files, 'file')}"
    )
    click.echo(f"{human(done.before)} before, {human(done.after)} after")
    for move in done.moves:
        click.echo(f"{shown(move.name)} {move.old[:12]} -> {move.new[:12]}")
    for lost in done.lost:
        click.echo(f"lost: {shown(lost)}")
    if done.left:
        click.echo(f"left as they are: {', '.join(map(shown, done.left))}")
    click.echo(f"old and new names of all commits: {done.map}")
