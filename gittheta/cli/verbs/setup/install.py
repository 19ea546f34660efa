"""``git theta install`` and ``uninstall``."""

from __future__ import annotations

from pathlib import Path

import click

from gittheta.errors import GitError
from gittheta.flows.maintain.status import filter_problem
from gittheta.git.configuration import Scope, read_setting, remove_setting, write_setting
from gittheta.git.hooks import install_hooks, remove_hooks
from gittheta.git.process import Git
from gittheta.git.repository import Repository

#: What Git is told. `merge.theta.recursive=binary`: a merge base that is itself a merge is not computed but taken
#: from its own ancestor.
SETTINGS = {
    "filter.theta.process": "git-theta filter-process",
    "filter.theta.clean": "git-theta clean -- %f",
    "filter.theta.smudge": "git-theta smudge -- %f",
    "filter.theta.required": "true",
    "merge.theta.name": "merge checkpoints tensor by tensor",
    "merge.theta.driver": "git-theta merge-driver -- %O %A %B %L %P",
    "merge.theta.recursive": "binary",
    "diff.theta.xfuncname": r"^\[(.*)\]$",
    # Plain `git merge b c`, too: Git's own strategy for several branches never calls a merge driver.
    "pull.octopus": "theta",
}

_local = click.option("--local", "scope", flag_value="--local", help="Only for this repository.")
_global = click.option("--global", "scope", flag_value="--global", help="For this user (the default).")
_system = click.option("--system", "scope", flag_value="--system", help="For everyone on this machine.")


@click.command()
@_local
@_global
@_system
def install(scope: Scope | None) -> None:
    """Tell Git about gittheta: the filter, the merge driver, the diff, and hooks in this repository.

    A hook that is there already is kept as NAME.legacy and called first. In clones, the filter sets the hooks up
    by itself.
    """
    scope = scope or "--global"
    git = Git(Path.cwd())
    repository = _repository()
    if repository is None and scope == "--local":
        raise GitError("no git repository here", hint="change into one, or use --global")
    # All is done before anything is said: a closed pipe must not leave half of it.
    for key, value in SETTINGS.items():
        write_setting(git, scope, key, value)
    changes = install_hooks(repository) if repository else []
    for key, value in SETTINGS.items():
        click.echo(f"git config {scope} {key} '{value}'")
    for change in changes:
        click.echo(f"hook {change.path}" + (" (the one before is called first)" if change.chained else ""))
    _check_in_force()


@click.command()
@_local
@_global
@_system
def uninstall(scope: Scope | None) -> None:
    """Undo `git theta install`: the settings, and the hooks in this repository. Stored objects stay."""
    scope = scope or "--global"
    git = Git(Path.cwd())
    ours = [key for key, value in SETTINGS.items() if read_setting(git, scope, key) == value]
    for key in ours:
        remove_setting(git, scope, key)
    repository = _repository()
    changes = remove_hooks(repository) if repository else []
    for key in ours:
        click.echo(f"git config {scope} --unset {key}")
    for change in changes:
        click.echo(f"hook {change.path} " + ("put back as it was" if change.chained else "removed"))


def _check_in_force() -> None:
    """Warn if this repository's own configuration says otherwise."""
    repository = _repository()  # anew, with what was just written
    problem = filter_problem(repository) if repository else None
    if problem:
        click.echo(f"gittheta: warning: {problem} with --local: this repository has settings of its own", err=True)


def _repository() -> Repository | None:
    try:
        return Repository.discover(Path.cwd())
    except GitError:
        return None
