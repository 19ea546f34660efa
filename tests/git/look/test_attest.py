"""`git theta attest`: an in-toto statement of a merge."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint
from tests.support.world import Repo

M = "m.safetensors"
BASE = np.random.default_rng(0).normal(0, 1, (8, 8)).astype(np.float32)


def model(change: float) -> bytes:
    return checkpoint({"w": BASE + np.float32(change)})


@pytest.mark.torch
def test_a_merge(repo: Repo) -> None:
    pytest.importorskip("torch")
    base = repo.commit(model(0))
    theirs = repo.branch("side", model(1))
    repo.git("checkout", "-q", "main")
    ours = repo.commit(model(2))
    repo.git("-c", "theta.merge.method=ties", "-c", "theta.merge.density=0.5", "merge", "-q", "--no-edit", "side")
    statement = json.loads(repo.git("theta", "attest"))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    (subject,) = statement["subject"]
    assert (subject["name"], subject["digest"]["sha256"]) == (M, repo.sha())
    assert list(subject["annotations"]["tensors"]) == ["w"]
    predicate = statement["predicate"]
    assert predicate["commit"] == repo.git("rev-parse", "HEAD").strip()
    assert [parent["files"][M]["sha256"] for parent in predicate["parents"]] == [ours, theirs]
    assert predicate["mergeBases"][0]["files"][M]["sha256"] == base
    (rule,) = predicate["merges"][0]["rules"]
    assert rule["method"] == "ties"
    assert rule["options"]["density"] == "0.5"
    repo.git("theta", "attest", "HEAD", "-o", "statement.json")
    assert json.loads(repo.read("statement.json")) == statement


def test_what_is_not_a_merge(repo: Repo) -> None:
    repo.commit(model(0))
    assert "not a merge in which tensors were computed" in repo.fails("theta", "attest", "HEAD", status=50)
