"""Clones of every kind, submodules, fetch and pull, over plain paths and file:// URLs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.checkpoints import model
from tests.support.world import Place, Repo, Template, World, objects_in

M = "m.safetensors"
URLS = {"plain": "{}", "file": "file://{}"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, installed_home: Path) -> Template:
    """`hub.git` with three commits on main and one on side, and the `repo` that they were pushed from."""
    world = World(tmp_path_factory.mktemp("hub"), installed_home)
    repo = world.repo()
    world.bare()
    repo.git("remote", "add", "origin", "../hub.git")
    shas = {f"main~{2 - seed}": repo.commit(model(seed)) for seed in (0, 1, 2)}
    shas["side"] = repo.branch("side", model(9), "main~1")
    repo.git("checkout", "-q", "main")
    repo.git("push", "-q", "origin", "main", "side")
    return Template(world.root, shas)


@pytest.fixture
def hub(world: World, built: Template) -> dict[str, str]:
    """The same in this test's world."""
    built.copy_to(world)
    return built.shas


@pytest.fixture
def repo(world: World, hub: dict[str, str]) -> Repo:
    """The repository that the hub was filled from."""
    return Repo(world.root / "repo", world.env)


def _whole(clone: Repo, shas: dict[str, str]) -> None:
    for revision, sha in shas.items():
        clone.git("checkout", "-q", "--detach", revision.replace("side", "origin/side"))
        assert clone.sha() == sha, revision
        assert clone.status() == ""
    clone.git("checkout", "-q", "main")


@pytest.mark.parametrize("kind", [pytest.param("plain", marks=pytest.mark.slow), "file"])
def test_clone_gives_every_version(world: World, hub: dict[str, str], kind: str) -> None:
    clone = world.clone(URLS[kind].format(world.root / "hub.git"))
    assert (clone.sha(), clone.status()) == (hub["main~0"], "")
    tip = len(clone.objects())
    assert 0 < tip < len(objects_in(world.root / "hub.git/theta"))
    _whole(clone, hub)
    clone.healthy()


@pytest.mark.slow
def test_a_clone_of_a_working_repository(world: World, hub: dict[str, str], repo: Repo) -> None:
    clone = world.clone(repo.path)
    _whole(clone, {key: sha for key, sha in hub.items() if key != "side"})


@pytest.mark.slow
def test_relative_path_and_name_without_git(world: World, hub: dict[str, str]) -> None:
    world.place().git("clone", "-q", "./hub", "relative")
    clone = Repo(world.root / "relative", world.env)
    clone.git("remote", "set-url", "origin", "../hub")
    _whole(clone, hub)
    (clone.path / "sub").mkdir()
    below = Repo(clone.path / "sub", clone.env)
    below.git("checkout", "-q", "--detach", "origin/side")
    assert clone.sha() == hub["side"]


@pytest.mark.slow
def test_url_with_escaped_characters(world: World, hub: dict[str, str]) -> None:
    (world.root / "hub.git").rename(world.root / "größe hub.git")
    url = f"file://{world.root}/größe hub.git".replace(" ", "%20")
    clone = world.clone(url)
    _whole(clone, hub)


def test_no_checkout_then_checkout(world: World, hub: dict[str, str]) -> None:
    clone = world.clone(world.root / "hub.git", "clone", "--no-checkout")
    assert clone.objects() == []
    clone.git("checkout", "-q", "main")
    assert (clone.sha(), clone.status()) == (hub["main~0"], "")


@pytest.mark.slow
def test_shallow_clone(world: World, hub: dict[str, str]) -> None:
    clone = world.clone(f"file://{world.root}/hub.git", "clone", "--depth", "1")
    assert clone.sha() == hub["main~0"]
    clone.healthy()
    sha = clone.commit(model(20))
    clone.git("push", "-q", "origin", "main")
    clone.git("fetch", "-q", "--unshallow")
    clone.git("checkout", "-q", "main~3")
    assert clone.sha() == hub["main~2"]
    assert world.clone(world.root / "hub.git", "other").sha() == sha


def test_partial_clone(world: World, hub: dict[str, str]) -> None:
    Place(world.root / "hub.git", world.env).git("config", "uploadpack.allowFilter", "true")
    clone = world.clone(f"file://{world.root}/hub.git", "clone", "--filter=blob:none")
    _whole(clone, hub)
    clone.git("branch", "-q", "--track", "side", "origin/side")
    sha = clone.commit(model(20))
    clone.git("push", "-q", "origin", "main")
    assert world.clone(world.root / "hub.git", "other").sha() == sha
    clone.healthy()


@pytest.mark.slow
def test_shared_clone_borrows_objects(world: World, hub: dict[str, str], repo: Repo) -> None:
    clone = world.clone(repo.path, "clone", "--shared")
    _whole(clone, {key: sha for key, sha in hub.items() if key != "side"})
    assert clone.objects() == []
    sha = clone.commit(model(20))
    assert len(clone.objects()) == 1
    again = world.clone(clone.path, "again", "--shared")
    assert again.sha() == sha
    assert again.objects() == []
    again.healthy()
    clone.healthy()


@pytest.mark.slow
def test_reference_clone(world: World, hub: dict[str, str], repo: Repo) -> None:
    clone = world.clone(world.root / "hub.git", "clone", "--reference", str(repo.path))
    _whole(clone, hub)
    assert clone.objects() == []


