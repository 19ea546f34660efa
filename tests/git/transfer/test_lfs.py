"""Objects on the LFS server of a forge: plain push, clone and checkout over HTTP, with passwords by Git's helpers."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkpoints import model, sha256
from tests.support.forge import PASSWORD, USER, Forge, forge
from tests.support.stores import object_files
from tests.support.world import Place, Repo, World

REF = "refs/theta/pointers"


def _repository(world: World, place: Forge) -> Repo:
    hub = Place(world.bare(f"{place.folder.name}/hub.git"), world.env)
    hub.git("config", "http.receivepack", "true")
    repo = world.repo()
    repo.git("remote", "add", "origin", place.url())
    return repo


def _folder(world: World) -> Path:
    folder = world.root / "forge"
    folder.mkdir()
    return folder


@pytest.fixture
def place(world: World) -> Iterator[Forge]:
    with forge(_folder(world)) as place:
        yield place


@pytest.fixture
def repo(world: World, place: Forge) -> Repo:
    return _repository(world, place)


def _listed(repo: Repo, place: Forge) -> set[str]:
    hub = Place(place.folder / "hub.git", repo.env)
    return {path.rpartition("/")[2] for path in hub.git("ls-tree", "-r", "--name-only", REF).splitlines()}


def test_push_and_clone(world: World, repo: Repo, place: Forge) -> None:
    for seed in range(3):
        repo.commit(model(seed))
    repo.git("push", "-q", "origin", "main")
    names = {path.name for path in repo.objects()}
    assert {path.name for path in object_files(place.folder / "lfs")} == names
    assert place.requests["PUT lfs"] == len(names)
    assert _listed(repo, place) == names
    clone = world.clone(place.url())
    for seed in range(3):
        clone.git("checkout", "-q", f"origin/main~{2 - seed}")
        assert clone.sha() == sha256(model(seed))
    clone.healthy()
    place.requests.clear()
    repo.git("push", "-q", "origin", "main")
    assert not place.requests["POST batch"], "nothing new, nothing asked"


def test_pointers_are_only_added_to(world: World, repo: Repo, place: Forge) -> None:
    repo.commit(model(1))
    repo.git("push", "-q", "origin", "main")
    clone = world.clone(place.url())
    clone.branch("side", model(2), "origin/main")
    clone.git("push", "-q", "origin", "side")
    repo.commit(model(3))
    repo.git("push", "-q", "origin", "main")
    assert _listed(repo, place) == {path.name for path in object_files(place.folder / "lfs")}
    hub = Place(place.folder / "hub.git", world.env)
    hub.git("update-ref", "-d", REF)
    repo.commit(model(4))
    repo.git("push", "-q", "origin", "main")
    assert {path.name for path in repo.objects()} <= _listed(repo, place), "what a mirror has deleted comes back"


def test_a_remote_that_refuses_the_ref_gets_the_models_all_the_same(world: World, repo: Repo, place: Forge) -> None:
    hook = place.folder / "hub.git" / "hooks" / "update"
    hook.write_text('#!/bin/sh\ncase $1 in refs/heads/*) exit 0 ;; *) echo "only branches here"; exit 1 ;; esac\n')
    hook.chmod(0o755)
    repo.commit(model(1))
    said = repo.run("push", "-q", "origin", "main").stderr
    assert f"does not take the ref {REF}" in said
    assert world.clone(place.url()).sha() == sha256(model(1))
    repo.git("config", "theta.pointersRef", "refs/heads/theta-pointers")
    repo.commit(model(2))
    assert repo.run("push", "-q", "origin", "main").stderr == ""


def test_a_server_that_wants_a_password_gets_it_from_the_helper_and_nobody_else_sees_it(world: World) -> None:
    with forge(_folder(world), password=True) as place:
        repo = _repository(world, place)
        helper = world.root / "helper"
        helper.write_text(f'#!/bin/sh\ntest "$1" = get && printf "username={USER}\\npassword={PASSWORD}\\n"\nexit 0\n')
        helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
        repo.commit(model(1))
        said = repo.fails("push", "-q", "origin", "main")
        assert PASSWORD not in said
        world.place().git("config", "--global", "credential.helper", str(helper))
        done = repo.attempt("git", "push", "origin", "main", env={"GITTHETA_TRACE": "1"})
        assert done.returncode == 0, done.stderr
        assert PASSWORD not in done.stdout + done.stderr
        assert world.clone(place.url()).sha() == sha256(model(1))
        bare = place.url().replace("http://", f"http://{USER}@")
        assert world.clone(bare, "named").sha() == sha256(model(1))


def test_a_forge_without_an_lfs_server_moves_no_ref(world: World, repo: Repo, place: Forge) -> None:
    repo.git("config", "lfs.url", f"http://127.0.0.1:{place.port}/nothing")
    repo.commit(model(1))
    said = repo.fails("push", "-q", "origin", "main")
    assert f"127.0.0.1:{place.port}/nothing" in said
    assert repo.git("ls-remote", "origin") == ""


def test_a_committed_file_does_not_send_objects_elsewhere(world: World, repo: Repo, place: Forge) -> None:
    repo.write(".lfsconfig", b"[lfs]\n\turl = http://evil.example/lfs\n")
    repo.git("add", ".lfsconfig")
    repo.commit(model(1))
    repo.git("push", "-q", "origin", "main")
    assert place.requests["PUT lfs"]
