"""A store that the repository names in its theta.toml: never used unasked."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.checkpoints import model
from tests.support.world import Place, Repo, World, objects_in

pty = pytest.importorskip("pty")


def propose(repo: Repo, store: Path) -> None:
    store.mkdir()
    repo.write("theta.toml", f'[store]\nurl = "file://{store}"\n\n[[rule]]\nmethod = "linear"\n'.encode())
    repo.git("add", "theta.toml")
    repo.git("commit", "-q", "-m", "where models are")


@pytest.fixture
def shared(world: World) -> str:
    """A hub without objects, whose repository names the folder that has them."""
    repo = world.repo()
    repo.git("remote", "add", "origin", str(world.bare()))
    repo.git("config", "remote.origin.thetaUrl", str(world.root / "store"))
    propose(repo, world.root / "store")
    sha = repo.commit(model(1))
    repo.git("push", "-q", "origin", "main")
    assert objects_in(world.root / "store/theta")
    return sha


def on_a_terminal(repo: Repo, answer: bytes, *words: str) -> str:
    """What a command says to somebody who types an answer."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["git", *words], cwd=repo.path, env=repo.env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    os.write(ours, answer)
    said = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the other end has gone
            break
        if not piece:
            break
        said += piece
    process.wait(60)
    os.close(ours)
    assert b"Traceback" not in said
    return said.decode()


def is_manifest(repo: Repo) -> bool:
    return repo.read().startswith(b"gittheta")


def test_nothing_is_asked_of_it_until_its_user_agrees(world: World, shared: str) -> None:
    place = Place(world.root, world.env)
    said = place.run("clone", "-q", "hub.git", "clone").stderr
    repo = Repo(world.root / "clone", world.env)
    store = world.root / "store"
    assert said.count(f"file://{store}") == 2  # the URL, and the command that takes it
    assert said.count("models are left as manifests") == 1
    assert is_manifest(repo)
    assert repo.status() == ""
    assert f"git config remote.origin.thetaUrl file://{store}" in repo.fails("theta", "pull")
    assert is_manifest(repo)
    assert f"file://{store}" in on_a_terminal(repo, b"n\n", "theta", "pull")
    assert is_manifest(repo)
    on_a_terminal(repo, b"y\n", "theta", "pull")
    assert repo.sha() == shared
    assert repo.status() == ""
    repo.commit(model(2))
    repo.git("push", "-q", "origin", "main")
    assert {path.name for path in repo.objects()} <= {path.name for path in objects_in(store / "theta")}


def test_another_url_is_asked_about_again(world: World, shared: str) -> None:
    world.place().git("clone", "-q", "hub.git", "clone")
    repo = Repo(world.root / "clone", world.env)
    on_a_terminal(repo, b"y\n", "theta", "pull")
    author = Repo(world.root / "repo", world.env)
    author.git("config", "remote.origin.thetaUrl", str(world.root / "other"))
    propose(author, world.root / "other")
    sha = author.commit(model(3))
    author.git("push", "-q", "origin", "main")
    assert "models are left as manifests" in repo.run("pull", "-q").stderr
    assert is_manifest(repo)
    assert "other" in on_a_terminal(repo, b"y\n", "theta", "pull")
    assert repo.sha() == sha


def test_who_has_chosen_a_place_is_not_asked(world: World, shared: str) -> None:
    (world.root / "elsewhere").mkdir()
    elsewhere = f"remote.origin.thetaUrl={world.root / 'elsewhere'}"
    said = world.place().fails("clone", "-q", "-c", elsewhere, "hub.git", "clone")
    assert "theta.toml" not in said
    assert "does not have it" in said


def test_a_table_that_makes_no_sense_proposes_nothing(world: World, repo: Repo) -> None:
    repo.git("remote", "add", "origin", str(world.bare()))
    repo.write("theta.toml", b'[store]\nurl = "--upload-pack=x"\n')
    repo.git("add", "theta.toml")
    repo.commit(model(1))
    repo.git("push", "-q", "--no-verify", "origin", "main")
    assert "theta.toml" not in world.place().fails("clone", "-q", "hub.git", "clone")
