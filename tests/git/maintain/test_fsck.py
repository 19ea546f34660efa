"""fsck finds what is damaged or missing, here and at a remote, and mends it from whole copies."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checkpoints import model
from tests.support.stores import object_file
from tests.support.world import Place, Repo, World, objects_in

M = "m.safetensors"


@pytest.fixture
def hub(world: World, repo: Repo) -> Place:
    """A hub with two versions, which `repo` has, too."""
    repo.git("remote", "add", "origin", str(world.bare()))
    repo.commit(model(1))
    repo.commit(model(2))
    repo.git("push", "-q", "origin", "main")
    return Place(world.root / "hub.git", world.env)


def _flip(file: Path) -> str:
    """Damage an object without changing its length; returns its name."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.unlink()
    file.write_bytes(content)
    return file.name


def test_a_damaged_hub_is_noticed_and_mended(world: World, hub: Place, repo: Repo) -> None:
    assert "2 objects, 0 problems" in repo.git("theta", "fsck", "--remote", "origin")
    names = [_flip(file) for file in objects_in(hub.path / "theta")]
    done = world.place().attempt("git", "clone", "-q", "hub.git", "clone")
    assert done.returncode != 0
    assert "git theta fsck --remote origin --repair" in done.stderr
    message = repo.fails("theta", "fsck", "--remote", "origin", status=22)
    assert all(name in message for name in names)
    assert "git theta fsck --remote origin --repair" in message
    assert "2 objects mended" in repo.git("theta", "fsck", "--remote", "origin", "--repair")
    repo.git("theta", "fsck", "--remote", "origin")
    hub.git("theta", "fsck", "--deep")
    assert world.clone(hub.path, "whole").sha() == repo.sha()


@pytest.mark.slow
def test_what_a_branch_of_the_hub_needs_and_lacks_is_sent(hub: Place, repo: Repo) -> None:
    lost = objects_in(hub.path / "theta")[0]
    lost.unlink()
    repo.branch("mine", model(3))
    message = repo.fails("theta", "fsck", "--remote", "origin", status=21)
    assert lost.name in message
    assert M in message
    repo.git("theta", "fsck", "--remote", "origin", "--repair")
    assert lost.is_file()
    assert len(objects_in(hub.path / "theta")) == 2  # what only a branch here needs is for a push to send


@pytest.mark.slow
def test_a_hub_is_mended_from_a_third_place(world: World, hub: Place, repo: Repo) -> None:
    """This clone has a damaged copy itself; another remote has a whole one."""
    repo.git("remote", "add", "backup", str(world.bare("backup.git")))
    repo.git("theta", "push", "--all", "backup")
    name = _flip(objects_in(hub.path / "theta")[0])
    _flip(object_file(repo.store, name))
    repo.git("theta", "fsck", "--remote", "origin", "--repair")
    repo.git("theta", "fsck", "--remote", "origin")
    repo.healthy()


@pytest.mark.slow
def test_where_there_is_no_whole_copy_it_stays_a_problem(hub: Place, repo: Repo) -> None:
    name = _flip(objects_in(hub.path / "theta")[0])
    _flip(object_file(repo.store, name))
    assert name in repo.fails("theta", "fsck", "--remote", "origin", "--repair", status=22)
    assert name in repo.fails("theta", "fsck", "--repair", status=22)


@pytest.mark.slow
def test_objects_here_are_mended_from_a_remote(hub: Place, repo: Repo) -> None:
    damaged, lost = repo.objects()
    _flip(damaged)
    lost.unlink()
    assert damaged.name in repo.fails("theta", "fsck", status=22)
    assert "2 objects mended" in repo.git("theta", "fsck", "--repair")
    repo.healthy()
    hub.git("theta", "fsck", "--deep")


def test_a_remote_that_is_not_there_is_an_error(repo: Repo) -> None:
    repo.commit(model(1))
    assert "../nowhere" in repo.fails("theta", "fsck", "--remote", "../nowhere", status=30)
    assert "--deep" in repo.fails("theta", "fsck", "--remote", "origin", "--deep", status=2)
