"""All refs of another repository, fetched anew, under names that nobody else uses and that go afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gittheta.errors import GitError

if TYPE_CHECKING:
    from gittheta.git.process import Git

_PREFIX = "refs/theta/collecting"
_QUIET = ("-c", "maintenance.auto=false", "-c", "gc.auto=0", "-c", "fetch.fsckObjects=true")
_FLAGS = ("--quiet", "--no-tags", "--no-write-fetch-head", "--recurse-submodules=no", "--refmap=", "--no-auto-gc")


@contextmanager
def fetched_refs(git: Git, url: str) -> Iterator[list[str]]:
    """What the refs of a repository name, whose history is here meanwhile. Raises GitError if it cannot be had."""
    prefix = f"{_PREFIX}/{os.urandom(8).hex()}"
    try:
        done = git.attempt(*_QUIET, "fetch", *_FLAGS, "--", url, f"+refs/*:{prefix}/*")
        listed = git.attempt("ls-remote", "--", url)
        if done.returncode or listed.returncode:
            said = (done if done.returncode else listed).stderr.decode(errors="replace").strip()
            raise GitError(f"the refs of {url} cannot be fetched: {said}", hint="nothing was deleted")
        names = git.run("for-each-ref", "--format=%(objectname)", prefix).decode().split()
        # A detached HEAD is no ref; and what has moved since is looked at the next time.
        head = [line.split(b"\t")[0].decode() for line in listed.stdout.splitlines() if line.endswith(b"\tHEAD")]
        for oid in head:
            if git.attempt("cat-file", "-e", oid).returncode:
                git.run(*_QUIET, "fetch", *_FLAGS, "--", url, f"+HEAD:{prefix}/HEAD")
        yield [*names, *head]
    finally:
        stale = git.run("for-each-ref", "--format=delete %(refname)", prefix)
        if stale:
            git.run("update-ref", "--stdin", stdin=stale)
