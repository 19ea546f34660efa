"""``git theta clone``: everything that a model needs is fetched at once, side by side."""

from __future__ import annotations

from pathlib import Path

import click

from gittheta.cli.console import Console, stop_progress
from gittheta.cli.verbs.setup.install import install_here
from gittheta.flows.checkout.materialise import materialise_all
from gittheta.flows.maintain.status import filter_problem
from gittheta.flows.workspace import Workspace
from gittheta.git.network.cloning import clone as git_clone
from gittheta.git.process import Git
from gittheta.git.repository import Repository
from gittheta.runtime import keep_memory
from gittheta.wording import counted, shown


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("words", metavar="[OPTIONS] URL [FOLDER]", nargs=-1, type=click.UNPROCESSED, required=True)
def clone(words: tuple[str, ...]) -> None:
    """Clone a repository and its models: as `git clone`, with the same options, and faster.

    The models are fetched together rather than one after the other, and not through Git's memory.
    """
    keep_memory()
    top = git_clone(Git.elsewhere(Path.cwd()), words)
    if top is None:
        return
    if filter_problem(Repository.elsewhere(top)):
        install_here(Repository.elsewhere(top))
    with Workspace(Repository.elsewhere(top), Console()) as workspace:
        written = materialise_all(workspace)
        stop_progress(workspace)
    click.echo(f"{counted(len(written), 'model')} written to {shown(str(top))}")
