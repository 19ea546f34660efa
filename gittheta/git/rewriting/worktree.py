"""Work trees whose branches are written anew: whether they are clean before, and how they follow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.errors import GitError
from gittheta.git.attributes import FILE
from gittheta.git.holdings import work_trees
from gittheta.git.operation import Kind, Operation
from gittheta.git.process import Git
from gittheta.git.repository import Repository
from gittheta.git.trees import tree_changes

if TYPE_CHECKING:
    from collections.abc import Mapping


def refuse_unclean(repository: Repository) -> None:
    """Raise GitError unless every work tree is on a branch, without changes, and in the middle of nothing."""
    for top, git in _each(repository):
        here = Repository.elsewhere(top)
        operation = Operation.read(here)
        if operation.kind is not Kind.OTHER or operation.in_sequence:
            raise GitError(f"a {operation.kind.value} is going on in {top}", hint="finish it, or abort it")
        if git.run("status", "--porcelain", "-z", "--untracked-files=no"):
            raise GitError(f"there are changes in {top}", hint="commit or stash them first")
        if git.attempt("symbolic-ref", "-q", "HEAD").returncode:
            raise GitError(f"no branch is checked out in {top}", hint="git switch BRANCH")
        if (top / FILE).exists() and not git.run("ls-files", "--", f":(top){FILE}"):
            raise GitError(f"{top / FILE} is not tracked", hint="add it and commit it, or move it away")


def refuse_incomplete(git: Git) -> None:
    """Raise GitError in a clone that does not have all of its history."""
    if git.line("rev-parse", "--is-shallow-repository") == "true":
        raise GitError("a shallow clone does not have all of its history", hint="git fetch --unshallow")
    if git.attempt("config", "--get-regexp", r"^remote\..*\.promisor$").returncode == 0:
        raise GitError("a partial clone does not have all of its history", hint="git fetch --refetch --no-filter")


def follow(repository: Repository, new_of: Mapping[str, str]) -> None:
    """Bring index and files of every work tree to where their branches have moved.

    The bytes of the files are the same before and after, so that most are only looked at. May be called again.
    """
    old_of = {new: old for old, new in new_of.items()}
    for top, git in _each(repository):
        head = git.attempt("rev-parse", "--verify", "-q", "HEAD^{commit}").stdout.decode().strip()
        if head not in old_of:
            continue
        git.run("read-tree", "-m", "HEAD")
        # Attributes first: they say what the others are compared with.
        _check_out(git, [path for path in _changed(git) if path.rpartition("/")[2] == FILE])
        for path, change in tree_changes(git, old_of[head], head).items():
            if change.new is None and path.rpartition("/")[2] == FILE:
                (top / path).unlink(missing_ok=True)
        git.attempt("update-index", "-q", "--really-refresh")
        _check_out(git, _changed(git))


def _each(repository: Repository) -> Iterator[tuple[Path, Git]]:
    for top in work_trees(repository.git):
        yield top, Git.elsewhere(top)


def _changed(git: Git) -> list[str]:
    return os.fsdecode(git.run("diff-files", "--name-only", "-z")).split("\0")[:-1]


def _check_out(git: Git, paths: list[str]) -> None:
    if paths:
        stdin = b"".join(os.fsencode(path) + b"\0" for path in paths)
        git.run("checkout-index", "-f", "-q", "-z", "--stdin", stdin=stdin)