@pytest.mark.everywhere
def test_mirror_and_bare_clones_hold_no_work_tree(world: World, hub: dict[str, str]) -> None:
    world.place().git("clone", "-q", "--mirror", "hub.git", "mirror.git")
    mirror = Place(world.root / "mirror.git", world.env)
    mirror.git("theta", "fetch", "--all")
    mirror.git("theta", "fsck", "--deep")
    clone = world.clone(mirror.path)
    assert clone.sha() == hub["main~0"]


@pytest.mark.everywhere
def test_fetch_and_pull(world: World, hub: dict[str, str], repo: Repo) -> None:
    clone = world.clone(world.root / "hub.git")
    sha = repo.commit(model(20))
    repo.git("push", "-q", "origin", "main")
    clone.git("fetch", "-q")
    assert clone.sha() == hub["main~0"]
    clone.git("pull", "-q", "--ff-only")
    assert (clone.sha(), clone.status()) == (sha, "")
    mine = clone.commit(model(21), "mine.safetensors")
    theirs = repo.commit(model(22))
    repo.git("push", "-q", "origin", "main")
    clone.git("pull", "-q", "--no-rebase", "--no-edit")
    assert (clone.sha(), clone.sha("mine.safetensors")) == (theirs, mine)
    assert clone.status() == ""
    theirs = repo.commit(model(23))
    repo.git("push", "-q", "-f", "origin", "main")
    clone.git("pull", "-q", "--rebase")
    assert (clone.sha(), clone.sha("mine.safetensors")) == (theirs, mine)
    clone.git("theta", "fetch", "--all")
    clone.healthy()


@pytest.mark.slow
def test_theta_fetch_gets_all_objects_for_working_offline(world: World, hub: dict[str, str]) -> None:
    clone = world.clone(world.root / "hub.git")
    clone.git("theta", "fetch", "--all")
    (world.root / "hub.git").rename(world.root / "gone")
    _whole(clone, hub)
    clone.healthy()


def test_a_clone_without_gittheta_can_be_put_in_place_later(world: World, hub: dict[str, str]) -> None:
    (world.home / ".gitconfig").rename(world.home / "later")
    (world.home / ".gitconfig").write_text("[user]\n\tname = T\n\temail = t@example.com\n")
    clone = world.clone(world.root / "hub.git")
    assert clone.read().startswith(b"gittheta manifest 1: ")
    assert b"git theta pull" in clone.read()
    (world.home / "later").replace(world.home / ".gitconfig")
    assert clone.git("theta", "pull").splitlines() == [M]
    assert (clone.sha(), clone.status()) == (hub["main~0"], "")


@pytest.mark.slow
def test_fsck_of_a_fresh_clone_tells_what_it_lacks(world: World, hub: dict[str, str]) -> None:
    """A clone fetches what its checkout needs; what the remote still has is not lost, but what nobody has is."""
    clone = world.clone(world.root / "hub.git")
    report = clone.git("theta", "fsck")
    hint = re.search("git (theta fetch.*)", report)
    assert hint, report
    (world.root / "hub.git").rename(world.root / "gone")
    assert "git theta " in clone.fails("theta", "fsck", status=21)
    (world.root / "gone").rename(world.root / "hub.git")
    clone.git(*hint[1].split())
    clone.healthy()
    assert "fetch" not in clone.git("theta", "fsck")


@pytest.mark.slow
def test_submodule(world: World, hub: dict[str, str]) -> None:
    allow = ("-c", "protocol.file.allow=always")
    above = world.repo("above", attributes="")
    above.git(*allow, "submodule", "--quiet", "add", str(world.root / "hub.git"), "models")
    above.git("commit", "-q", "-m", "with models")
    inner = Repo(above.path / "models", world.env)
    assert (inner.sha(), inner.store) == (hub["main~0"], above.path / ".git/modules/models/theta")
    assert above.status() == ""
    clone = world.clone(above.path, "clone", "--no-local")
    clone.git(*allow, "submodule", "--quiet", "update", "--init")
    inner = Repo(clone.path / "models", world.env)
    assert inner.sha() == hub["main~0"]
    inner.git("checkout", "-q", "main~1")
    assert inner.sha() == hub["main~1"]
    assert clone.status() == " M models\n"
    clone.git(*allow, "submodule", "--quiet", "update")
    assert inner.sha() == hub["main~0"]
    inner.git("theta", "fetch", "--all")
    inner.healthy()
    world.place().git(*allow, "clone", "-q", "--recurse-submodules", str(above.path), "whole")
    assert Repo(world.root / "whole/models", world.env).sha() == hub["main~0"]


@pytest.mark.slow
def test_sparse_checkout(world: World, hub: dict[str, str]) -> None:
    writer = world.clone(world.root / "hub.git")
    sha = writer.commit(model(30), "far/m.safetensors")
    writer.git("push", "-q", "origin", "main")
    sparse = world.clone(world.root / "hub.git", "sparse", "--sparse")
    assert not (sparse.path / "far").exists()
    sparse.git("sparse-checkout", "set", "far")
    assert (sparse.sha("far/m.safetensors"), sparse.status()) == (sha, "")
    sparse.git("sparse-checkout", "disable")
    sparse.git("theta", "fetch", "--all")
    sparse.healthy()


def test_bundle(world: World, hub: dict[str, str], repo: Repo) -> None:
    """A bundle carries manifests alone; the objects come from a named store."""
    repo.git("bundle", "create", "-q", "../all.bundle", "main")
    clone = world.clone("all.bundle", "clone", "--no-checkout", "-b", "main")
    clone.git("config", "remote.origin.thetaUrl", str(repo.path))
    clone.git("checkout", "-q", "main")
    assert clone.sha() == hub["main~0"]
