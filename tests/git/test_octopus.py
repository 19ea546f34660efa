"""`git merge -s theta`: many heads, one commit; expected numbers are computed here, in NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .checkpoints import checkpoint, normal, sha256, tensors_of
from .conftest import Repo, Template, World

M = "m.safetensors"
SHAPE = (40, 10)
BASE = {"w": normal(1, *SHAPE), "x": normal(2, *SHAPE), "y": normal(3, *SHAPE), "n": np.arange(9)}
#: What each branch changed.
CHANGES = {
    "main": {"w": normal(11, *SHAPE), "x": normal(12, *SHAPE)},
    "a": {"w": normal(21, *SHAPE), "x": normal(22, *SHAPE)},
    "b": {"w": normal(31, *SHAPE), "y": normal(33, *SHAPE)},
    "c": {"w": normal(41, *SHAPE)},
}
LINES = [f"line {number}\n" for number in range(60)]


def model(name: str) -> dict[str, np.ndarray]:
    """The tensors on a branch."""
    return BASE | CHANGES.get(name, {})


def text(*names: str) -> str:
    """The text as these branches together have it: each changed lines of its own."""
    order = list(CHANGES)
    return "".join(
        next((f"by {name}\n" for name in names if number == 5 + 15 * order.index(name)), line)
        for number, line in enumerate(LINES)
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, installed_home: Path) -> Template:
    """A base, and four branches that have changed the model and a text; `start` is the base."""
    world = World(tmp_path_factory.mktemp("built"), installed_home)
    repo = world.repo()
    repo.write("t.txt", text().encode())
    repo.write(M, checkpoint(BASE))
    repo.git("add", ".")
    repo.git("commit", "-q", "-m", "base")
    for name in ("start", "a", "b", "c"):
        repo.git("branch", name)
    for name in CHANGES:
        repo.git("checkout", "-q", name)
        repo.write("t.txt", text(name).encode())
        repo.write(M, checkpoint(model(name)))
        repo.git("commit", "-q", "-a", "-m", name)
    repo.git("checkout", "-q", "main")
    return Template(world.root, {})


@pytest.fixture
def branches(world: World, built: Template) -> Repo:
    """The repository with all branches; main is checked out."""
    return built.copy_to(world)


def merge(repo: Repo, *words: str) -> str:
    """Merge with our strategy; returns what was said on stderr."""
    return repo.run("merge", "--no-edit", "-s", "theta", *words).stderr


def parents(repo: Repo) -> list[str]:
    """Of HEAD."""
    return repo.git("rev-list", "--parents", "-1", "HEAD").split()[1:]


def commits(repo: Repo, *names: str) -> list[str]:
    """The commits that names stand for now."""
    return repo.git("rev-parse", *names).split()


def mean(name: str, *branches: str, weights: tuple[float, ...] = ()) -> np.ndarray:
    """The weighted mean of one tensor over branches."""
    given = weights or (1.0,) * len(branches)
    total = sum(weight * model(branch)[name].astype(np.float64) for weight, branch in zip(given, branches, strict=True))
    return (total / sum(given)).astype(np.float32)


def unmerged(repo: Repo) -> list[tuple[str, str]]:
    """Stage and path of every entry in conflict."""
    lines = [line.split("\t") for line in repo.git("-c", "core.quotePath=false", "ls-files", "-u").splitlines()]
    return [(words.split()[2], path) for words, path in lines]


def close(found: bytes, expected: dict[str, np.ndarray]) -> None:
    """The checkpoint has these tensors, equal but for the order in which float64 was summed."""
    tensors = tensors_of(found)
    assert list(tensors) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_max_ulp(np.frombuffer(tensors[name][2], value.dtype), value.ravel(), 1)


def test_three_heads_one_commit(branches: Repo) -> None:
    heads = commits(branches, "main", "a", "b", "c")
    said = merge(branches, "a", "b", "c")
    assert f"{M}: 1 unchanged, 1 taken from b, 2 merged by linear" in said
    expected = BASE | {"w": mean("w", "main", "a", "b", "c"), "x": mean("x", "main", "a"), "y": CHANGES["b"]["y"]}
    close(branches.read(), expected)
    assert branches.read("t.txt").decode() == text("main", "a", "b", "c")
    assert parents(branches) == heads
    branches.healthy()


def test_plain_merge_of_several_branches(branches: Repo) -> None:
    branches.git("merge", "-q", "--no-edit", "a", "b")
    assert len(parents(branches)) == 3
    close(branches.read(), BASE | {"w": mean("w", "main", "a", "b"), "x": mean("x", "main", "a"), "y": model("b")["y"]})
    branches.healthy()
