"""The verbs of ``git theta``, each imported when it is called."""

from __future__ import annotations

import os
from importlib import import_module

import click

from gittheta import __version__
from gittheta.cli import TRACE

_VERBS = {
    "apply": "verbs.change.apply",
    "clean": "plumbing.filter",
    "conflicts": "verbs.merge.conflicts",
    "smudge": "plumbing.filter",
    "du": "verbs.look.du",
    "fetch": "verbs.move.transfer",
    "fsck": "verbs.maintain.fsck",
    "gc": "verbs.maintain.gc",
    "install": "verbs.setup.install",
    "ls-files": "verbs.look.ls_files",
    "merge-driver": "plumbing.merge_driver",
    "merge-plan": "verbs.merge.merge_plan",
    "plugins": "verbs.setup.plugins",
    "pull": "verbs.move.transfer",
    "push": "verbs.move.transfer",
    "repack": "verbs.maintain.repack",
    "resolve": "verbs.merge.resolve",
    "show": "verbs.look.show",
    "sparsify": "verbs.change.sparsify",
    "track": "verbs.setup.track",
    "uninstall": "verbs.setup.install",
    "untrack": "verbs.setup.track",
}


#: Plain git commands say the same with the variable.
_VERBOSE = f"Say what is done and how long it takes, as {TRACE}=1 does for plain git commands."


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in sorted(_VERBS) if not self.get_command(ctx, name).hidden]  # type: ignore[union-attr]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module = import_module(f"gittheta.cli.{_VERBS[cmd_name]}")
        found: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return found


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="gittheta %(version)s")
@click.option("-v", "--verbose", is_flag=True, help=_VERBOSE)
def app(verbose: bool) -> None:
    """Git for machine-learning models: plain git commands on checkpoints, tensor by tensor."""
    if verbose:
        os.environ[TRACE] = "1"
