"""Fixtures that conftest files share: repositories without the command line, cut off from the user's own settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gittheta.codec.tensor_store import TensorStore
from tests.support.command import git
from tests.support.limits import SMALL
from tests.support.repository import Repo
from tests.support.world import search_path


@pytest.fixture(autouse=True, scope="session")
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Git with an empty home, and no repository in the environment (tests may run from a hook)."""
    home = tmp_path_factory.mktemp("home")
    (home / "template").mkdir()
    (home / ".gitconfig").write_text(
        "[user]\nname = A\nemail = a@example.org\n[maintenance]\nauto = false\n"
        f"[init]\ndefaultBranch = main\ntemplateDir = {home / 'template'}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("GIT_", "XDG_"))]:
            patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setenv("PATH", search_path())
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        yield


@pytest.fixture
def tensors(tmp_path: Path) -> Iterator[TensorStore]:
    """An empty tensor store, with nothing around it."""
    with TensorStore.at(tmp_path / "theta") as tensors:
        yield tensors


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    git(tmp_path, "init", "-q")
    return Repo(tmp_path)


@pytest.fixture
def small_blocks(repo: Repo) -> None:
    """What otherwise takes gigabytes."""
    repo.limits = SMALL
