"""Adding and looking do not depend on the health of what is stored, nor on being allowed to write."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint
from tests.support.repository import Repo as Bare
from tests.support.world import Repo

M = "m.safetensors"


def flip(path: Path, share: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * share)] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def large(changed: int) -> bytes:
    """12 MiB in one tensor, of several blocks; the last elements are others."""
    values = np.resize(np.random.default_rng(1).normal(0, 0.02, 1 << 20).astype(np.float32), 3 << 20)
    values[-changed:] += 1
    return checkpoint({"big": values, "small": np.arange(5, dtype=np.float32)})


@pytest.mark.parametrize("share", [0.15, pytest.param(0.6, marks=pytest.mark.slow)])
def test_a_damaged_base_is_named_and_the_new_version_stored_without_it(repo: Repo, share: float) -> None:
    repo.commit(large(1))
    (old,) = repo.objects()
    flip(old, share)
    repo.write(M, large(2))
    said = repo.run("status", "--short").stderr
    assert said.count("is damaged") == 1
    assert old.name in said
    repo.git("commit", "-q", "-a", "-m", "two")
    (repo.path / M).unlink()
    repo.git("checkout", "-q", "--", M)
    assert repo.read() == large(2)


@pytest.mark.slow
def test_bytes_that_come_from_no_file_are_stored_by_the_second_try(repo: Repo) -> None:
    repo.commit(large(1))
    flip(repo.objects()[0], 0.15)
    (repo.path / M).unlink()
    words = ("hash-object", "-w", "--stdin", "--path", M)
    assert "run the command again" in repo.attempt("git", *words, stdin=large(2)).stderr
    oid = repo.run(*words, stdin=large(2)).stdout.strip()
    assert repo.attempt("git", "cat-file", "--filters", f"--path={M}", oid).returncode == 0


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_status_and_diff_work_where_nothing_may_be_written(repo: Repo) -> None:
    _look_at_read_only(repo)


def test_where_nothing_may_be_written_tensors_are_only_digested(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    repo.commit(large(1))
    before = repo.objects()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    text = Bare(repo.path).clean(large(2)).decode()
    assert "0" * 64 in text
    assert repo.objects() == before


def _look_at_read_only(repo: Repo) -> None:
    repo.commit(large(1))
    repo.write(M, large(2))
    folders = [folder for folder, _, _ in os.walk(repo.git_dir)]
    try:
        for folder in folders:
            os.chmod(folder, 0o500)
        assert repo.status() == f" M {M}\n"
        assert M in repo.git("diff", "--stat")
    finally:
        for folder in folders:
            os.chmod(folder, 0o700)
    repo.git("commit", "-q", "-a", "-m", "two")
    repo.healthy()
