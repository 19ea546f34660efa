"""``git theta hook NAME``: what the shims hand over to."""

from __future__ import annotations

import os
import subprocess
import sys

import click

from gittheta.cli.console import open_workspace
from gittheta.cli.memory import keep_memory
from gittheta.flows.hooks import LEGACY, NAMES
from gittheta.flows.materialise import in_sequence, materialise_pending
from gittheta.flows.transfer import RefUpdate, push_objects

#: Set while a hook of ours changes the index, which calls the hook again.
_INSIDE = "GITTHETA_HOOK"


@click.command(hidden=True, context_settings={"ignore_unknown_options": True})
@click.argument("name", type=click.Choice(NAMES))
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def hook(name: str, script: str, arguments: tuple[str, ...]) -> None:
    """Called by Git. The hook that was there before runs first, with the same arguments and input."""
    given = sys.stdin.buffer.read() if name in ("pre-push", "post-rewrite") else b""
    _run_legacy(script + LEGACY, arguments, given)
    if name == "pre-push":
        _push(arguments[0], arguments[1], given.decode())
    elif _INSIDE not in os.environ:
        _write_pending(ends_sequence=(name, *arguments) == ("post-rewrite", "rebase"))


def _write_pending(ends_sequence: bool) -> None:
    os.environ[_INSIDE] = "1"
    keep_memory()
    with open_workspace() as workspace:
        if ends_sequence or not in_sequence(workspace.repository):
            materialise_pending(workspace)


def _run_legacy(path: str, arguments: tuple[str, ...], given: bytes) -> None:
    if os.access(path, os.X_OK):
        status = subprocess.run([path, *arguments], input=given, check=False).returncode
        if status:
            sys.exit(status)


def _push(remote: str, url: str, given: str) -> None:
    updates = [RefUpdate(*line.split(" ")) for line in given.splitlines()]
    with open_workspace() as workspace:
        push_objects(workspace, remote, url, updates)
