"""push: objects first, refs after; a push whose objects cannot arrive moves no ref."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.checkpoints import model
from tests.support.stores import object_file
from tests.support.world import Place, Repo, World, objects_in

M = "m.safetensors"
ZEROS = "0" * 40


@pytest.fixture
def hub(world: World, repo: Repo) -> Place:
    """A bare repository, `origin` of the other; nothing was pushed yet."""
    path = world.bare()
    repo.git("remote", "add", "origin", str(path))
    return Place(path, world.env)


def _refs(hub: Place) -> str:
    return hub.git("for-each-ref", "--format=%(refname)")


def _stored(hub: Place) -> list[str]:
    return [path.name for path in objects_in(hub.path / "theta")]


def _names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_objects_are_there_before_the_ref_moves(world: World, hub: Place, repo: Repo) -> None:
    """The remote's own hook sees them when the push arrives."""
    hook = hub.path / "hooks/pre-receive"
    hook.write_text('#!/bin/sh\nfind "$PWD/theta/objects" -type f >seen\n')
    hook.chmod(0o755)
    sha = repo.commit(model(1))
    repo.git("push", "-q", "origin", "main")
    seen = (hub.path / "seen").read_text().split()
    assert [os.path.basename(path) for path in seen] == _names(repo.objects())
    assert _stored(hub) == _names(repo.objects())
    assert world.clone(hub.path).sha() == sha


def test_only_what_the_remote_lacks_is_sent(hub: Place, repo: Repo) -> None:
    repo.commit(model(1))
    repo.git("push", "-q", "origin", "main")
    first = objects_in(hub.path / "theta")
    times = [path.stat().st_mtime_ns for path in first]
    repo.commit(model(2))
    repo.git("push", "-q", "origin", "main")
    assert len(objects_in(hub.path / "theta")) == len(first) + 1
    assert [path.stat().st_mtime_ns for path in first] == times


def test_a_missing_object_stops_the_push(hub: Place, repo: Repo) -> None:
    repo.commit(model(1))
    gone = repo.objects()[0]
    away = repo.path.parent / "away"
    shutil.move(gone, away)
    message = repo.fails("push", "origin", "main")
    assert gone.name in message
    assert "git theta fetch" in message
    assert (_refs(hub), _stored(hub)) == ("", [])
    shutil.move(away, gone)
    repo.git("push", "-q", "origin", "main")
    assert _refs(hub) == "refs/heads/main\n"


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flip", "truncate", "extend"])
def test_a_damaged_object_stops_the_push(hub: Place, repo: Repo, damage: str) -> None:
    repo.commit(model(1))
    file = repo.objects()[0]
    whole = file.read_bytes()
    spoilt = {"flip": whole[:99] + bytes([whole[99] ^ 1]) + whole[100:], "truncate": whole[:-1], "extend": whole + b"x"}
    file.unlink()
    file.write_bytes(spoilt[damage])
    message = repo.fails("push", "origin", "main")
    assert file.name in message
    assert (_refs(hub), _stored(hub)) == ("", [])
    assert not list((hub.path / "theta").rglob("tmp/*"))
    file.write_bytes(whole)
    repo.git("push", "-q", "origin", "main")


def test_a_remote_store_that_cannot_be_written_stops_the_push(hub: Place, repo: Repo) -> None:
    repo.commit(model(1))
    (hub.path / "theta").write_bytes(b"a file where the folder should be")
    message = repo.fails("push", "origin", "main")
    assert str(hub.path) in message
    assert _refs(hub) == ""
    (hub.path / "theta").unlink()
    repo.git("push", "-q", "origin", "main")
    repo.git("push", "-q", "origin", "main:again")
    assert _refs(hub) == "refs/heads/again\nrefs/heads/main\n"


@pytest.mark.slow
def test_a_new_branch_from_a_fresh_clone(world: World, hub: Place, repo: Repo) -> None:
    repo.commit(model(1))
    old = repo.commit(model(2))
    repo.git("push", "-q", "origin", "main")
    clone = world.clone(hub.path)
    clone.git("checkout", "-q", "-b", "feature")
    clone.git("push", "-q", "origin", "feature")
    sha = clone.commit(model(3))
    clone.git("push", "-q", "-u", "origin", "feature")
    assert world.clone(hub.path, "other", "-b", "feature").sha() == sha
    assert world.clone(hub.path, "another").sha() == old


def test_dry_run_sends_nothing_that_counts(hub: Place, repo: Repo) -> None:
    repo.commit(model(1))
    repo.git("push", "-q", "--dry-run", "origin", "main")
    assert _refs(hub) == ""


