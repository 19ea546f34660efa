"""One git command."""

from __future__ import annotations

import subprocess
from pathlib import Path


def git(directory: Path, *words: str, stdin: bytes | None = None) -> str:
    """What a git command prints; git with a home of its own (see conftest.py)."""
    return subprocess.run(
        ["git", *words], cwd=directory, input=stdin, check=True, capture_output=True
    ).stdout.decode().rstrip("\n")  # fmt: skip
