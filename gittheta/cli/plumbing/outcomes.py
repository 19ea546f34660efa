"""What the user reads about a merged checkpoint: the same from the merge driver and from the strategy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gittheta.wording import shell_word, shown

if TYPE_CHECKING:
    from gittheta.flows.merge.plan import MergePlan

#: How many conflicting tensors are named one by one.
_NAMED = 20


def tell_merged(path: str, plan: MergePlan) -> None:
    """How the tensors came out."""
    sys.stderr.write(f"gittheta: {shown(path)}: {plan.summary()}\n")


def tell_conflicts(path: str, conflicts: Sequence[str]) -> None:
    """Why a person is needed, and how to settle it."""
    _name(path, conflicts)
    name = shell_word(path)
    sys.stderr.write(
        f"gittheta: {shown(path)} stays as it is in ours until you say how: git theta resolve {name} --method linear\n"
        f"  or take one version: git theta resolve {name} take --from theirs; then: git add {name}\n"
    )


def tell_failure(path: str, problem: str) -> None:
    """Why a checkpoint could not be merged although nothing is in conflict, and how to go on."""
    sys.stderr.write(
        f"gittheta: {path} could not be merged: {problem}\n"
        "  nothing is in conflict: mend this, then merge again (if Git thinks that the merge goes on: "
        "git merge --abort)\n"
    )


def tell_clash(path: str, problem: str) -> None:
    """The same where there is nothing that a method could merge."""
    _name(path, [problem])
    name = shell_word(path)
    sys.stderr.write(f"gittheta: put {shown(path)} as you want it, then: git add {name} (or git rm {name})\n")


def _name(path: str, conflicts: Sequence[str]) -> None:
    for line in conflicts[:_NAMED]:
        sys.stderr.write(f"CONFLICT ({shown(path)}): {line}\n")
    if len(conflicts) > _NAMED:
        sys.stderr.write(f"CONFLICT ({shown(path)}): and {len(conflicts) - _NAMED} more\n")
