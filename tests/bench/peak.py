"""Peak resident memory of each process below a command, read from /proc while it runs.

``wait4`` would tell the highest of git and all it has waited for, so it cannot tell git from its filter. ``VmHWM`` is
kept by the kernel for each process and never falls, so looking every few milliseconds misses nothing that lasts.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_PAUSE = 0.005
#: What the command line of a process has in it, and what such a process does.
_ROLES = {
    b"filter-process": "filter",
    b"git-merge-theta": "strategy",
    b"merge-driver": "driver",
    b"post-": "hook",
}


def can_measure() -> bool:
    """Whether this system shows the children of a process and their peaks."""
    return Path(f"/proc/self/task/{os.getpid()}/children").exists()


def peaks(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> dict[str, int]:
    """Bytes by role: ``git`` (the command itself) and those of ``_ROLES``; only the roles that were seen."""
    found: dict[str, int] = {}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None:
        for pid in (process.pid, *_below(process.pid)):
            with suppress(OSError):
                role = "git" if pid == process.pid else _role(pid)
                if role:
                    found[role] = max(_high_water(pid), found.get(role, 0))
        time.sleep(_PAUSE)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: status {process.returncode}")
    return found


def _below(pid: int) -> Iterator[int]:
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError), open(f"/proc/{pid}/task/{task}/children") as file:
                for child in map(int, file.read().split()):
                    yield child
                    yield from _below(child)


def _role(pid: int) -> str:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read()
    return next((role for mark, role in _ROLES.items() if mark in words), "")


def _high_water(pid: int) -> int:
    with open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) << 10
    return 0
