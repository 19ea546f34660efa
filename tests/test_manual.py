"""The manual page: as the verbs say it, and found where Git looks for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_page_is_up_to_date() -> None:
    """`make man` writes it anew."""
    done = subprocess.run([sys.executable, ROOT / "docs/man/generate.py", "--check"], check=False)
    assert done.returncode == 0, "a verb has changed: make man"


@pytest.mark.skipif(shutil.which("man") is None, reason="no `man` on this machine")
def test_git_finds_it() -> None:
    programs = Path(sys.executable).parent
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["git", "theta", "--help"],
        env={**os.environ, "PATH": path, "MANPAGER": "cat"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"merge-plan" in done.stdout
