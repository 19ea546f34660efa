"""``git theta track`` and ``untrack``: lines of ``.gitattributes``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gittheta.cli.console import open_workspace
from gittheta.flows.maintain.status import filter_problem, kinds, renormalize_hint
from gittheta.flows.maintain.tracking import Tracked, Tracking
from gittheta.wording import shown

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace


@click.command()
@click.argument("patterns", nargs=-1)
def track(patterns: tuple[str, ...]) -> None:
    """Let gittheta store the files that match PATTERNS, below this folder. Without patterns: list all that there are.

    A path that begins with ./, ../ or / means that file or folder alone. A folder means everything in it.
    """
    with open_workspace() as workspace:
        tracking = Tracking(workspace.repository, Path.cwd())
        if not patterns:
            for pattern in tracking.patterns():
                click.echo(f"{shown(pattern.pattern)}{_elsewhere(tracking, pattern)}")
            return
        wanted = [tracking.wanted(word) for word in patterns]
        new = tracking.add(wanted)
        for pattern in dict.fromkeys(wanted):
            told = (
                f"tracking '{shown(pattern.pattern)}'"
                if pattern in new
                else f"'{shown(pattern.pattern)}' is tracked already"
            )
            click.echo(f"{told}{_elsewhere(tracking, pattern)}")
        _warn(workspace, tracking.not_in_force(wanted))


@click.command()
@click.argument("patterns", nargs=-1, required=True)
def untrack(patterns: tuple[str, ...]) -> None:
    """Undo `git theta track`. Files stay as they are; `git add --renormalize` then stores them whole in Git."""
    with open_workspace() as workspace:
        tracking = Tracking(workspace.repository, Path.cwd())
        for word in patterns:
            removed = tracking.remove(word)
            told = f"no longer tracking '{shown(removed.pattern)}'{_elsewhere(tracking, removed)}" if removed else None
            click.echo(told or f"'{shown(word)}' was not tracked")


def _elsewhere(tracking: Tracking, pattern: Tracked) -> str:
    """Where a pattern stands, if not in this folder."""
    if pattern.file.parent == tracking.current:
        return ""
    return f"    (in {os.path.relpath(pattern.file, tracking.current)})"


def _warn(workspace: Workspace, others: dict[str, str]) -> None:
    """Say what keeps the filter from working, and which files are in Git past it."""
    warn = workspace.reporter.warn
    problem = filter_problem(workspace.repository)
    if problem:
        warn(problem)
    if others:
        path, other = next(iter(others.items()))
        warn(f"{len(others)} files match, but other attributes give them filter '{other}': {shown(path)} for example")
    hint = renormalize_hint(kinds(workspace))
    if hint:
        warn(hint)
