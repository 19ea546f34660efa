"""Hooks by configuration, which Git has since 2.54: `hook.gittheta-NAME.event` and `.command`.

No file of a folder for hooks is touched, and `core.hooksPath` does not matter. The command calls a shim under the git
directory, wherever that lies: a copy of the repository calls its own.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.git.calling.script import Modes, is_current, shim, write_shim
from gittheta.git.configuration import write_setting

if TYPE_CHECKING:
    from gittheta.git.repository import Repository

FOLDER = ("theta", "hook-events")
_FIRST_VERSION = (2, 54)
_NOTHING = "''"


def are_supported(repository: Repository) -> bool:
    """Whether this Git runs such hooks."""
    version = re.search(r"(\d+)\.(\d+)", repository.git.line("version"))
    return version is not None and (int(version[1]), int(version[2])) >= _FIRST_VERSION


def in_force(repository: Repository, names: Sequence[str]) -> bool:
    """Whether all is set and every shim is there. Does not ask which version Git has."""
    return all(
        repository.setting(key.lower()) == value for name in names for key, value in _settings(name).items()
    ) and all(is_current(_folder(repository) / name, name, _NOTHING) for name in names)


def install(repository: Repository, names: Sequence[str], modes: Modes) -> Iterator[str]:
    """Write the shims, then tell Git of them; says what was done. Raises OSError or GitError."""
    for name in names:
        path = _folder(repository) / name
        if not is_current(path, name, _NOTHING):
            write_shim(path, shim(name, _NOTHING), modes)
        for key, value in _settings(name).items():
            if repository.setting(key.lower()) != value:
                write_setting(repository.git, "--local", key, value)
                yield f"git config --local {key} '{value}'"


def remove(repository: Repository) -> Iterator[str]:
    """Tell Git nothing of them any more; says what was done."""
    sections = {key.rpartition(".")[0] for key in repository.config if key.startswith("hook.gittheta-")}
    for section in sorted(sections):
        if repository.git.attempt("config", "--local", "--remove-section", section).returncode == 0:
            yield f"git config --local --remove-section {section}"
    shutil.rmtree(_folder(repository), ignore_errors=True)


def _settings(name: str) -> dict[str, str]:
    # Some hooks run at every change of the index: Git is asked where its directory is only if there is something to do.
    unless = 'test ! -s "${GIT_DIR:-.git}/theta-pending" || ' if name.startswith("post-") else ""
    find = f"shim=$(git rev-parse --git-common-dir)/{'/'.join(FOLDER)}/{name}"
    return {
        f"hook.gittheta-{name}.event": name,
        f"hook.gittheta-{name}.command": f'shim=; {unless}{find}; test ! -f "$shim" || sh "$shim"',
    }


def _folder(repository: Repository) -> Path:
    return repository.common_dir.joinpath(*FOLDER)
