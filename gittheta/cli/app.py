"""The verbs of ``git theta``, each imported when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from gittheta import __version__
from gittheta.cli import TRACE
from gittheta.wording import guess, quoted

_VERBS = {
    "apply": "verbs.change.apply",
    "apply-patch": "verbs.change.patch",
    "attest": "verbs.look.attest",
    "check-push": "plumbing.check_push",
    "clean": "plumbing.filter",
    "clone": "verbs.move.clone",
    "conflicts": "verbs.merge.conflicts",
    "copy-store": "verbs.move.copy_store",
    "smudge": "plumbing.filter",
    "doctor": "verbs.look.doctor",
    "du": "verbs.look.du",
    "fetch": "verbs.move.transfer",
    "fsck": "verbs.maintain.fsck",
    "gc": "verbs.maintain.gc",
    "install": "verbs.setup.install",
    "ls-files": "verbs.look.ls_files",
    "merge-driver": "plumbing.merge_driver",
    "merge-plan": "verbs.merge.merge_plan",
    "migrate": "verbs.maintain.migrate",
    "patch": "verbs.change.patch",
    "plugins": "verbs.setup.plugins",
    "pull": "verbs.move.transfer",
    "push": "verbs.move.transfer",
    "repack": "verbs.maintain.repack",
    "resolve": "verbs.merge.resolve",
    "show": "verbs.look.show",
    "sparsify": "verbs.change.sparsify",
    "status": "verbs.look.status",
    "track": "verbs.setup.track",
    "uninstall": "verbs.setup.install",
    "untrack": "verbs.setup.track",
    "verify": "verbs.look.verify",
}

_CALLED_BY_GIT = frozenset(("clean", "smudge", "merge-driver", "check-push"))
#: What plain Git does with checkpoints, too: whoever types it after `git theta` is told so.
_GIT_VERBS = frozenset(
    (
        *("add", "am", "blame", "branch", "checkout", "cherry-pick", "commit", "diff", "gc", "init", "log"),
        *("merge", "mv", "rebase", "reset", "restore", "revert", "rm", "stash", "switch", "tag", "worktree"),
    )
)

#: Plain git commands say the same with the variable.
_VERBOSE = f"Say what is done and how long it takes, as {TRACE}=1 does for plain git commands."


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in sorted(_VERBS) if not self.get_command(ctx, name).hidden]  # type: ignore[union-attr]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return super().get_command(ctx, cmd_name)
        module = import_module(f"gittheta.cli.{_VERBS[cmd_name]}")
        found: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb that was typed, or what to type instead."""
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise click.UsageError(_unknown(args[0]))
        return super().resolve_command(ctx, args)


def _unknown(word: str) -> str:
    if word in _GIT_VERBS:
        return f"'{word}' is a command of Git itself, and works on models as it is: git {word}"
    return f"there is no verb {quoted(word)}; " + guess(
        word, _VERBS.keys() - _CALLED_BY_GIT, "`git theta -h` lists them"
    )


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="gittheta %(version)s")
@click.option("-v", "--verbose", is_flag=True, help=_VERBOSE)
def app(verbose: bool) -> None:
    """Git for machine-learning models: plain git commands on checkpoints, tensor by tensor."""
    if verbose:
        os.environ[TRACE] = "1"


@app.command("help", hidden=True)
@click.argument("verb", required=False)
@click.pass_context
def show_help(ctx: click.Context, verb: str | None) -> None:
    """What there is to type: all verbs, or one."""
    above = ctx.find_root()
    command = app.resolve_command(above, [verb])[1] if verb else app
    if command is not None:
        with click.Context(command, above if verb else None, info_name=verb or above.info_name) as context:
            click.echo(command.get_help(context))


def run_app(words: Sequence[str]) -> int:
    """Run what was typed; returns the exit status. What is wrong with the words is said on stderr."""
    try:
        status = app.main(list(words), prog_name="git theta", standalone_mode=False)
    except click.ClickException as error:
        error.show(sys.stderr)
        return error.exit_code
    except click.exceptions.Abort:
        return 130
    return status if isinstance(status, int) else 0
