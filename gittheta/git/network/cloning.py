"""A clone made by Git itself, whatever options it is given."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from gittheta.errors import GitError

if TYPE_CHECKING:
    from gittheta.git.process import Git


def clone(git: Git, words: Sequence[str]) -> Path | None:
    """Run ``git clone`` with the words of a user, who sees what it says; no model is written.

    Returns the new work tree; None if there is none, as in a bare clone. Raises GitError if Git failed, and said why.
    """
    with TemporaryDirectory(prefix="gittheta-clone-") as folder:
        events = Path(folder) / "events"
        # Which folder a clone goes to follows from its options in many ways: Git tells, in a log of its own.
        status = git.with_environment(GITTHETA_SKIP_SMUDGE="1", GIT_TRACE2_EVENT=str(events)).show("clone", *words)
        if status:
            raise GitError(f"git clone failed with status {status}", hint="mend what it says above, and clone again")
        return _work_tree(events)


def _work_tree(events: Path) -> Path | None:
    for line in events.read_bytes().splitlines() if events.exists() else ():
        event = json.loads(os.fsdecode(line))
        if event.get("event") == "def_repo" and "/" not in event["sid"]:  # a slash: it is another command's
            return Path(event["worktree"])
    return None
