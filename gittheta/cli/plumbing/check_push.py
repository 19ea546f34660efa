"""``git theta check-push``: what a hook ``pre-receive`` calls on a server, such as the one in ``hooks/pre-receive``."""

from __future__ import annotations

import sys

import click

from gittheta.cli.console import open_workspace
from gittheta.flows.transfer.received import check_received


@click.command()
def check_push() -> None:
    """Refuse a push whose objects are not in the store of this repository, or at theta.url if that is set.

    Reads from standard input what Git gives to the hook pre-receive: old commit, new commit and ref, a line each.
    """
    lines = [line.split(" ", 2) for line in sys.stdin.read().splitlines()]
    with open_workspace() as workspace:
        check_received(workspace, [words[1] for words in lines if len(words) == 3 and words[1].strip("0")])
