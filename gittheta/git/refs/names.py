"""What a user calls something: a revision, a remote, a path. A name of nothing is an error with the nearest one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gittheta.errors import GitError
from gittheta.wording import guess, nearest, quoted

if TYPE_CHECKING:
    from gittheta.git.repository import Repository


def known_names(repository: Repository) -> list[str]:
    """HEAD, and the branches and tags, those of remotes too, as they are typed."""
    kinds = ("refs/heads", "refs/tags", "refs/remotes")
    listed = repository.git.attempt("for-each-ref", "--format=%(refname:short)", *kinds)
    return ["HEAD", *os.fsdecode(listed.stdout).splitlines()]


def heads_of_all(repository: Repository) -> list[str]:
    """What all refs name, each once."""
    return list(dict.fromkeys(repository.git.run("for-each-ref", "--format=%(objectname)").decode().split()))


def unknown_revision(repository: Repository, word: str, kind: str = "commit") -> GitError:
    """The error for a word that names no commit, or no other ``kind`` of thing."""
    if not repository.commit("HEAD"):
        return GitError(f"not a {kind}: {quoted(word)}; there is no commit yet", hint="commit something first")
    otherwise = "name a branch, a tag or a commit: git branch -a"
    return GitError(f"not a {kind}: {quoted(word)}", hint=guess(word, known_names(repository), otherwise))


def commit_of(repository: Repository, word: str) -> str:
    """The commit that a user named. Raises GitError."""
    commit = repository.commit(word)
    if commit is None:
        raise unknown_revision(repository, word)
    return commit


def tree_of(repository: Repository, word: str) -> str:
    """The tree of a revision that a user named. Raises GitError."""
    tree = repository.tree_of(word)
    if tree is None:
        raise unknown_revision(repository, word, "revision")
    return tree


def check_revisions(repository: Repository, words: Iterable[str]) -> None:
    """Raise GitError for a word that is neither a revision nor a range."""
    for word in words:
        if not repository.revisions(word.removeprefix("^")) and repository.tree_of(word) is None:
            raise unknown_revision(repository, word, "revision")


def check_remote(repository: Repository, name: str, *, urls: bool) -> None:
    """Raise GitError for a name that no remote has; with ``urls`` it may be a URL or a path as well."""
    remotes = repository.remote_names()
    if name in remotes or (urls and ("/" in name or ":" in name or os.path.exists(name))):
        return
    otherwise = f"the remotes are: {', '.join(remotes)}" if remotes else "there is none: git remote add NAME URL"
    raise GitError(f"not a remote: {quoted(name)}", hint=guess(name, remotes, otherwise))


def nearest_path(path: str, paths: Sequence[str], otherwise: str) -> str:
    """A hint for a path of nothing: the nearest one, by the whole of it or by its last part."""
    name = path.rpartition("/")[2]
    near = nearest(path, paths) or next((each for each in paths if each.rpartition("/")[2] == name), None)
    return f"do you mean {quoted(near)}? {otherwise}" if near else otherwise
