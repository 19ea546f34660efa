"""Clones that borrow objects from another repository are told so, and can have their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checkpoints import model
from tests.support.world import Repo, World


@pytest.fixture
def shas(repo: Repo) -> list[str]:
    """Two versions in the repository that is borrowed from."""
    return [repo.commit(model(seed)) for seed in (1, 2)]


def _free(clone: Repo) -> None:
    """Git's own way to make a clone stand on its own."""
    clone.git("repack", "-q", "-a", "-d")
    (clone.git_dir / "objects/info/alternates").unlink()


def _whole(clone: Repo, shas: list[str]) -> None:
    for revision, sha in zip(("main", "main~1"), reversed(shas), strict=True):
        clone.git("checkout", "-q", "-f", revision)
        assert clone.sha() == sha
    clone.git("checkout", "-q", "main")
    clone.healthy()


@pytest.mark.slow
def test_what_is_borrowed_is_counted_and_can_be_kept(world: World, repo: Repo, shas: list[str]) -> None:
    clone = world.clone(repo.path, "clone", "--shared")
    for words in (("fsck",), ("fetch", "--all")):
        told = clone.git("theta", *words)
        assert "2 objects borrowed" in told
        assert "git theta fetch --all --dissociate" in told
    assert clone.objects() == []
    assert "2 objects fetched" in clone.git("theta", "fetch", "--all", "--dissociate")
    assert "borrowed" not in clone.git("theta", "fsck")
    _free(clone)
    repo.path.rename(world.root / "away")
    _whole(clone, shas)


@pytest.mark.slow
def test_a_clone_that_was_made_independent_fetches_from_where_it_came(
    world: World, repo: Repo, shas: list[str]
) -> None:
    clone = world.clone(repo.path, "clone", "--shared")
    _free(clone)
    assert "2 objects on a remote only" in clone.git("theta", "fsck")
    clone.git("theta", "fetch", "--all")
    repo.path.rename(world.root / "away")
    _whole(clone, shas)


@pytest.mark.slow
def test_a_clone_of_a_borrowing_clone_gets_what_that_borrows(world: World, repo: Repo, shas: list[str]) -> None:
    world.clone(repo.path, "borrower", "--shared")
    clone = world.clone(f"file://{world.root}/borrower")
    assert clone.sha() == shas[1]


@pytest.mark.slow
def test_a_damaged_object_of_the_lender_is_not_taken_over(world: World, repo: Repo, shas: list[str]) -> None:
    clone = world.clone(repo.path, "clone", "--shared")
    damaged: Path = repo.objects()[0]
    content = damaged.read_bytes()
    damaged.unlink()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert damaged.name in clone.fails("theta", "fetch", "--all", "--dissociate", status=22)
    assert damaged.name not in {path.name for path in clone.objects()}
