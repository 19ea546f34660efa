"""Branches from before gittheta, on which the model is whole in Git, merge with those that have manifests."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint, normal, tensors_of
from tests.support.world import Repo, World

M = "m.safetensors"
BASE = {name: normal(seed, 8, 8) for seed, name in enumerate("abc")}


def _changed(name: str) -> dict[str, np.ndarray]:
    return BASE | {name: BASE[name] + 1}


@pytest.fixture
def migrated(world: World) -> Repo:
    """Main stores its model with gittheta and has changed c; old has it whole and has changed b."""
    repo = world.repo(attributes="")
    repo.commit(checkpoint(BASE))
    repo.branch("old", checkpoint(_changed("b")))
    repo.git("checkout", "-q", "main")
    repo.git("theta", "track", "*.safetensors")
    repo.git("add", ".gitattributes")
    repo.git("add", "--renormalize", ".")
    repo.commit(checkpoint(_changed("c")))
    return repo


def _holds_both(repo: Repo) -> None:
    assert tensors_of(repo.read()) == tensors_of(checkpoint(_changed("c") | {"b": BASE["b"] + 1}))
    assert repo.manifest().startswith("gittheta manifest")
    repo.healthy()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [(), ("-s", "theta")])
def test_an_old_branch_merges_into_a_new_one(migrated: Repo, strategy: tuple[str, ...]) -> None:
    message = migrated.run("merge", *strategy, "--no-edit", "old").stderr
    assert "whole in Git in " in message
    _holds_both(migrated)


@pytest.mark.slow
def test_a_new_branch_merges_into_an_old_one_once_it_is_told_how(migrated: Repo) -> None:
    migrated.git("checkout", "-q", "old")
    migrated.fails("merge", "--no-edit", "main", status=1)
    assert "git merge -X renormalize" in migrated.git("theta", "status")
    migrated.git("merge", "--abort")
    migrated.git("merge", "-q", "-X", "renormalize", "--no-edit", "main")
    _holds_both(migrated)


@pytest.mark.slow
def test_a_pointer_on_one_side_is_a_conflict(migrated: Repo) -> None:
    migrated.git("checkout", "-q", "-b", "lfs", "main~1")
    migrated.git("config", "theta.allowLfsPointers", "true")
    migrated.commit(b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"7" * 64 + b"\nsize 9\n")
    migrated.git("config", "--unset", "theta.allowLfsPointers")
    migrated.git("checkout", "-q", "main")
    before = migrated.sha()
    assert "Git LFS" in migrated.fails("merge", "--no-edit", "lfs", status=1)
    assert migrated.sha() == before
