"""Of a merge of several heads the index can show two sides; the others must not be lost when it is done again."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint, normal, tensors_of
from tests.support.world import Repo

M = "m.safetensors"
SIDES = {"main": 10, "a": 11, "b": 12, "c": 13}


@pytest.fixture
def asked(repo: Repo) -> Repo:
    """A merge of three heads that waits for its user."""
    repo.commit(checkpoint({"t": normal(1, 4, 6)}))
    for name in ("a", "b", "c"):
        repo.branch(name, checkpoint({"t": normal(SIDES[name], 4, 6)}))
    repo.git("checkout", "-q", "main")
    repo.commit(checkpoint({"t": normal(SIDES["main"], 4, 6)}))
    repo.fails("merge", "-s", "theta", "-X", "method=conflict", "a", "b", "c", status=1)
    return repo


def mean() -> np.ndarray:
    """Of all sides."""
    average: np.ndarray = np.mean([normal(seed, 4, 6).astype(np.float64) for seed in SIDES.values()], axis=0)
    return average


def found(repo: Repo) -> np.ndarray:
    """What stands in the work tree."""
    return np.frombuffer(tensors_of(repo.read())["t"][2], np.float32).reshape(4, 6)


@pytest.mark.slow
@pytest.mark.parametrize("resolved", [False, True])
def test_a_merge_that_is_done_again_still_has_all_sides(asked: Repo, resolved: bool) -> None:
    ours = asked.sha()
    if resolved:
        asked.git("theta", "resolve", M, "linear")
    message = asked.run("checkout", "--merge", "--", M).stderr
    assert "tensor 't': changed differently on all sides" in message
    assert asked.sha() == ours
    assert "t: changed differently" in asked.git("theta", "conflicts")
    asked.git("theta", "resolve", M, "linear")
    np.testing.assert_allclose(found(asked), mean(), atol=1e-6)
    asked.git("commit", "-q", "-a", "-m", "merged")
    assert "reproduces to the bit" in asked.git("theta", "merge-plan", "--replay", "HEAD")


@pytest.mark.slow
def test_without_a_record_two_sides_are_not_taken_for_all(asked: Repo) -> None:
    ours = asked.sha()
    shutil.rmtree(asked.git_dir / "theta-merge")
    assert "not known any more" in asked.git("theta", "conflicts")
    assert "git merge --abort" in asked.fails("theta", "resolve", M, "linear")
    assert "git merge --abort" in asked.run("checkout", "--merge", "--", M).stderr
    assert "git merge --abort" in asked.fails("theta", "resolve", M, "linear")
    assert asked.sha() == ours
