"""Git's configuration: read at once for a process, and changed by ``git theta install``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from gittheta.git.process import Git

#: Whose configuration is meant.
Scope = Literal["--local", "--worktree", "--global", "--system"]


def all_settings(git: Git) -> dict[str, list[str]]:
    """Every setting that is in force, by lower-case section and key."""
    settings: dict[str, list[str]] = {}
    for item in os.fsdecode(git.run("config", "-z", "--list")).split("\0"):
        key, separator, value = item.partition("\n")
        if key:
            settings.setdefault(key, []).append(value if separator else "true")
    return settings


def scoped_settings(git: Git, pattern: str) -> Iterator[tuple[str, str, str | None]]:
    """Scope, key and value of each setting whose key matches a regular expression; None where there is only a key.

    The scope ``command`` is what was given for one command: `git -c`.
    """
    listed = git.attempt("config", "-z", "--show-scope", "--get-regexp", pattern)
    words = os.fsdecode(listed.stdout).split("\0")[:-1]
    for scope, item in zip(words[0::2], words[1::2], strict=True):
        key, separator, value = item.partition("\n")
        yield scope, key, value if separator else None


def read_setting(git: Git, scope: Scope, key: str) -> str | None:
    """One setting of one scope."""
    answer = git.attempt("config", scope, "--get", key)
    return os.fsdecode(answer.stdout).rstrip("\n") if answer.returncode == 0 else None


def read_effective(git: Git, key: str) -> str | None:
    """One setting, of whichever scope is in force."""
    answer = git.attempt("config", "--get", key)
    return os.fsdecode(answer.stdout).rstrip("\n") if answer.returncode == 0 else None


def foreign_setting(git_dir: Path, key: str) -> str | None:
    """One setting that is in force in another repository."""
    git = Git.elsewhere(git_dir).with_environment(GIT_DIR=str(git_dir))
    answer = git.attempt("config", "--get", key)
    return os.fsdecode(answer.stdout).rstrip("\n") if answer.returncode == 0 else None


def write_setting(git: Git, scope: Scope, key: str, value: str) -> None:
    """Set one value. Raises GitError."""
    git.run("config", scope, key, value)


def remove_setting(git: Git, scope: Scope, key: str) -> None:
    """Remove one value. Raises GitError."""
    git.run("config", scope, "--unset", key)
