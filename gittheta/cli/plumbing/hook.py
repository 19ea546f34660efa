"""``git theta hook NAME``: what the shims hand over to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.cli.console import open_workspace
from gittheta.errors import GitError
from gittheta.flows.checkout.materialise import materialise_pending
from gittheta.git.calling.hooks import NAMES
from gittheta.git.index import entries
from gittheta.git.messages import comment_mark, with_trailers
from gittheta.git.operation import Kind, Operation
from gittheta.runtime import keep_memory

if TYPE_CHECKING:
    from gittheta.git.process import Git

#: Set while a hook of ours changes the index, which calls the hook again.
INSIDE = "GITTHETA_HOOK"


def call_hook(name: str, script: str, *arguments: str) -> None:
    """Called by a shim, which has run the hook that was there before.

    ``script`` is a dash; a shim of an older version gives its own path, and leaves that hook to be run here.
    """
    if name not in NAMES:
        raise GitError(f"there is no hook named '{name}'", hint="`git theta install` renews the hooks")
    given = sys.stdin.buffer.read() if name in ("pre-push", "post-rewrite") else b""
    if script != "-":
        _run_former(script, arguments, given)
    if name == "pre-push":
        _push(arguments[0], arguments[1], os.fsdecode(given))
    elif name == "prepare-commit-msg":
        _look_for_pointers()
        _add_trailers(arguments[0])
    elif INSIDE not in os.environ:
        _write_pending(ends_sequence=(name, *arguments) == ("post-rewrite", "rebase"))


def _write_pending(ends_sequence: bool) -> None:
    os.environ[INSIDE] = "1"
    keep_memory()
    with open_workspace() as workspace:
        if ends_sequence or not Operation.read(workspace.repository).in_sequence:
            materialise_pending(workspace)


def _add_trailers(message: str) -> None:
    """Of a merge commit: how its checkpoints were merged, so that the merge can be repeated."""
    from gittheta.flows.resolve.state import merge_trailers

    with open_workspace() as workspace:
        repository = workspace.repository
        operation = Operation.read(repository)
        if operation.kind is not Kind.MERGE:
            return
        lines = merge_trailers(workspace, operation, entries(_with_committed_index(repository.git)))
        if lines:
            file = Path(message)
            file.write_bytes(with_trailers(file.read_bytes(), lines, comment_mark(repository)))


def _look_for_pointers() -> None:
    """Raises FormatError, which stops the commit, if it adds a pointer of Git LFS as a checkpoint."""
    from gittheta.flows.add.as_is import have_been_added, refuse_pointers

    with open_workspace() as workspace:
        repository = workspace.repository
        if have_been_added(repository):
            parents = ["HEAD", *Operation.read(repository).heads]
            refuse_pointers(workspace, entries(_with_committed_index(repository.git)), parents)


def _with_committed_index(git: Git) -> Git:
    """Git with the index that is committed: `git commit -a` makes one of its own."""
    index = os.environ.get("GIT_INDEX_FILE")
    return git.with_environment(GIT_INDEX_FILE=os.path.abspath(index)) if index else git


def _run_former(script: str, arguments: tuple[str, ...], given: bytes) -> None:
    for path in (script + ".before-gittheta", script + ".legacy"):
        if os.access(path, os.X_OK):
            run_by_shell = ["sh", "-c", '"$0" "$@"', path, *arguments]  # as Git does with a file that has no `#!`
            status = subprocess.run(run_by_shell, input=given, check=False).returncode
            if status:
                sys.exit(status)


def _push(remote: str, url: str, given: str) -> None:
    from gittheta.flows.transfer.push import RefUpdate, push_objects
    from gittheta.flows.transfer.unpushed import note_sent

    # LOCAL-REF NEW REMOTE-REF OLD, where the first may hold spaces: HEAD@{1 day ago}
    lines = [line.rsplit(" ", 3) for line in given.splitlines()]
    with open_workspace() as workspace:
        push_objects(workspace, remote, url, [RefUpdate(new, old) for _, new, _, old in lines])
        note_sent(workspace, remote, [new for _, new, _, _ in lines if new.strip("0")])
