"""Merge methods that other packages bring, as setup installs them: real git, the plugins of this repository."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint, normal, tensors_of
from tests.support.world import Repo

M = "m.safetensors"
BASE = {"in.weight": normal(1, 20, 9), "in.bias": normal(2, 20), "out.weight": normal(3, 4, 20)}


def changed(seed: int, size: float = 1.0) -> dict[str, np.ndarray]:
    """A model that grew from the base."""
    noise = {name: normal(seed + at, *values.shape) for at, (name, values) in enumerate(BASE.items())}
    return {name: (values + np.float32(size) * noise[name]).astype(np.float32) for name, values in BASE.items()}


def values_of(repo: Repo) -> dict[str, np.ndarray]:
    """The tensors in the work tree."""
    result = tensors_of(repo.read(M))
    return {name: np.frombuffer(data, np.float32).reshape(shape) for name, (_, shape, data) in result.items()}


def largest_changes(*sides: dict[str, np.ndarray], scale: float = 1.0) -> dict[str, np.ndarray]:
    """What `magmax` means, written plainly."""
    merged = {}
    for name, base in BASE.items():
        changes = np.stack([side[name].astype(np.float64) - base for side in sides])
        winners = np.abs(changes).argmax(0)
        merged[name] = (base + scale * np.take_along_axis(changes, winners[None], 0)[0]).astype(np.float32)
    return merged


def diverged(repo: Repo, *sides: dict[str, np.ndarray]) -> None:
    """The base, and a branch for each side: main, one, two, ..."""
    repo.commit(checkpoint(BASE), message="base")
    repo.git("branch", "start")
    for name, side in zip(("one", "two"), sides[1:], strict=False):
        repo.branch(name, checkpoint(side), "start")
    repo.git("checkout", "-q", "main")
    repo.commit(checkpoint(sides[0]), message="on main")


@pytest.mark.slow
def test_plain_merges_and_octopuses_use_an_installed_method(repo: Repo) -> None:
    sides = [changed(10), changed(20), changed(30, 2.0)]
    diverged(repo, *sides)

    message = repo.run("-c", "theta.merge.method=magmax", "merge", "--no-edit", "one").stderr
    assert "3 merged by magmax" in message
    assert repo.read(M) == checkpoint(largest_changes(*sides[:2]))
    assert "Theta-Merge: m.safetensors magmax lambda=1.0 weight=1" in repo.git("log", "-1", "--format=%B")

    repo.git("reset", "-q", "--hard", "HEAD~")
    repo.run("merge", "--no-edit", "-s", "theta", "-X", "method=magmax", "-X", "lambda=0.5", "one", "two")
    assert repo.read(M) == checkpoint(largest_changes(*sides, scale=0.5))
    assert "reproduces to the bit" in repo.git("theta", "merge-plan", "--replay", "HEAD")
    repo.healthy()


@pytest.mark.slow
def test_what_an_installed_method_refuses_is_a_conflict(repo: Repo) -> None:
    diverged(repo, changed(10), changed(20))
    before = repo.read(M)
    repo.git("config", "theta.merge.method", "magmax")
    done = repo.attempt("git", "-c", "theta.merge.lambda=-1", "merge", "--no-edit", "one")
    assert done.returncode == 1
    assert "lambda is -1.0, and must be above 0" in done.stderr
    assert "leave it out for 1" in done.stderr
    assert repo.read(M) == before


@pytest.mark.slow
def test_a_method_that_sees_the_whole_model(repo: Repo) -> None:
    """The same network with its units in another order, and small changes on both sides: nothing is lost."""
    ours = changed(10)
    order = np.random.default_rng(0).permutation(20)
    theirs = {"in.weight": ours["in.weight"][order], "in.bias": ours["in.bias"][order]}
    theirs["out.weight"] = ours["out.weight"][:, order]
    theirs = {name: (values * np.float32(1.5)).astype(np.float32) for name, values in theirs.items()}
    diverged(repo, ours, theirs)
    rule = '[[rule]]\nmethod = "rebasin"\nspec = """\nin.weight: P -\nin.bias: P\nout.weight: - P\n"""\n'
    repo.commit(rule.encode(), "theta.toml")
    assert "3 merged by rebasin" in repo.run("merge", "--no-edit", "one").stderr
    merged = values_of(repo)
    place = [int(np.abs(merged["in.bias"] / 1.25 - value).argmin()) for value in ours["in.bias"]]
    assert sorted(place) == list(range(20))
    np.testing.assert_allclose(merged["in.weight"][place], ours["in.weight"] * 1.25, rtol=1e-6)
    np.testing.assert_allclose(merged["out.weight"][:, place], ours["out.weight"] * 1.25, rtol=1e-6)
    assert "reproduces to the bit" in repo.git("theta", "merge-plan", "--replay", "HEAD")
