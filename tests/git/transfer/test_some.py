"""Some models, some tensors, or none at all: dry runs, patterns, manifests left in place, clones that fetch at once."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint
from tests.support.world import Place, Repo, Template, World, objects_in

FILES = ("m.safetensors", "vision/a.safetensors", "vision/b.safetensors")


def model(seed: int) -> bytes:
    random = np.random.default_rng(seed)
    tensors = {name: random.normal(0, 0.02, (64, 64)).astype(np.float32) for name in ("head.w", "trunk.w")}
    return checkpoint(tensors, {"seed": str(seed)})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, installed_home: Path) -> Template:
    """A hub with three models in one commit, and the repository that they came from."""
    world = World(tmp_path_factory.mktemp("some"), installed_home)
    repo = world.repo()
    repo.git("remote", "add", "origin", "../hub.git")
    world.bare()
    shas = {path: repo.write(path, model(seed)) for seed, path in enumerate(FILES)}
    repo.git("add", ".")
    repo.git("commit", "-q", "-m", "models")
    repo.git("push", "-q", "origin", "main")
    return Template(world.root, shas)


@pytest.fixture
def shas(world: World, built: Template) -> dict[str, str]:
    built.copy_to(world)
    return built.shas


def cloned(world: World, *options: str) -> Repo:
    """A clone without its models."""
    place = Place(world.root, world.env | {"GITTHETA_SKIP_SMUDGE": "1"})
    place.git("clone", "-q", *options, "hub.git", "clone")
    return Repo(world.root / "clone", world.env)


def needs(repo: Repo, path: str) -> set[str]:
    return set(re.findall(r"\b([0-9a-f]{64}):\d", repo.git("show", f"HEAD:{path}")))


def here(repo: Repo) -> set[str]:
    return {path.name for path in repo.objects()}


def written(repo: Repo) -> set[str]:
    """The paths of models, rather than manifests, in the work tree."""
    return {path for path in FILES if not repo.read(path).startswith(b"gittheta")}


def test_manifests_stay_until_they_are_pulled(world: World, shas: dict[str, str]) -> None:
    repo = cloned(world)
    assert not written(repo)
    assert not here(repo)
    assert repo.status() == ""
    Place(repo.path / "vision", repo.env).git("theta", "pull", "a.safetensors")
    assert written(repo) == {FILES[1]}
    repo.git("theta", "pull", "--include", "m.*")
    assert written(repo) == {FILES[0], FILES[1]}
    assert here(repo) == needs(repo, FILES[0]) | needs(repo, FILES[1])
    repo.git("theta", "pull", "vision")
    assert {path: repo.sha(path) for path in FILES} == shas
    assert repo.status() == ""


def test_a_setting_keeps_manifests(world: World, shas: dict[str, str]) -> None:
    repo = cloned(world)
    repo.git("config", "theta.smudge", "false")
    repo.git("checkout", "-q", "-b", "side")
    repo.commit(model(7))
    repo.git("checkout", "-q", "main")
    assert not written(repo)
    repo.git("checkout", "-q", "side")
    assert not written(repo)
    assert repo.status() == ""
    repo.git("config", "theta.smudge", "true")
    repo.git("theta", "pull", ".")
    assert {path: repo.sha(path) for path in FILES[1:]} == {path: shas[path] for path in FILES[1:]}
    repo.git("config", "theta.smudge", "perhaps")
    assert "theta.smudge is 'perhaps'" in repo.fails("theta", "pull")


def test_a_path_of_no_model_is_told(world: World, shas: dict[str, str]) -> None:
    assert "vision/a.safetensors" in cloned(world).fails("theta", "pull", "vision/a.safetensor")


def test_some_tensors_are_fetched(world: World, shas: dict[str, str]) -> None:
    repo = cloned(world)
    everything = repo.git("theta", "fetch", "--dry-run")
    one = repo.git("theta", "fetch", "--dry-run", "--tensors", "head.*", "--include", FILES[0])
    assert "3 objects would be fetched, at least 8" in everything
    assert "1 object would be fetched" in one
    assert not here(repo)
    repo.git("theta", "fetch", "--include", "vision", "--tensors", "*.w")
    assert here(repo) == needs(repo, FILES[1]) | needs(repo, FILES[2])
    repo.git("theta", "fetch")
    repo.healthy()


def test_some_models_are_pushed(world: World, shas: dict[str, str]) -> None:
    repo = Repo(world.root / "repo", world.env)
    store = world.root / "other"
    store.mkdir()
    repo.git("remote", "add", "other", str(store))
    told = repo.git("theta", "push", "--dry-run", "other")
    assert re.search(r"^3 of 3 objects \(.* KiB\) would be sent to other$", told, re.MULTILINE)
    assert not objects_in(store)
    repo.git("theta", "push", "other", "--include", "m.safetensors")
    assert {path.name for path in objects_in(store / "theta")} == needs(repo, FILES[0])
    assert "2 of 3 objects" in repo.git("theta", "push", "--dry-run", "other")
    repo.git("theta", "push", "other")
    assert {path.name for path in objects_in(store / "theta")} == here(repo)


def test_a_clone_that_fetches_at_once(world: World, shas: dict[str, str]) -> None:
    told = world.place().git("theta", "clone", "-q", "--branch", "main", "-c", "core.abbrev=10", "hub.git")
    assert f"3 models written to {world.root / 'hub'}" in told
    repo = Repo(world.root / "hub", world.env)
    assert {path: repo.sha(path) for path in FILES} == shas
    assert repo.status() == ""
    assert repo.git("config", "core.abbrev").strip() == "10"
    repo.healthy()
    world.place().git("theta", "clone", "-q", "--bare", "hub.git", "bare.git")
    assert (world.root / "bare.git/HEAD").exists()
    world.place().git("theta", "clone", "-q", "--no-checkout", "hub.git", "empty")
    assert "status 128" in world.place().fails("theta", "clone", "nowhere.git")


def test_a_clone_by_whom_git_does_not_know_gittheta(bare_world: World, built: Template) -> None:
    built.copy_to(bare_world)
    place = Place(bare_world.root, bare_world.env)
    place.git("theta", "clone", "-q", "hub.git", "mine")
    repo = Repo(bare_world.root / "mine", bare_world.env)
    assert {path: repo.sha(path) for path in FILES} == built.shas
    assert repo.status() == ""
    repo.commit(model(5))
    repo.git("push", "-q")
    repo.git("theta", "fsck", "--remote", "origin")


def test_a_store_is_copied(world: World, shas: dict[str, str]) -> None:
    repo = Repo(world.root / "repo", world.env)
    (world.root / "bucket").mkdir()
    target = world.root / "bucket"
    assert "3 of 3 objects" in repo.git("theta", "copy-store", "--dry-run", "origin", str(target))
    assert not objects_in(target)
    told = repo.git("theta", "copy-store", "origin", f"file://{target}")
    assert re.search(r"^3 of 3 objects \(.* KiB\) copied$", told, re.MULTILINE)
    assert {path.name for path in objects_in(target / "theta")} == here(repo)
    assert "0 of 3 objects copied" in repo.git("theta", "copy-store", "origin", str(target))
    repo.git("config", "remote.origin.thetaUrl", str(target))
    repo.git("theta", "fsck", "--remote", "origin")
    assert "not a remote" in repo.fails("theta", "copy-store", "orgin", str(target))


def test_a_damaged_object_is_not_copied(world: World, shas: dict[str, str]) -> None:
    repo = Repo(world.root / "repo", world.env)
    damaged = objects_in(world.root / "hub.git/theta")[0]
    damaged.chmod(0o644)
    damaged.write_bytes(bytes(damaged.stat().st_size))
    (world.root / "bucket").mkdir()
    assert damaged.name in repo.fails("theta", "copy-store", "origin", str(world.root / "bucket"))
    assert {path.name for path in objects_in(world.root / "bucket/theta")} == here(repo) - {damaged.name}
