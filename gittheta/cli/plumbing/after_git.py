"""What the filter does once Git has gone: it writes the large checkpoints that no hook has put in place.

Git calls no hook after `git apply`, `git checkout-index` and parts of `git stash`. But it waits for the filter before
it ends, so this is the last moment of any command, whatever hooks there are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from gittheta.cli.console import open_workspace
from gittheta.cli.plumbing.hook import INSIDE
from gittheta.errors import ThetaError
from gittheta.flows.checkout.materialise import handed_elsewhere, materialise_pending, pending_paths
from gittheta.git.operation import Operation
from gittheta.wording import shown

_NAMED = 5


def write_remaining() -> None:
    """Put in place what is pending; say in one line what stays a manifest, and what to do about it."""
    os.environ[INSIDE] = "1"
    with open_workspace() as workspace:
        repository, warn = workspace.repository, workspace.reporter.warn
        if Operation.read(repository).in_sequence:
            paths = pending_paths(repository)
            warn(f"still a manifest, as Git has more to do: {_listed(paths)}; afterwards run `git theta pull`")
            return
        elsewhere = handed_elsewhere(workspace)
        try:
            materialise_pending(workspace)
        except ThetaError as error:
            raise error.but(hint=_pull(error.hint)) from None
        if elsewhere:
            warn(
                f"above theta.smudgeLimit, so Git got the manifest for another place: {_listed(elsewhere)}\n"
                "  run `git theta pull` if that is in the work tree; "
                "or the same command again as `git -c theta.smudgeLimit=1000g ...`"
            )


def _pull(hint: str | None) -> str:
    said = f"{hint}; " if hint else ""
    return f"{said}the file is still its manifest: `git theta pull` tries again"


def _listed(paths: Sequence[str]) -> str:
    return ", ".join(map(shown, paths[:_NAMED])) + (f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else "")
