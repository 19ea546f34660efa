"""Hooks of other people and tools, and what Git would run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.world import Repo, git_version

HOOKS = ["post-checkout", "post-index-change", "post-merge", "post-rewrite", "pre-push", "prepare-commit-msg"]
#: A hook that writes down how it was called.
SPY = """#!/bin/sh
echo "$(basename "$0") $*" >>"$SPY_LOG"
cat >>"$SPY_LOG"
exit ${SPY_STATUS:-0}
"""
#: From this version on, hooks are settings.
by_settings = pytest.mark.skipif(git_version() < (2, 54), reason="this Git knows no hooks by configuration")
by_files = pytest.mark.skipif(git_version() >= (2, 54), reason="this Git has hooks by configuration")


def write_hook(file: Path, text: str = SPY) -> Path:
    """A hook that can be run."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)
    return file


def hooks_in(repo: Repo) -> list[str]:
    """The hooks in the folder that Git made for them, without its samples."""
    folder = repo.store.parent / "hooks"
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".sample")
