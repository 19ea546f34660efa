"""How Git starts gittheta: one Python by its whole path, deaf to the environment and to the current folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from gittheta.git.configuration import Scope, scoped_settings

if TYPE_CHECKING:
    from gittheta.git.process import Git

#: ``-E``: no variable such as PYTHONPATH counts. ``-P``: no module is taken from the folder in which Git works.
_OPTIONS = "-E -P -m gittheta"
#: What `git theta install` writes; older versions of it wrote the name of a program on PATH.
_OURS = re.compile(rf"(?:(?P<python>.+) {_OPTIONS}|git-theta) (?P<words>.+)", re.DOTALL)
_KEYS = r"^(filter\.theta\.(process|clean|smudge)|merge\.theta\.driver)$"


def interpreter() -> str:
    """The whole path of the Python that runs now, not resolved: that of a virtual environment is a link."""
    return Path(sys.executable).as_posix()


def own_command(words: str) -> str:
    """The command line, for a shell, with which Git calls gittheta."""
    return f"{shlex.quote(interpreter())} {_OPTIONS} {words}"


def is_own_command(command: str, words: str) -> bool:
    """Whether a command line calls gittheta with these words, by whichever Python."""
    ours = _OURS.fullmatch(command)
    return ours is not None and ours["words"] == words


def runs_gittheta(python: str) -> bool:
    """Whether a Python finds gittheta without the help of the environment."""
    try:
        return not subprocess.run(
            [python, "-E", "-P", "-c", "import gittheta"], capture_output=True, stdin=subprocess.DEVNULL, check=False
        ).returncode
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class StaleSetting:
    """A setting of ours that names a program which does not run gittheta (any more), and what it should be."""

    scope: Scope
    key: str
    program: str
    command: str


def stale_settings(git: Git) -> Iterator[StaleSetting]:
    """The settings with which Git would not find gittheta: its Python has moved, or was never named by its path."""
    sound: dict[str, bool] = {"git-theta": False, interpreter(): True}
    for scope, key, value in scoped_settings(git, _KEYS):
        ours = _OURS.fullmatch(value or "")
        if ours is None or f"--{scope}" not in get_args(Scope):
            continue
        program = _unquoted(ours["python"]) if ours["python"] else "git-theta"
        if program not in sound:
            sound[program] = os.access(program, os.X_OK) and runs_gittheta(program)
        if not sound[program]:
            yield StaleSetting(f"--{scope}", key, program, own_command(ours["words"]))  # type: ignore[arg-type]


def _unquoted(word: str) -> str:
    try:
        words = shlex.split(word)
    except ValueError:
        return word
    return words[0] if len(words) == 1 else word
