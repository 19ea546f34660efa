"""The plan of a merge in which a side has renamed or deleted a checkpoint."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint
from tests.support.world import Repo, World

NAMES = [f"layer.{number}" for number in range(8)]
BASE = {name: np.full((4, 4), number, np.float32) for number, name in enumerate(NAMES)}


@pytest.fixture
def repo(world: World) -> Repo:
    repo = world.repo()
    repo.commit(checkpoint(BASE))
    return repo


@pytest.mark.slow
@pytest.mark.torch
def test_a_renamed_checkpoint_is_followed_as_the_merge_follows_it(repo: Repo) -> None:
    repo.git("switch", "-q", "-c", "side")
    repo.commit(checkpoint(BASE | {NAMES[0]: BASE[NAMES[0]] + 1, NAMES[1]: BASE[NAMES[1]] + 1}))
    repo.git("mv", "m.safetensors", "n.safetensors")
    repo.git("commit", "-q", "-m", "renamed")
    repo.git("switch", "-q", "main")
    repo.commit(checkpoint(BASE | {NAMES[0]: BASE[NAMES[0]] + 3}))
    (plan,) = json.loads(repo.git("theta", "merge-plan", "--no-numbers", "--json", "side"))
    actions = {tensor["name"]: tensor["action"] for tensor in plan["tensors"]}
    assert (plan["path"], actions[NAMES[0]], actions[NAMES[1]]) == ("n.safetensors", "merge", "taken")
    text = repo.git("theta", "merge-plan", "side")
    assert max(map(len, text.splitlines())) <= 80
    repo.git("merge", "-q", "--no-edit", "side")
    assert repo.git("theta", "ls-files").split()[-1] == "n.safetensors"
    assert plan["summary"].startswith("6 unchanged")


@pytest.mark.slow
def test_what_one_side_deleted_and_the_other_changed_is_told(repo: Repo) -> None:
    repo.git("switch", "-q", "-c", "side")
    repo.git("rm", "-q", "m.safetensors")
    repo.git("commit", "-q", "-m", "gone")
    repo.git("switch", "-q", "main")
    repo.commit(checkpoint(BASE | {NAMES[0]: BASE[NAMES[0]] + 3}))
    expected = "m.safetensors: in conflict: deleted in theirs, changed in ours\n"
    assert repo.git("theta", "merge-plan", "side") == expected
    assert repo.attempt("git", "merge", "-q", "side").returncode == 1
