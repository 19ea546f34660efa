"""Names that nothing has are errors that tell the nearest one; names of any characters are shown harmlessly."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gittheta.wording import visible
from tests.support.checkpoints import checkpoint
from tests.support.world import Repo, World

M = "m.safetensors"
ODD = "вес\x1b]0;owned\x07\x1b[31m\u202e\x9b31m\r\nfake: all is well"


def model(seed: int, name: str = "a") -> bytes:
    return checkpoint({name: np.random.default_rng(seed).normal(size=(8, 8)).astype(np.float32)})


@pytest.fixture
def repo(world: World) -> Repo:
    repo = world.repo()
    repo.git("remote", "add", "origin", str(world.bare()))
    repo.commit(model(1), f"models/{M}")
    return repo


def test_a_slip_in_any_name_is_told_with_what_was_meant(repo: Repo) -> None:
    for words, near in {
        ("push", "orign"): "origin",
        ("push", "origin", "mian"): "main",
        ("fetch", "orign"): "origin",
        ("fetch", "origin", "mian"): "main",
        ("du", "HEAD", "models/n.safetensors"): f"models/{M}",
        ("du", "mian"): "main",
        ("ls-files", "mian"): "main",
        ("show", "mian:m"): "main",
        ("show", M): f"models/{M}",
        ("merge-plan", "mian"): "main",
        ("sparsify", f"models/{M}", "--base", "mian"): "main",
    }.items():
        message = repo.fails("theta", *words)
        assert "gittheta: " in message, words
        assert f"do you mean '{near}'?" in message, words
        assert "git " not in message.split("\n")[0], f"a message of Git itself: {words}"


@pytest.mark.slow
def test_what_to_type(repo: Repo) -> None:
    assert "git add" in repo.fails("theta", "add", M, status=2)
    assert "do you mean 'show'?" in repo.fails("theta", "shwo", status=2)
    assert repo.git("theta", "help") == repo.git("theta", "-h")
    assert "[REV:]PATH" in repo.git("theta", "help", "show")


@pytest.mark.slow
def test_every_path_that_is_listed_can_be_shown(repo: Repo) -> None:
    repo.commit(model(2), "top.safetensors")
    folder = repo.path / "models"
    for line in repo.git("-C", str(folder), "theta", "ls-files").splitlines():
        path = line.split()[-1]
        assert "1 tensor" in repo.git("-C", str(folder), "theta", "show", path)
    assert repo.git("-C", str(folder), "theta", "show", f"HEAD:models/{M}")


@pytest.mark.slow
def test_a_path_in_conflict_is_listed_once(repo: Repo) -> None:
    for side in ("one", "two"):
        repo.git("switch", "-q", "-c", side, "main")
        repo.commit(model(len(side) + ord(side[0]), "b"), f"models/{M}")
    repo.attempt("git", "merge", "-q", "one")
    (row,) = json.loads(repo.git("theta", "ls-files", "--json"))
    assert row["state"] == "in conflict"


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_no_name_rules_the_terminal(repo: Repo, encoding: str) -> None:
    done = repo.commit(model(3, ODD), M)
    assert done
    for words in (("show", M), ("show", "--json", M), ("ls-files",), ("fsck",)):
        shown = repo.run("theta", *words, env={"PYTHONIOENCODING": f"{encoding}:strict"})
        assert visible(shown.stdout + shown.stderr) == shown.stdout + shown.stderr
        assert not any(line.startswith("fake") for line in shown.stdout.splitlines())
    summary = json.loads(repo.git("theta", "show", "--json", M))
    assert [tensor["name"] for tensor in summary["tensors"]] == [ODD]
