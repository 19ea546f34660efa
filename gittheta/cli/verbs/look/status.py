"""``git theta status``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from gittheta.cli.console import open_workspace, stop_progress
from gittheta.flows.maintain.status import FileStatus, Overview, State, overview
from gittheta.flows.transfer.unpushed import warn_of_unsent
from gittheta.wording import shown

#: In this order: what stands in the way of work comes first.
_GROUPS = {
    State.UNMERGED: ("unmerged", "git theta conflicts"),
    State.BROKEN: ("broken", "git theta fsck says more"),
    State.WHOLE: ("whole in Git, past gittheta", "git add --renormalize . && git commit"),
    State.POINTER: ("pointers of Git LFS, not models", "git lfs pull, then git add them again"),
    State.MANIFEST_ONLY: ("manifest only, not the model itself", "git theta pull"),
    State.PENDING: ("pending: manifests that the next hook replaces by the model", "git theta pull does it now"),
    State.TEXT: ("text, as it is", ""),
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--no-remote", is_flag=True, help="Do not ask the remote what it has.")
def status(as_json: bool, no_remote: bool) -> None:
    """How each tracked file stands: whole in Git, manifest only, pending, not pushed, broken, or complete.

    Asks the remote of this branch, or else the first one, whether it has the objects of the index.
    """
    with open_workspace() as workspace:
        seen = overview(workspace, ask_remote=not no_remote)
        stop_progress(workspace)
        if not no_remote:
            warn_of_unsent(workspace, again=True)
    if as_json:
        click.echo(json.dumps(_as_json(seen), indent=1))
        return
    if seen.filter_problem:
        click.echo(f"{seen.filter_problem}\n")
    for state, (title, hint) in _GROUPS.items():
        _group(title, hint, [file for file in seen.files if file.state is state])
    unsent = [file for file in seen.files if file.pushed is False]
    _group(f"not on '{seen.remote}'", f"git push; after a push without hooks: git theta push {seen.remote}", unsent)
    if seen.remote_problem:
        click.echo(f"remote '{seen.remote}' was not asked what it has: {seen.remote_problem}")
    complete = sum(file.state is State.COMPLETE for file in seen.files)
    click.echo(f"{complete} {'checkpoint' if complete == 1 else 'checkpoints'} complete")


def _group(title: str, hint: str, files: Sequence[FileStatus]) -> None:
    if not files:
        return
    click.echo(f"{title}:" + (f"\n  ({hint})" if hint else ""))
    for file in files:
        reason = f": {file.reason}" if file.reason and file.pushed is not False else ""
        click.echo(f"    {shown(file.path)}{reason}")
    click.echo()


def _as_json(seen: Overview) -> dict[str, Any]:
    return {
        "filter_problem": seen.filter_problem,
        "remote": seen.remote,
        "remote_problem": seen.remote_problem,
        "files": [
            {
                "path": file.path,
                "state": file.state.value,
                "bytes": file.bytes,
                "reason": file.reason or None,
                "pushed": file.pushed,
            }
            for file in seen.files
        ],
    }