def test_a_push_of_nothing(hub: Place, repo: Repo) -> None:
    repo.commit(model(1))
    repo.git("push", "-q", "origin", "main")
    assert "Everything up-to-date" in repo.run("push", "origin", "main").stderr
    stored = _stored(hub)
    repo.git("push", "-q", "origin", "main:other")
    assert _stored(hub) == stored


@pytest.mark.slow
def test_tags_deletions_and_forced_pushes(world: World, hub: Place, repo: Repo) -> None:
    repo.commit(model(1))
    repo.git("push", "-q", "origin", "main")
    tagged = repo.commit(model(2))
    repo.git("tag", "-a", "v1", "-m", "one")
    repo.git("push", "-q", "origin", "v1")
    assert world.clone(hub.path, "tagged", "-b", "v1").sha() == tagged
    repo.git("reset", "-q", "--hard", "HEAD^")
    sha = repo.commit(model(3))
    repo.git("push", "-q", "--force", "origin", "main")
    assert world.clone(hub.path, "forced").sha() == sha
    repo.git("push", "-q", "origin", ":v1")
    repo.git("tag", "tree", "HEAD^{tree}")
    repo.git("tag", "blob", f"HEAD:{M}")
    repo.git("push", "-q", "origin", "tree", "blob")
    assert _refs(hub) == "refs/heads/main\nrefs/tags/blob\nrefs/tags/tree\n"
    repo.git("push", "-q", "--mirror", "origin")


def test_atomic_and_all(hub: Place, repo: Repo) -> None:
    repo.commit(model(1))
    repo.branch("side", model(2))
    repo.git("push", "-q", "--atomic", "--all", "origin")
    assert _stored(hub) == _names(repo.objects())
    hub.git("theta", "fsck", "--deep")


@pytest.mark.slow
@pytest.mark.parametrize("url", ["{}", "file://{}", "../hub.git", "../hub"])
def test_kinds_of_url(world: World, hub: Place, repo: Repo, url: str) -> None:
    repo.git("remote", "set-url", "origin", url.format(hub.path))
    sha = repo.commit(model(1))
    (repo.path / "sub").mkdir()
    Repo(repo.path / "sub", repo.env).git("push", "-q", "origin", "main")
    assert world.clone(hub.path).sha() == sha


@pytest.mark.everywhere
def test_push_to_a_url_without_a_remote(world: World, hub: Place, repo: Repo) -> None:
    repo.git("remote", "remove", "origin")
    sha = repo.commit(model(1))
    repo.git("push", "-q", str(hub.path), "main")
    assert world.clone(hub.path).sha() == sha


@pytest.mark.slow
def test_push_url_and_rewritten_urls(world: World, hub: Place, repo: Repo) -> None:
    repo.git("config", f"url.{hub.path.parent}/.insteadOf", "short:")
    repo.git("remote", "set-url", "origin", "short:nothing-here.git")
    repo.git("remote", "set-url", "--push", "origin", "short:hub.git")
    sha = repo.commit(model(1))
    repo.git("push", "-q", "origin", "main")
    assert world.clone(hub.path).sha() == sha


@pytest.mark.everywhere
def test_theta_url_names_another_store(world: World, hub: Place, repo: Repo) -> None:
    (world.root / "disk").mkdir()
    repo.git("config", "remote.origin.thetaUrl", str(world.root / "disk"))
    sha = repo.commit(model(1))
    repo.git("push", "-q", "origin", "main")
    assert _names(objects_in(world.root / "disk/theta")) == _names(repo.objects())
    assert _stored(hub) == []
    clone = world.clone(hub.path, "clone", "-c", f"remote.origin.thetaUrl={world.root}/disk")
    assert clone.sha() == sha


def test_a_url_that_nobody_can_serve(world: World, hub: Place, repo: Repo) -> None:
    """It matters only if there are checkpoints to send."""
    helper = world.root / "bin/git-remote-odd"
    helper.parent.mkdir()
    helper.write_text('#!/bin/sh\nexec git remote-ext "$1" "git %s ${2#odd://}"\n')
    helper.chmod(0o755)
    path = f"{helper.parent}{os.pathsep}{repo.env['PATH']}"
    repo.env = repo.env | {"PATH": path, "GIT_ALLOW_PROTOCOL": "odd:ext:file"}
    repo.git("remote", "set-url", "origin", f"odd://{hub.path}")
    repo.write("readme", b"no checkpoint yet")
    repo.git("add", ".")
    repo.git("commit", "-q", "-m", "readme")
    repo.git("push", "-q", "origin", "main")
    before = hub.git("rev-parse", "main")
    repo.commit(model(1))
    message = repo.fails("push", "origin", "main")
    assert f"odd://{hub.path}" in message
    assert "remote.origin.thetaUrl" in message
    assert hub.git("rev-parse", "main") == before


