"""``git theta install`` and ``uninstall``, and what keeps their settings right."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gittheta.errors import ConfigError, GitError
from gittheta.flows.maintain.status import filter_problem
from gittheta.flows.workspace import permissions_of
from gittheta.git.calling.hooks import remove_hooks, renew_hooks
from gittheta.git.calling.program import interpreter, is_own_command, own_command, runs_gittheta, stale_settings
from gittheta.git.configuration import Scope, read_effective, read_setting, remove_setting, write_setting
from gittheta.git.process import Git
from gittheta.git.repository import Repository

if TYPE_CHECKING:
    from gittheta.git.calling.hooks import HookReport

#: What Git calls: words after gittheta's own name.
COMMANDS = {
    "filter.theta.process": "filter-process",
    "filter.theta.clean": "clean -- %f",
    "filter.theta.smudge": "smudge -- %f",
    "merge.theta.driver": "merge-driver -- %O %A %B %L %P",
}
#: What else Git is told. `merge.theta.recursive=binary`: a merge base that is itself a merge is not computed but taken
#: from its own ancestor.
VALUES = {
    "filter.theta.required": "true",
    "merge.theta.name": "merge checkpoints tensor by tensor",
    "merge.theta.recursive": "binary",
    "diff.theta.xfuncname": r"^\[(.*)\]$",
}
#: Plain `git merge b c`, too: Git's own strategy for several branches never calls a merge driver. What the user has
#: chosen stays.
OCTOPUS = ("pull.octopus", "theta")

_local = click.option("--local", "scope", flag_value="--local", help="Only for this repository.")
_global = click.option("--global", "scope", flag_value="--global", help="For this user (the default).")
_system = click.option("--system", "scope", flag_value="--system", help="For everyone on this machine.")


@click.command()
@_local
@_global
@_system
def install(scope: Scope | None) -> None:
    """Tell Git about gittheta: the filter, the merge driver, the diff, and hooks in this repository.

    Other hooks are called first; those in this repository's own folder are kept as NAME.before-gittheta. From Git 2.54
    on, hooks are settings, and no file of a hook is touched. In clones, the filter sets the hooks up by itself.
    """
    scope = scope or "--global"
    git = Git(Path.cwd())
    repository = _repository()
    if repository is None and scope == "--local":
        raise GitError("no git repository here", hint="change into one, or use --global")
    _check_program()
    settings, octopus = _settings(), read_effective(git, OCTOPUS[0])
    if octopus in (None, OCTOPUS[1]):
        settings |= dict([OCTOPUS])
    # All is done before anything is said: a closed pipe must not leave half of it.
    for key, value in settings.items():
        write_setting(git, scope, key, value)
    report = renew_hooks(repository, permissions_of(repository)) if repository else None
    _tell_settings(scope, settings, octopus)
    _tell_hooks(report)
    _check_in_force()


@click.command()
@_local
@_global
@_system
def uninstall(scope: Scope | None) -> None:
    """Undo `git theta install`: the settings, and the hooks in this repository. Stored objects stay."""
    scope = scope or "--global"
    git = Git(Path.cwd())
    ours = [key for key in (*COMMANDS, *VALUES, OCTOPUS[0]) if _is_ours(key, read_setting(git, scope, key))]
    for key in ours:
        remove_setting(git, scope, key)
    repository = _repository()
    report = remove_hooks(repository) if repository else None
    for key in ours:
        click.echo(f"git config {scope} --unset {key}")
    _tell_hooks(report)


def install_here(repository: Repository) -> None:
    """Tell Git about gittheta in one repository only, and say so in a line."""
    _check_program()
    for key, value in _settings().items():
        write_setting(repository.git, "--local", key, value)
    renew_hooks(repository, permissions_of(repository))
    sys.stderr.write("gittheta: set up for this clone only; `git theta install` sets it up for all repositories\n")


def renew_settings() -> None:
    """Where Git would no longer find gittheta, as its Python has moved, name the one that runs now; and say so."""
    git = Git(Path.cwd())
    renewed: dict[str, None] = {}
    for stale in stale_settings(git):
        try:
            write_setting(git, stale.scope, stale.key, stale.command)
            renewed[f"{stale.program} does not run gittheta, so Git now calls {interpreter()} ({stale.scope})"] = None
        except GitError as error:
            renewed[
                f"{stale.key} ({stale.scope}) names {stale.program}, which does not run gittheta: {error.what}\n"
                "  run `git theta install` as a user who may change that setting"
            ] = None
    for line in renewed:
        sys.stderr.write(f"gittheta: {line}\n")


def _settings() -> dict[str, str]:
    return {key: own_command(words) for key, words in COMMANDS.items()} | VALUES


def _check_program() -> None:
    if not runs_gittheta(interpreter()):
        raise ConfigError(
            f"Git would not find gittheta: {interpreter()} imports it only with the help of PYTHONPATH or the like",
            hint=f"install it there: {interpreter()} -m pip install gittheta",
        )


def _is_ours(key: str, value: str | None) -> bool:
    if value is None:
        return False
    expected = dict([OCTOPUS]) | VALUES
    return is_own_command(value, COMMANDS[key]) if key in COMMANDS else value == expected[key]


def _tell_settings(scope: Scope, settings: Mapping[str, str], octopus: str | None) -> None:
    for key, value in settings.items():
        click.echo(f"git config {scope} {key} '{value}'")
    if OCTOPUS[0] not in settings:
        click.echo(
            f"{OCTOPUS[0]} stays '{octopus}': to merge several branches that changed a model, use git merge -s theta"
        )


def _tell_hooks(report: HookReport | None) -> None:
    for line in report.changes if report else ():
        click.echo(line)
    for problem in report.problems if report else ():
        click.echo(f"gittheta: warning: a hook could not be changed: {problem}", err=True)


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
