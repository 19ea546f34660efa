"""Objects over SSH: plain push, clone and checkout, with a real server."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkpoints import model, sha256
from tests.support.ssh_server import SshServer, ssh_server
from tests.support.stores import object_files
from tests.support.world import Repo, World


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def repo(world: World, server: SshServer) -> Repo:
    world.env["GIT_SSH_COMMAND"] = shlex.join(server.command)
    return world.repo()


def _pushed_and_cloned(world: World, repo: Repo, url: str, store: Path) -> None:
    repo.git("remote", "add", "origin", url)
    for seed in range(3):
        repo.commit(model(seed))
    repo.git("push", "-q", "origin", "main")
    assert len(object_files(store)) == len(repo.objects())
    clone = world.clone(url)
    for seed in range(3):
        clone.git("checkout", "-q", f"origin/main~{2 - seed}")
        assert clone.sha() == sha256(model(seed))
    clone.healthy()
    assert not list((store / "tmp").iterdir())


@pytest.mark.parametrize("path", ["hub.git", pytest.param("hub", marks=pytest.mark.slow)])
def test_a_repository_over_ssh_has_its_objects_beside_it(
    world: World, repo: Repo, server: SshServer, path: str
) -> None:
    hub = world.bare()
    url = f"ssh://{server.user}@127.0.0.1:{server.port}{hub.parent / path}"
    _pushed_and_cloned(world, repo, url, hub / "theta")
    local = world.clone(hub, "local")
    assert local.sha() == sha256(model(2)), "a store over SSH is a store on that machine"


def test_a_folder_over_ssh_keeps_the_objects_of_a_remote_of_another_kind(
    world: World, repo: Repo, server: SshServer
) -> None:
    hub, store = world.bare(), world.root / "some store"
    world.place().git("config", "--global", "theta.url", server.url(store).replace(" ", "%20"))
    _pushed_and_cloned(world, repo, f"file://{hub}", store)
    assert not (hub / "theta" / "objects").exists()


def test_without_a_repository_the_push_says_so(world: World, repo: Repo, server: SshServer) -> None:
    repo.commit(model(1))
    url = f"ssh://{server.user}@127.0.0.1:{server.port}{world.root}/nothing.git"
    assert "nothing.git" in repo.fails("push", "-q", url, "main")
