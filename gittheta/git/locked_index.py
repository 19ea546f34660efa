"""The index, changed under Git's own lock: what others have written since we looked is never overwritten.

Git locks the index by creating ``index.lock`` beside it, and renames that file when it is written. Here the lock is an
empty file; Git commands then change a copy of the index, which takes the index's place at the end. Killed in between,
it leaves what a killed Git command leaves: ``index.lock``, which Git names when it finds it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from gittheta.errors import GitError

if TYPE_CHECKING:
    from gittheta.git.entries import Entry
    from gittheta.git.process import Git
    from gittheta.git.repository import Repository

#: Seconds to wait for another command that holds the index.
PATIENCE = 5.0


@contextmanager
def locked_index(repository: Repository, patience: float = PATIENCE) -> Iterator[Git]:
    """Git commands that change a copy of the index, while nobody else can change the index itself.

    The copy takes its place at the end, unless the block raises. Raises GitError if another command holds the index
    for longer than ``patience`` seconds.
    """
    index, lock = repository.git_dir / "index", repository.git_dir / "index.lock"
    copy = repository.git_dir / f"theta-index.{os.getpid()}"
    descriptor = _taken(lock, patience)
    try:
        with suppress(FileNotFoundError):  # nothing was ever added
            shutil.copyfile(index, copy)
            shutil.copystat(index, copy)  # by its time, Git knows which files may have changed unseen
        yield repository.git.with_environment(GIT_INDEX_FILE=str(copy))
        if copy.exists():
            mode = os.fstat(descriptor).st_mode if not index.exists() else index.stat().st_mode
            copy.chmod(mode & 0o7777)
            os.replace(copy, lock)
            os.replace(lock, index)
    finally:
        os.close(descriptor)
        copy.unlink(missing_ok=True)
        copy.with_name(f"{copy.name}.lock").unlink(missing_ok=True)
        lock.unlink(missing_ok=True)


def _taken(lock: os.PathLike[str], patience: float) -> int:
    until = time.monotonic() + patience
    while True:
        try:
            return os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            if time.monotonic() >= until:
                raise GitError(
                    f"another git command holds the index: {os.fspath(lock)} is there",
                    hint="run it again when that command has ended; if none is running, delete that file",
                ) from None
            time.sleep(0.05)


def put_entries(git: Git, entries: Iterable[Entry], gone: Iterable[str] = (), nothing: str = "0" * 40) -> None:
    """Put entries into an index, and take all stages of other paths out of it."""
    lines = [f"0 {nothing}\t{path}\0" for path in gone]
    lines += [f"{entry.mode} {entry.oid} {entry.stage}\t{entry.path}\0" for entry in entries]
    git.run("update-index", "-z", "--index-info", stdin=os.fsencode("".join(lines)))


def replace_entries(repository: Repository, changes: Sequence[tuple[Entry, Entry]], patience: float = 0) -> list[Entry]:
    """Replace entries, each by another, where the index still has them; returns those that it has no more.

    An entry that is replaced by itself forgets its file's times, so that Git looks at the file anew. Raises GitError
    if another command, perhaps the one that called us, holds the index for longer than ``patience`` seconds.
    """
    if not changes:
        return []
    with locked_index(repository, patience) as git:
        present = _entries_of(git, [old.path for old, _ in changes])
        put_entries(git, [new for old, new in changes if present.get(old.path) == [old]])
    return [old for old, _ in changes if present.get(old.path) != [old]]


def _entries_of(git: Git, paths: Iterable[str]) -> dict[str, list[Entry]]:
    from gittheta.git.index import entries

    wanted = set(paths)
    present: dict[str, list[Entry]] = {}
    for entry in entries(git):
        if entry.path in wanted:
            present.setdefault(entry.path, []).append(entry)
    return present
