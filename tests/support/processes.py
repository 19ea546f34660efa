"""Git commands that are killed on their way, or run out of disk."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from tests.support.world import Place, Repo


def processes_below(process: int) -> list[int]:
    """The children of a process and theirs, the filter among them."""
    results = []
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1]) if entry.name.isdigit() else 0
        except OSError:
            continue
        if parent == process:
            results += [int(entry.name), *processes_below(int(entry.name))]
    return results


def _works_in(folder: Path) -> bool:
    """Whether some process has its current folder there: one that was started between the look and the blow, too."""
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            place = os.readlink(link)
        except OSError:
            continue
        if place == str(folder) or place.startswith(f"{folder}/"):
            return True
    return False


def kill(repo: Place, words: tuple[str, ...], delay: float, victim: str) -> None:
    """Start a git command, and after some time kill it or what it has started, as hard as can be."""
    git = subprocess.Popen(
        ["git", *words],
        cwd=repo.path,
        env=repo.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(delay)
    below = processes_below(git.pid)
    for process in below if victim == "filter" else [git.pid, *below] if victim == "all" else [git.pid]:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
    git.wait()
    # Orphans notice that git has gone when they next read or write; the next command must not meet them half-way.
    deadline = time.monotonic() + 20
    while _works_in(repo.path) and time.monotonic() < deadline:
        time.sleep(0.02)


def unlock(git_dir: Path) -> None:
    """What Git itself asks the user to do after a crash of its own."""
    for lock in git_dir.rglob("*.lock"):
        lock.unlink()


def limited(repo: Repo, words: str, kilobytes: int) -> subprocess.CompletedProcess[str]:
    """A git command that may write no file larger than that: the way a full disk looks to a program."""
    return repo.attempt("sh", "-c", f"ulimit -f {kilobytes * 2}; trap '' XFSZ; exec git {words}")
