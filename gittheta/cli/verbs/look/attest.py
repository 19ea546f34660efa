"""``git theta attest``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from gittheta.cli.console import open_workspace, stop_progress
from gittheta.flows.resolve.attest import attest as statement_of
from gittheta.runtime import keep_memory


@click.command()
@click.argument("revision", metavar="REV", default="HEAD")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write it to a file.")
def attest(revision: str, output: Path | None) -> None:
    """An in-toto statement of a merge: parents, methods, options, digests. To be signed, for example by cosign."""
    keep_memory()
    with open_workspace() as workspace:
        statement = statement_of(workspace, revision)
        stop_progress(workspace)
    text = json.dumps(statement, indent=1, ensure_ascii=True) + "\n"
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text)
