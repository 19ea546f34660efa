"""Shims in the folder where Git looks for hooks: a hook that was there is kept beside its shim, and run first."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from gittheta.git.calling.script import Modes, calls_gittheta, is_current, is_shim, of_one_tool, shim, write_shim

#: What the hook that was there before is called: its name and this.
SUFFIX = ".before-gittheta"
#: What it was called by older versions. Other tools use this suffix too.
_OLDER_SUFFIX = ".legacy"


def in_force(folder: Path, name: str) -> bool:
    """Whether Git calls gittheta here, and by a shim that need not be renewed."""
    path = folder / name
    return is_current(path, name, _former(name)) or calls_gittheta(path, name)


def install(folder: Path, name: str, modes: Modes) -> Iterator[str]:
    """Put a shim in front of what is there; says what was done, a line each. Raises OSError, and then nothing is lost.

    Another tool may have written its hook over the shim, or in front of it: its newest hook is the one that is kept.
    """
    path, kept = folder / name, folder / (name + SUFFIX)
    if in_force(folder, name):
        return
    if is_shim(path):
        _take_over_older(path, kept)
        write_shim(path, shim(name, _former(name)), modes)
        yield f"hook {path} renewed"
        return
    chained = os.path.lexists(path)
    if chained:
        yield from _keep(path, kept)
    write_shim(path, shim(name, _former(name)), modes)
    _remove_copies(folder, name)
    yield f"hook {path}" + (" (the one before is called first)" if chained else "")


def remove(folder: Path, name: str) -> Iterator[str]:
    """Take a shim away, and put back what was there before; says what was done."""
    path, kept = folder / name, folder / (name + SUFFIX)
    _remove_copies(folder, name)
    if not is_shim(path):
        return
    _take_over_older(path, kept)
    if os.path.lexists(kept):
        os.replace(kept, path)
        yield f"hook {path} put back as it was"
    else:
        path.unlink()
        yield f"hook {path} removed"


def _former(name: str) -> str:
    return f'"${{0%/*}}/"{shlex.quote(name + SUFFIX)}'


def _take_over_older(path: Path, kept: Path) -> None:
    """What an older version of gittheta has chained, under a suffix that others use as well."""
    older = path.with_name(path.name + _OLDER_SUFFIX)
    if _OLDER_SUFFIX.encode() in path.read_bytes() and older.exists() and not is_shim(older) and not kept.exists():
        os.rename(older, kept)


def _keep(path: Path, kept: Path) -> Iterator[str]:
    """Keep the hook that is there. Another process may do the same at this moment: what is moved is looked at again."""
    pinned = kept.with_name(f"{kept.name}.{os.urandom(4).hex()}.new")
    try:
        os.link(path, pinned, follow_symlinks=False)
    except OSError:  # a file system without hard links
        os.rename(path, pinned)
    try:
        if is_shim(pinned):
            return
        if os.path.lexists(kept) and not is_shim(kept) and not of_one_tool(kept, pinned):
            aside = _unused(kept)
            os.rename(kept, aside)
            yield f"hook {path} was written anew by another tool; what it was before is no longer run: {aside}"
        os.replace(pinned, kept)
    finally:
        pinned.unlink(missing_ok=True)


def _unused(kept: Path) -> Path:
    number = 1
    while os.path.lexists(kept.with_name(f"{kept.name}.{number}")):
        number += 1
    return kept.with_name(f"{kept.name}.{number}")


def _remove_copies(folder: Path, name: str) -> None:
    """Shims of ours under other names: tools that keep a hook as NAME.old or NAME.legacy would call them as well."""
    for path in folder.glob(f"{name}.*"):
        if path.suffix != ".new" and is_shim(path):
            path.unlink(missing_ok=True)
