"""Pushes that leave the objects behind: the next command of gittheta in that clone names them, once."""

from __future__ import annotations

from pathlib import Path

import pytest

from gittheta.flows.transfer.unpushed import unsent_branches
from gittheta.flows.workspace import Workspace
from tests.support.checkpoints import model
from tests.support.world import Repo, World

WORD = "lacks"


@pytest.fixture
def repo(world: World) -> Repo:
    """A clone whose first version was pushed as it should be."""
    hub, repo = world.bare(), world.repo()
    repo.git("remote", "add", "origin", str(hub))
    repo.commit(model(1))
    repo.git("push", "-q", "origin", "main")
    return repo


def _add(repo: Repo, seed: int) -> str:
    """What an add says of pushes."""
    repo.write("m.safetensors", model(seed))
    message = repo.run("add", ".").stderr
    return "\n".join(line for line in message.splitlines() if WORD in line)


def test_a_push_that_went_as_it_should_is_not_mentioned(repo: Repo) -> None:
    assert _add(repo, 2) == ""
    assert WORD not in repo.run("theta", "fetch").stderr


def test_a_push_without_the_hook_is_named_once_with_what_to_type(repo: Repo) -> None:
    repo.commit(model(2))
    repo.git("push", "-q", "--no-verify", "origin", "main")
    line = _add(repo, 3)
    assert "origin lacks 1 object of the models on its branch main: git theta push origin main" in line
    assert _add(repo, 4) == ""
    assert "1 of " in repo.git("theta", "push", "origin", "main")
    assert _add(repo, 5) == ""


@pytest.mark.slow
def test_a_branch_that_has_another_name_here_is_named_so_that_it_is_found(repo: Repo) -> None:
    repo.commit(model(2))
    repo.git("push", "-q", "--no-verify", "origin", "HEAD:refs/heads/theirs")
    line = repo.run("theta", "fetch").stderr
    command = line.strip().rpartition(": git ")[2].split(" ")
    assert command == ["theta", "push", "origin", "origin/theirs"]
    assert "1 of " in repo.git(*command)
    assert WORD not in repo.run("theta", "fetch").stderr


@pytest.mark.slow
def test_hooks_that_are_switched_off_are_noticed_too(repo: Repo) -> None:
    repo.commit(model(2))
    repo.git("-c", "core.hooksPath=/dev/null", "push", "-q", "--no-verify", "origin", "main", "main:b")
    assert _add(repo, 3).count(WORD) == 2


@pytest.mark.slow
def test_several_pushes_are_one_line_with_all_that_is_missing(repo: Repo) -> None:
    for seed in (2, 3):
        repo.commit(model(seed))
        repo.git("push", "-q", "--no-verify", "origin", "main")
    assert "lacks 2 objects" in _add(repo, 4)


@pytest.mark.slow
def test_what_was_only_fetched_is_not_asked_about(repo: Repo, world: World) -> None:
    """It may be missing as well, but whoever pushed it is told."""
    other = world.clone(world.root / "hub.git", "other")
    other.commit(model(5))
    other.git("push", "-q", "--no-verify", "origin", "main:topic")
    repo.git("fetch", "-q")
    assert _add(repo, 2) == ""
    assert WORD in _add(other, 6)


@pytest.mark.slow
def test_a_push_before_a_fetch_is_not_forgotten(repo: Repo, world: World) -> None:
    repo.commit(model(2))
    repo.git("push", "-q", "--no-verify", "origin", "main")
    other = world.clone(world.root / "hub.git", "other", "-n")
    new = other.git("commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "on top").strip()
    other.git("push", "-q", "--no-verify", "origin", f"{new}:refs/heads/main")
    repo.git("fetch", "-q")
    assert "lacks 1 object" in _add(repo, 3)


@pytest.mark.slow
def test_a_remote_is_asked_once_for_each_move(repo: Repo) -> None:
    """One that cannot be asked does not hold up each later command."""
    repo.commit(model(2))
    repo.git("push", "-q", "--no-verify", "origin", "main")
    repo.git("remote", "set-url", "origin", "https://127.0.0.1:9/nowhere")
    assert _add(repo, 3) == ""
    entries = (repo.store / "pushed").read_text().splitlines()
    assert _add(repo, 4) == ""
    assert (repo.store / "pushed").read_text().splitlines() == entries


@pytest.mark.slow
def test_a_clone_takes_what_it_begins_with_for_sent(repo: Repo, world: World) -> None:
    repo.commit(model(2))
    repo.git("push", "-q", "--no-verify", "origin", "main")
    clone = world.clone(world.root / "hub.git", "fresh", "-n")
    clone.git("reset", "-q", "--hard", "HEAD^")
    assert _add(clone, 3) == ""


@pytest.mark.slow
def test_what_waits_can_be_asked_for(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    repo.commit(model(2))
    repo.git("push", "-q", "--no-verify", "origin", "main")
    monkeypatch.setenv("HOME", repo.env["HOME"])
    for _ in range(2):
        with Workspace.open(repo.path) as workspace:
            assert [(each.remote, each.branch, each.count) for each in unsent_branches(workspace)] == [
                ("origin", "main", 1)
            ]
    repo.git("theta", "push", "--all")
    with Workspace.open(repo.path) as workspace:
        assert unsent_branches(workspace) == []


@pytest.mark.slow
def test_status_names_it_as_long_as_it_waits(repo: Repo) -> None:
    repo.commit(model(2))
    repo.git("push", "-q", "--no-verify", "origin", "main")
    for _ in range(2):
        assert "lacks 1 object" in repo.run("theta", "status").stderr
    repo.git("theta", "push", "origin", "main")
    assert WORD not in repo.run("theta", "status").stderr


@pytest.mark.slow
def test_a_damaged_list_stops_nobody(repo: Repo) -> None:
    (repo.store / "pushed").write_bytes(b"\xff\x00\tx\n\n\t\t\t\t")
    assert _add(repo, 2) == ""
    (repo.store / "pushed").unlink()
    (repo.store / "pushed").mkdir()
    assert _add(repo, 3) == ""
    assert Path(repo.store / "pushed").is_dir()
