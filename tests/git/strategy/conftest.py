"""A repository of several branches, built once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checkpoints import checkpoint
from tests.support.octopus import BASE, CHANGES, M, model, text
from tests.support.world import Repo, Template, World


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, installed_home: Path) -> Template:
    """A base, and branches that have changed the model and a text; `start` is the base."""
    world = World(tmp_path_factory.mktemp("built"), installed_home)
    repo = world.repo()
    repo.write("t.txt", text().encode())
    repo.write(M, checkpoint(BASE))
    repo.git("add", ".")
    repo.git("commit", "-q", "-m", "base")
    for name in ("start", *list(CHANGES)[1:]):
        repo.git("branch", name)
    for name in CHANGES:
        repo.git("checkout", "-q", name)
        repo.write("t.txt", text(name).encode())
        repo.write(M, checkpoint(model(name)))
        repo.git("commit", "-q", "-a", "-m", name)
    repo.git("checkout", "-q", "main")
    return Template(world.root, {})


@pytest.fixture
def branches(world: World, built: Template) -> Repo:
    """The repository with all branches; main is checked out."""
    return built.copy_to(world)
