"""Branches that each changed a part of a model, and what their merge should be."""

from __future__ import annotations

import numpy as np

from tests.support.checkpoints import normal, tensors_of
from tests.support.world import Repo

M = "m.safetensors"
SHAPE = (40, 10)
BASE = {name: normal(seed, *SHAPE) for seed, name in enumerate("vwxyz")} | {"n": np.arange(9)}
#: What each branch changed. Where no two changed the same, nothing is computed, which makes most tests fast.
CHANGES = {
    "main": {"v": normal(10, *SHAPE)},
    "a": {"w": normal(21, *SHAPE)},
    "b": {"x": normal(32, *SHAPE)},
    "one": {"w": normal(41, *SHAPE), "y": normal(43, *SHAPE)},
    "two": {"w": normal(51, *SHAPE), "y": normal(53, *SHAPE)},
}
LINES = [f"line {number}\n" for number in range(60)]


def model(name: str) -> dict[str, np.ndarray]:
    """The tensors on a branch."""
    return BASE | CHANGES.get(name, {})


def text(*names: str) -> str:
    """The text as these branches together have it: each changed lines of its own."""
    order = list(CHANGES)
    return "".join(
        next((f"by {name}\n" for name in names if number == 5 + 10 * order.index(name)), line)
        for number, line in enumerate(LINES)
    )


def merge(repo: Repo, *words: str) -> str:
    """Merge with our strategy; returns what was said on stderr."""
    return repo.run("merge", "--no-edit", "-s", "theta", *words).stderr


def parents(repo: Repo) -> list[str]:
    """Of HEAD."""
    return repo.git("rev-list", "--parents", "-1", "HEAD").split()[1:]


def commits(repo: Repo, *names: str) -> list[str]:
    """The commits that names stand for now."""
    return repo.git("rev-parse", *names).split()


def together(*names: str) -> dict[str, np.ndarray]:
    """What the changes of branches that changed different tensors come to."""
    tensors = dict(BASE)
    for name in names:
        tensors |= CHANGES[name]
    return tensors


def mean(name: str, *branches: str, weights: tuple[float, ...] = ()) -> np.ndarray:
    """The weighted mean of one tensor over branches."""
    given = weights or (1.0,) * len(branches)
    values = [weight * model(branch)[name].astype(np.float64) for weight, branch in zip(given, branches, strict=True)]
    return (sum(values, np.zeros(SHAPE)) / sum(given)).astype(np.float32)


def unmerged(repo: Repo) -> list[tuple[str, str]]:
    """Stage and path of every entry in conflict."""
    lines = [line.split("\t") for line in repo.git("-c", "core.quotePath=false", "ls-files", "-u").splitlines()]
    return [(words.split()[2], path) for words, path in lines]


def tensor(repo: Repo, name: str, file: str = M) -> np.ndarray:
    """A float32 tensor of the work tree's checkpoint."""
    _, shape, data = tensors_of(repo.read(file))[name]
    return np.frombuffer(data, np.float32).reshape(shape)


def close(found: bytes, expected: dict[str, np.ndarray]) -> None:
    """The checkpoint has these tensors, equal but for the order in which float64 was summed."""
    tensors = tensors_of(found)
    assert list(tensors) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_max_ulp(np.frombuffer(tensors[name][2], value.dtype), value.ravel(), 1)
