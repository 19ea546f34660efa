"""What is not here: a push fetches it from elsewhere, sends what there is, and says what is nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checkpoints import model
from tests.support.stores import object_file
from tests.support.world import Place, Repo, World, objects_in

M = "m.safetensors"


def _names(store: Path) -> set[str]:
    return {path.name for path in objects_in(store)}


def _spoil(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.unlink()
    file.write_bytes(content)


@pytest.fixture
def hub(world: World, repo: Repo) -> Place:
    """A hub with two versions on main and one on side; `repo` has them, too."""
    repo.git("remote", "add", "origin", str(world.bare()))
    repo.commit(model(1))
    repo.commit(model(2))
    repo.branch("side", model(3))
    repo.git("checkout", "-q", "main")
    repo.git("push", "-q", "origin", "main", "side")
    return Place(world.root / "hub.git", world.env)


@pytest.mark.slow
def test_a_push_to_a_second_remote_fetches_from_the_first_what_is_not_here(world: World, hub: Place) -> None:
    clone = world.clone(hub.path)
    two = world.bare("two.git")
    clone.git("remote", "add", "two", str(two))
    clone.git("push", "-q", "two", "origin/side:refs/heads/side", "main")
    assert _names(two / "theta") == _names(hub.path / "theta")
    three = world.bare("three.git")
    again = world.clone(hub.path, "again")
    assert again.git("theta", "push", "--all", str(three)).startswith("3 of 3 objects (")
    assert _names(three / "theta") == _names(hub.path / "theta")


@pytest.mark.slow
def test_theta_push_sends_what_there_is_and_lists_the_rest(world: World, hub: Place, repo: Repo) -> None:
    gone = {object_id: object_file(repo.store, object_id) for object_id in _names(repo.store)}
    first = next(iter(sorted(gone)))
    gone[first].unlink()
    repo.git("remote", "remove", "origin")
    two = world.bare("two.git")
    repo.git("remote", "add", "two", str(two))
    message = repo.fails("theta", "push", "--all", "two", status=21)
    assert first in message
    assert M in message
    assert "git theta fetch --all" in message
    assert _names(two / "theta") == gone.keys() - {first}
    assert first in repo.fails("push", "two", "main", "side")
    assert world.place("two.git").git("for-each-ref") == ""


@pytest.mark.slow
def test_a_damaged_object_does_not_keep_the_others_back(world: World, hub: Place, repo: Repo) -> None:
    files = repo.objects()
    _spoil(files[0])
    two = world.bare("two.git")
    repo.git("remote", "add", "two", str(two))
    repo.git("theta", "push", "--all", "two")  # the hub has a whole copy
    assert _names(two / "theta") == _names(hub.path / "theta")
    _spoil(repo.objects()[0])
    repo.git("remote", "remove", "origin")
    repo.git("remote", "remove", "two")
    three = world.bare("three.git")
    assert files[0].name in repo.fails("theta", "push", "--all", str(three), status=22)
    assert _names(three / "theta") == {file.name for file in files[1:]}


@pytest.mark.slow
def test_every_push_url_of_a_remote_is_sent_to(world: World, hub: Place, repo: Repo) -> None:
    places = [world.bare("two.git"), world.bare("three.git")]
    for place in places:
        repo.git("config", "--add", "remote.origin.pushurl", str(place))
    repo.git("theta", "push", "--all", "origin")
    assert [_names(place / "theta") for place in places] == [_names(repo.store)] * 2


def test_history_that_replacements_hide_is_sent_whole(world: World, repo: Repo) -> None:
    """Git sends what is stored, so its models are sent too, from wherever they are."""
    repo.git("remote", "add", "origin", str(world.bare()))
    shas = [repo.commit(model(seed)) for seed in range(4)]
    repo.git("replace", "--graft", "HEAD", "HEAD~3")
    repo.git("push", "-q", "origin", "main")
    clone = world.clone(world.root / "hub.git")
    for back, sha in enumerate(reversed(shas)):
        clone.git("checkout", "-q", f"main~{back}")
        assert clone.sha() == sha


@pytest.mark.slow
def test_what_is_pulled_from_a_url_brings_its_models(world: World, repo: Repo) -> None:
    repo.commit(model(1))
    sha = repo.commit(model(2))
    taker = world.repo("taker", attributes="")
    taker.git("commit", "-q", "--allow-empty", "-m", "start")
    taker.git("pull", "-q", "--no-rebase", "--allow-unrelated-histories", "../repo", "main")
    assert taker.sha() == sha
    taker.git("theta", "fetch", "--all")
    taker.healthy()
    two = world.bare("two.git")
    other = world.repo("other", attributes="")
    other.git("fetch", "-q", f"file://{repo.path}", "main:theirs")
    other.git("checkout", "-q", "theirs")
    other.git("push", "-q", str(two), "theirs")
    assert _names(two / "theta") == _names(repo.store)


def test_where_nobody_has_it_the_ways_are_told(world: World, repo: Repo) -> None:
    repo.commit(model(1))
    repo.git("bundle", "create", "-q", "../all.bundle", "main")
    taker = world.repo("taker", attributes="")
    message = taker.fails("pull", "-q", "../all.bundle", "main")
    assert "git remote add" in message
    assert "thetaUrl" in message
