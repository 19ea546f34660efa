"""The verbs of ``git theta``, each imported when it is called."""

from __future__ import annotations

from importlib import import_module

import click

from gittheta import __version__

_VERBS = {
    "apply": "apply",
    "clean": "filter",
    "conflicts": "conflicts",
    "smudge": "filter",
    "du": "du",
    "fetch": "transfer",
    "fsck": "fsck",
    "install": "install",
    "ls-files": "ls_files",
    "merge-driver": "merge_driver",
    "merge-plan": "merge_plan",
    "plugins": "plugins",
    "pull": "transfer",
    "push": "transfer",
    "repack": "repack",
    "resolve": "resolve",
    "show": "show",
    "sparsify": "sparsify",
    "track": "track",
    "uninstall": "install",
    "untrack": "track",
}


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
def app() -> None:
    """Git for machine-learning models: plain git commands on checkpoints, tensor by tensor."""
