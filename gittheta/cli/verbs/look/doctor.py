"""``git theta doctor``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from gittheta.cli.console import open_workspace, stop_progress
from gittheta.flows.maintain.doctor import Verdict, examine
from gittheta.wording import visible

_MARKS = {Verdict.GOOD: "ok", Verdict.NOTE: "note", Verdict.BAD: "BAD"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--no-remote", is_flag=True, help="Do not ask the remotes.")
def doctor(as_json: bool, no_remote: bool) -> None:
    """What is installed, configured, reachable and writable here; with each, what to do.

    Ends with 1 if something is bad.
    """
    with open_workspace() as workspace:
        found = list(examine(workspace, ask_remotes=not no_remote))
        stop_progress(workspace)
    if as_json:
        click.echo(json.dumps([asdict(each) | {"verdict": each.verdict.value} for each in found], indent=1))
    else:
        for each in found:
            click.echo(visible(f"{_MARKS[each.verdict]:<5}{each.about}: {each.what}"))
            if each.remedy:
                click.echo(visible(f"       {each.remedy}"))
    if any(each.verdict is Verdict.BAD for each in found):
        sys.exit(1)
