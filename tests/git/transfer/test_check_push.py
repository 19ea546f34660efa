"""hooks/pre-receive: a server that refuses models whose objects have not come."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.checkpoints import model
from tests.support.world import Place, Repo, World

HOOK = Path(__file__).parents[3] / "hooks/pre-receive"


@pytest.fixture
def hub(world: World, repo: Repo) -> Place:
    path = world.bare()
    shutil.copy(HOOK, path / "hooks/pre-receive")
    repo.git("remote", "add", "origin", str(path))
    return Place(path, world.env)


def test_a_push_with_its_objects(hub: Place, repo: Repo) -> None:
    repo.commit(model(1))
    repo.git("push", "-q", "origin", "main")
    repo.git("push", "-q", "origin", "main:other")
    repo.commit(b"text\n", "README")
    repo.git("push", "-q", "--no-verify", "origin", "main")
    repo.git("push", "-q", "origin", ":other")
    repo.git("tag", "-a", "v1", "-m", "one")
    repo.git("push", "-q", "origin", "v1")


def test_a_push_without_its_objects(hub: Place, repo: Repo) -> None:
    repo.commit(model(1))
    repo.git("push", "-q", "origin", "main")
    repo.commit(model(2))
    repo.commit(b"text\n", "README")
    message = repo.fails("push", "--no-verify", "origin", "main")
    assert "has not been pushed" in message
    assert "m.safetensors" in message
    assert hub.git("rev-parse", "main") == repo.git("rev-parse", "main~2")
    repo.git("theta", "push", "origin")
    repo.git("push", "-q", "--no-verify", "origin", "main")


def test_a_manifest_that_is_only_a_text(hub: Place, repo: Repo) -> None:
    repo.commit(model(1))
    text = repo.manifest().encode()
    repo.git("checkout", "-q", "--orphan", "texts")
    repo.git("rm", "-rfq", ".")
    repo.commit(text, "example.txt")
    repo.git("push", "-q", "--no-verify", "origin", "texts")


def test_objects_at_another_place(hub: Place, repo: Repo, world: World) -> None:
    (world.root / "elsewhere").mkdir()
    hub.git("config", "theta.url", str(world.root / "elsewhere"))
    repo.commit(model(1))
    assert "has not been pushed" in repo.fails("push", "origin", "main")
    repo.git("config", "theta.url", str(world.root / "elsewhere"))
    repo.git("push", "-q", "origin", "main")
