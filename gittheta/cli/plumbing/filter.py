"""``git theta clean`` and ``smudge``: the filter for one file, for tools that cannot keep a process running."""

from __future__ import annotations

import os
import sys

import click

from gittheta.cli.console import open_workspace
from gittheta.cli.plumbing.filter_process import smudged
from gittheta.codec.stream import ByteStream
from gittheta.flows.add.clean import clean as clean_file
from gittheta.runtime import keep_memory
from gittheta.storage.files import write_all


@click.command(hidden=True)
@click.argument("path")
def clean(path: str) -> None:
    """A checkpoint on stdin, its manifest on stdout."""
    keep_memory()
    with open(0, "rb", buffering=0, closefd=False) as source, open_workspace() as workspace:
        write_all(1, clean_file(workspace, path, source))


@click.command(hidden=True)
@click.argument("path")
def smudge(path: str) -> None:
    """A manifest on stdin, its checkpoint on stdout."""
    keep_memory()
    stdout = os.dup(1)
    os.dup2(2, 1)
    sys.stdout.flush()
    with open(0, "rb", buffering=0, closefd=False) as source, open_workspace() as workspace:
        for part in smudged(workspace, path, ByteStream(source), may_wait=False):
            write_all(stdout, part)