@pytest.mark.slow
@pytest.mark.everywhere
def test_what_an_earlier_push_left_out_is_sent_now(world: World, hub: Place, repo: Repo) -> None:
    sha = repo.commit(model(1))
    repo.git("push", "-q", "--no-verify", "origin", "main")
    assert _stored(hub) == []
    assert "git theta push" in world.place().fails("clone", "hub.git", "clone")
    repo.write("readme", b"more")
    repo.git("add", ".")
    repo.git("commit", "-q", "-m", "more")
    repo.git("push", "-q", "origin", "main")
    assert world.clone(hub.path, "other").sha() == sha


@pytest.mark.slow
def test_theta_push_sends_objects_alone(hub: Place, repo: Repo) -> None:
    repo.commit(model(1))
    repo.commit(model(2))
    assert "2 of 2" in repo.git("theta", "push", "origin", "HEAD")
    assert (_refs(hub), _stored(hub)) == ("", _names(repo.objects()))
    assert "0 of 2" in repo.git("theta", "push", "--all")


def test_a_partial_copy_on_the_remote_is_replaced(world: World, hub: Place, repo: Repo) -> None:
    """A damaged object there that is too short counts as missing."""
    sha = repo.commit(model(1))
    source = repo.objects()[0]
    target = object_file(hub.path / "theta", source.name)
    target.parent.mkdir(parents=True)
    target.write_bytes(source.read_bytes()[:50])
    repo.git("push", "-q", "origin", "main")
    assert target.read_bytes() == source.read_bytes()
    assert world.clone(hub.path).sha() == sha


@pytest.mark.slow
def test_permissions_follow_the_repository(world: World, repo: Repo) -> None:
    world.place().git("init", "-q", "--bare", "--shared=group", "hub.git")
    repo.git("remote", "add", "origin", "../hub.git")
    repo.commit(model(1))
    repo.git("push", "-q", "origin", "main")
    folder = objects_in(world.root / "hub.git/theta")[0].parent
    assert folder.stat().st_mode & 0o2770 == 0o2770


@pytest.mark.slow
def test_every_push_url_gets_everything(world: World, hub: Place, repo: Repo) -> None:
    """The remote-tracking branch moves after the first, and says nothing of the second."""
    other = world.bare("other.git")
    repo.git("config", "--add", "remote.origin.pushurl", str(hub.path))
    repo.git("config", "--add", "remote.origin.pushurl", str(other))
    shas = [repo.commit(model(seed)) for seed in (1, 2)]
    repo.git("push", "-q", "origin", "main")
    clone = world.clone(other, "clone")
    assert clone.sha() == shas[1]
    clone.git("checkout", "-q", "HEAD~1")
    assert clone.sha() == shas[0]


@pytest.mark.slow
def test_a_remote_that_moved_gets_the_whole_history(world: World, hub: Place, repo: Repo) -> None:
    shas = [repo.commit(model(seed)) for seed in (1, 2)]
    repo.git("push", "-q", "origin", "main")
    repo.git("remote", "set-url", "origin", str(world.bare("other.git")))
    repo.git("push", "-q", "origin", "main")
    clone = world.clone(world.root / "other.git", "clone")
    clone.git("checkout", "-q", "HEAD~1")
    assert clone.sha() == shas[0]


@pytest.mark.slow
def test_a_revision_with_spaces_can_be_pushed(world: World, hub: Place, repo: Repo) -> None:
    sha = repo.commit(model(1))
    repo.git("push", "-q", "origin", "HEAD@{0 days ago}:refs/heads/main")
    assert world.clone(hub.path).sha() == sha


@pytest.mark.slow
def test_a_damaged_copy_on_one_remote_is_got_from_another(world: World, hub: Place, repo: Repo) -> None:
    sha = repo.commit(model(1))
    repo.git("push", "-q", "origin", "main")
    repo.git("push", "-q", str(world.bare("other.git")), "main")
    for damaged in objects_in(hub.path / "theta"):
        content = bytearray(damaged.read_bytes())
        content[-1] ^= 1
        damaged.unlink()
        damaged.write_bytes(content)
    clone = world.clone(hub.path, "clone", "--no-checkout")
    clone.git("remote", "add", "other", str(world.root / "other.git"))
    clone.git("checkout", "-q", "main")
    assert clone.sha() == sha
    clone.healthy()
