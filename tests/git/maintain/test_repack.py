"""`git theta repack`: flat recipes, the same tensors."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint, sha256
from tests.support.world import Repo

M = "m.safetensors"


def _versions(count: int) -> list[bytes]:
    """A small model, and fine-tunes of it, each of the one before."""
    random = np.random.default_rng(0)
    values = {name: random.normal(0, 0.02, (64, 256)).astype(np.float32) for name in ("a", "b")}
    versions = []
    for _ in range(count):
        versions.append(checkpoint(values))
        values = {
            name: value + random.normal(0, 1e-6, value.shape).astype(np.float32) for name, value in values.items()
        }
    return versions


def _depths(repo: Repo, revision: str = "") -> set[int]:
    shown = json.loads(repo.git("theta", "show", "--json", f"{revision}:{M}" if revision else M))
    return {len(tensor["stored"]) for tensor in shown["tensors"]}


def _committed(repo: Repo, versions: list[bytes]) -> None:
    for number, content in enumerate(versions):
        repo.commit(content, message=f"version {number}")


@pytest.mark.slow
def test_recipes_become_flat_and_history_stays(repo: Repo) -> None:
    versions = _versions(3)
    _committed(repo, versions)
    head = repo.git("rev-parse", "HEAD")
    assert max(_depths(repo)) > 1
    output = repo.git("theta", "repack")
    assert f"{M}: 2 tensors" in output
    assert "commit to keep it" in output
    assert repo.git("rev-parse", "HEAD") == head
    assert _depths(repo) == {1}
    assert max(_depths(repo, "HEAD")) > 1
    assert repo.status() == f"M  {M}\n"
    repo.git("commit", "-q", "-m", "flat")
    repo.healthy()
    for number, content in enumerate(versions):
        repo.git("checkout", "-q", f"main~{len(versions) - number}")
        assert repo.sha() == sha256(content), number
    repo.git("checkout", "-q", "main")
    assert repo.sha() == sha256(versions[-1])


@pytest.mark.slow
def test_what_is_added_next_is_derived_from_the_flat_version(repo: Repo) -> None:
    versions = _versions(4)
    _committed(repo, versions[:3])
    repo.git("theta", "repack", M)
    repo.git("commit", "-q", "-m", "flat")
    repo.commit(versions[3])
    assert _depths(repo) == {2}
    repo.healthy()


@pytest.mark.slow
def test_a_merge_sees_no_change_in_a_repacked_file(repo: Repo) -> None:
    versions = _versions(3)
    _committed(repo, versions[:2])
    repo.git("checkout", "-q", "-b", "flat")
    repo.git("theta", "repack")
    repo.git("commit", "-q", "-m", "flat")
    repo.git("checkout", "-q", "main")
    repo.commit(versions[2])
    repo.git("merge", "-q", "-m", "merged", "flat")
    assert repo.sha() == sha256(versions[2])
    repo.healthy()


def test_where_all_is_flat_nothing_changes(repo: Repo) -> None:
    _committed(repo, _versions(1))
    assert "nothing is told from anything else" in repo.git("theta", "repack")
    assert repo.status() == ""


@pytest.mark.slow
def test_only_the_named_files(repo: Repo) -> None:
    first, second = _versions(2)
    for name in ("x.safetensors", "sub/y.safetensors"):
        repo.commit(first, name)
        repo.commit(second, name)
    repo.git("theta", "repack", "sub/y.safetensors")
    assert repo.status() == "M  sub/y.safetensors\n"
