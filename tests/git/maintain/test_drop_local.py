"""gc --drop-local: what is not checked out leaves this disk, if a remote has it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint, sha256
from tests.support.processes import kill
from tests.support.world import Repo, Template, World

M = "m.safetensors"


def model(seed: int) -> bytes:
    return checkpoint(
        {"w": np.random.default_rng(seed).normal(0, 0.02, (64, 64)).astype(np.float32)}, {"seed": str(seed)}
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, installed_home: Path) -> Template:
    """Three unrelated versions, two of which were pushed."""
    world = World(tmp_path_factory.mktemp("pushed"), installed_home)
    repo = world.repo()
    repo.git("remote", "add", "origin", f"file://{world.bare()}")
    for seed in (1, 2):
        repo.commit(model(seed))
    repo.git("push", "-q", "origin", "main")
    repo.commit(model(3))
    return Template(world.root, {})


@pytest.fixture
def pushed(world: World, built: Template) -> Repo:
    """The same in this test's world."""
    repo = built.copy_to(world)
    repo.git("remote", "set-url", "origin", f"file://{world.root / 'hub.git'}")
    return repo


def needed(repo: Repo, revision: str) -> set[str]:
    return set(re.findall(r"\b([0-9a-f]{64}):\d", repo.manifest(M, revision)))


def here(repo: Repo) -> set[str]:
    return {path.name for path in repo.objects()}


def test_old_versions_go_and_come_back(pushed: Repo) -> None:
    before = here(pushed)
    told = pushed.git("theta", "gc", "--drop-local", "--dry-run")
    assert here(pushed) == before
    gone = needed(pushed, "main~2") | needed(pushed, "main~1")
    assert all(name in told for name in gone)
    told = pushed.git("theta", "gc", "--drop-local")
    assert f"{len(gone)} objects deleted here that a remote has" in told
    assert here(pushed) == needed(pushed, "main")
    pushed.git("checkout", "-q", "main~1")
    assert pushed.sha() == sha256(model(2))
    pushed.git("checkout", "-q", "main")
    pushed.git("theta", "fsck")


def test_what_no_remote_has_stays(world: World, pushed: Repo) -> None:
    pushed.git("checkout", "-q", "main~2")
    told = pushed.git("theta", "gc", "--drop-local")
    assert "1 object kept that no remote has" in told
    assert here(pushed) == needed(pushed, "HEAD") | needed(pushed, "main")
    hub = world.root / "hub.git"
    hub.rename(world.root / "away.git")
    pushed.git("checkout", "-q", "main")
    said = pushed.run("theta", "gc", "--drop-local").stderr
    assert "not asked: origin" in said
    assert needed(pushed, "main~2") <= here(pushed)


def test_an_object_of_another_length_does_not_count(world: World, pushed: Repo) -> None:
    name = next(iter(needed(pushed, "main~2")))
    file = next((world.root / "hub.git/theta/objects").rglob(name))
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1])
    pushed.git("theta", "gc", "--drop-local")
    assert name in here(pushed)


def test_a_remote_that_borrows_from_here_does_not_count(world: World, pushed: Repo) -> None:
    """It would lose the object in the very moment in which it is deleted here."""
    before = here(pushed)
    pushed.git("remote", "set-url", "origin", str(pushed.path))
    pushed.git("theta", "gc", "--drop-local")
    assert here(pushed) == before
    borrowing = world.clone(pushed.path, "borrowing", "--shared")
    borrowing.git("theta", "fsck")
    pushed.git("remote", "set-url", "origin", str(borrowing.path))
    pushed.git("theta", "gc", "--drop-local")
    assert here(pushed) == before
    assert list((pushed.store / "tmp").iterdir()) == []


def test_what_is_staged_or_in_another_work_tree_stays(pushed: Repo, world: World) -> None:
    pushed.git("worktree", "add", "-q", str(world.root / "second"), "main~2")
    pushed.write(M, model(4))
    pushed.git("add", M)
    staged = needed(pushed, "")
    pushed.git("checkout", "-q", "HEAD", "--", M)
    pushed.git("update-index", "--cacheinfo", f"100644,{pushed.git('rev-parse', 'main~1:' + M).strip()},{M}")
    told = pushed.git("theta", "gc", "--drop-local")
    assert needed(pushed, "main~1") | needed(pushed, "main~2") | needed(pushed, "main") <= here(pushed)
    assert staged <= here(pushed), "no remote has it"
    assert "0 objects deleted here" in told


def test_nothing_goes_from_a_store_that_others_use(world: World, pushed: Repo) -> None:
    (pushed.store / "pushed-to").touch()
    assert "others push objects here" in pushed.fails("theta", "gc", "--drop-local")


def test_nothing_goes_in_the_middle_of_a_merge(pushed: Repo) -> None:
    (pushed.git_dir / "MERGE_HEAD").write_text(pushed.git("rev-parse", "main~1"))
    assert "a merge is going on" in pushed.fails("theta", "gc", "--drop-local")


def test_killed(pushed: Repo) -> None:
    before = here(pushed)
    for delay in (0.3, 0.5, 0.7):
        kill(pushed, ("theta", "gc", "--drop-local"), delay, "all")
    pushed.git("theta", "gc")
    assert here(pushed) in (before, needed(pushed, "main"))
    pushed.git("checkout", "-q", "main~1")
    assert pushed.sha() == sha256(model(2))


def test_what_was_set_aside_is_brought_back(pushed: Repo) -> None:
    name = next(iter(needed(pushed, "main~1")))
    file = next(path for path in pushed.objects() if path.name == name)
    (pushed.store / "tmp").mkdir(exist_ok=True)
    claim = "ab" * 16
    (pushed.store / "claims").mkdir(exist_ok=True)
    (pushed.store / "claims" / claim).touch()
    file.rename(pushed.store / "tmp" / f"{claim}-{name}")
    pushed.git("theta", "gc")
    assert Path(file).exists()


def test_gc_tells_of_objects_that_stay_for_a_few_bytes(repo: Repo) -> None:
    many = {f"layer.{at}": np.random.default_rng(at).normal(0, 0.02, (64, 64)).astype(np.float32) for at in range(6)}
    repo.commit(checkpoint(many))
    repo.git("checkout", "-q", "--orphan", "small")
    repo.commit(checkpoint({"layer.0": many["layer.0"]}))
    assert "kept for less" not in repo.git("theta", "gc")
    repo.git("branch", "-D", "main")
    repo.git("reflog", "expire", "--expire=now", "--all")
    repo.git("gc", "-q", "--prune=now")
    assert re.search(r"1 object kept for less than half of their bytes, \d", repo.git("theta", "gc"))
