"""A FIFO, a folder or a link in place of a file: each verb ends, and a merge that cannot read is no conflict."""

from __future__ import annotations

import os

import pytest

from tests.support.checkpoints import checkpoint
from tests.support.world import Repo

M = "m.safetensors"

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs")


def model(*values: float) -> bytes:
    import numpy as np

    return checkpoint({"w": np.full((64, 64), values[0], np.float32), "v": np.arange(9, dtype=np.float32)})


@pytest.mark.slow
@pytest.mark.parametrize("words", ["pull", "ls-files", "sparsify m.safetensors --base HEAD", "gc", "repack"])
def test_verbs_end_where_a_fifo_stands_in_place_of_a_checkpoint(repo: Repo, words: str) -> None:
    repo.commit(model(1))
    (repo.path / M).unlink()
    os.mkfifo(repo.path / M)
    done = repo.attempt("git", "theta", *words.split(" "))
    assert done.returncode == 0 or M in done.stderr
    assert "Traceback" not in done.stderr


def test_an_adapter_that_is_a_fifo_is_named(repo: Repo) -> None:
    repo.commit(model(1))
    (repo.path / "adapter").mkdir()
    os.mkfifo(repo.path / "adapter" / "adapter_config.json")
    assert "it is a FIFO, not a file" in repo.fails("theta", "apply", "adapter", M, status=14)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["folder", "fifo", "nothing"])
def test_a_merge_that_cannot_read_an_object_is_no_conflict(repo: Repo, place: str) -> None:
    repo.commit(model(1))
    before = set(repo.objects())
    repo.branch("side", model(2))
    (stored,) = set(repo.objects()) - before
    repo.git("checkout", "-q", "main")
    repo.commit(model(3))
    kept = stored.with_name("kept")
    stored.rename(kept)
    if place == "folder":
        stored.mkdir()
    if place == "fifo":
        os.mkfifo(stored)
    done = repo.attempt("git", "merge", "--no-edit", "side")
    assert done.returncode != 0
    assert f"CONFLICT ({M}" not in done.stderr
    assert "nothing is in conflict" in done.stderr
    assert stored.name in done.stderr
    assert "free some space" not in done.stderr
    repo.attempt("git", "merge", "--abort")
    if place == "folder":
        stored.rmdir()
    kept.replace(stored)
    repo.git("merge", "--no-edit", "side")
    repo.healthy()
