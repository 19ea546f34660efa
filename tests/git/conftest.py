"""A world for each test: a home of its own with gittheta installed, and repositories in which real git runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.world import IDENTITY, Place, Repo, World, environment


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what stands below this folder: other Pythons run only some of it."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("drives_git")


@pytest.fixture(scope="session")
def installed_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which `git theta install --global` was run, outside of any repository."""
    home = tmp_path_factory.mktemp("home")
    (home / ".gitconfig").write_text(IDENTITY)
    Place(home, environment(home)).git("theta", "install", "--global")
    return home


@pytest.fixture
def world(tmp_path: Path, installed_home: Path) -> World:
    """A machine on which gittheta is installed."""
    shutil.copytree(installed_home, tmp_path / "home")
    return World(tmp_path, tmp_path / "home")


@pytest.fixture
def bare_world(tmp_path: Path) -> World:
    """A machine on which `git theta install` was not run yet."""
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(IDENTITY)
    return World(tmp_path, home)


@pytest.fixture
def repo(world: World) -> Repo:
    """A repository that tracks safetensors files and has none yet."""
    return world.repo()
