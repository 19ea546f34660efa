"""The text of a shim: it runs the hook that was there before, then hands over to ``git theta hook``."""

from __future__ import annotations

import os
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Protocol

from gittheta.git.calling.program import interpreter

_HEAD = b"#!/bin/sh\n# gittheta: handed over to"
_MOST = 1 << 16
_PYTHON = re.compile(rb"^python=(.+)$", re.MULTILINE)
#: Words by which the hooks of tools are known that write their hooks anew now and then.
TOOLS = ("pre-commit", "lefthook", "husky", "overcommit", "git lfs", "git-lfs")


def shim(name: str, former: str, *, ours: bool = True, python: str | None = None) -> bytes:
    """The text of a hook.

    ``former`` is the hook that was there before, as a word of the shell. Of a hook that is not ``ours`` the shim does
    nothing else than to run that one.
    """
    values = {
        "NAME": shlex.quote(name),
        "OURS": "yes" if ours else "no",
        "PYTHON": shlex.quote(python or interpreter()),
        "FORMER": former,
        "TOOLS": " ".join(map(shlex.quote, TOOLS)),
    }
    return re.sub(r"@([A-Z]+)@", lambda key: values[key[1]], _template()).encode(errors="surrogateescape")


def is_shim(path: Path) -> bool:
    """Whether a file is a shim of ours, of this or another version, whatever it is called."""
    return _read(path).startswith(_HEAD)


def is_current(path: Path, name: str, former: str, *, ours: bool = True) -> bool:
    """Whether a file is the shim that would be written now, but for a Python that is still there."""
    text = _read(path)
    python = _python_of(text)
    runs = python is not None and os.access(python, os.X_OK) and os.access(path, os.X_OK)
    return runs and text == shim(name, former, ours=ours, python=python)


def calls_gittheta(path: Path, name: str) -> bool:
    """Whether another hook calls gittheta by itself."""
    pattern = rb"(?:git[ -]theta|gittheta) hook +['\"]?" + re.escape(name.encode())
    return not is_shim(path) and re.search(pattern, _read(path)) is not None


def of_one_tool(path: Path, other: Path) -> bool:
    """Whether two hooks are the same, or two versions of what one tool writes."""
    texts = _read(path), _read(other)
    return texts[0] == texts[1] or any(all(tool.encode() in text for text in texts) for tool in TOOLS)


class Modes(Protocol):
    """Who may read and write what is created in a repository: what ``storage.permissions.Permissions`` says of it."""

    def mode(self, present: int) -> int:
        """The mode of a file whose mode would be ``present`` otherwise."""
        ...

    def make_folders(self, folder: Path) -> None:
        """Create a folder and those above it that are not there. Raises OSError."""
        ...


def write_shim(path: Path, text: bytes, modes: Modes) -> None:
    """Put a shim in its place in one step. Raises OSError."""
    modes.make_folders(path.parent)
    temporary = path.with_name(f"{path.name}.{os.urandom(4).hex()}.new")
    try:
        temporary.write_bytes(text)
        temporary.chmod(modes.mode(0o777 & ~_umask()))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _python_of(text: bytes) -> str | None:
    line = _PYTHON.search(text) if text.startswith(_HEAD) else None
    try:
        words = shlex.split(os.fsdecode(line[1])) if line else []
    except ValueError:
        return None
    return words[0] if len(words) == 1 else None


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MOST)
    except OSError:
        return b""


@cache
def _template() -> str:
    package = Path(__file__).parents[2]
    installed = package / "hooks" / "shim"
    return (installed if installed.is_file() else package.parent / "hooks" / "shim").read_text()
