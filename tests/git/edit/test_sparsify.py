"""`git theta sparsify`: a cheap update to publish, lossy because it was asked for."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from tests.support.checkpoints import bf16, checkpoint, metadata_of, normal, tensors_of
from tests.support.world import Repo, World

M = "m.safetensors"


def _versions() -> tuple[bytes, bytes]:
    """A model, and the same after training."""
    weights, bias = normal(1, 200, 100), normal(2, 100)
    old = checkpoint({"weight": weights, "half": bf16(weights), "bias": bias, "step": np.array(1)}, {"epoch": "1"})
    weights, bias = weights + normal(3, 200, 100, scale=0.01), bias + normal(4, 100, scale=0.01)
    new = checkpoint({"weight": weights, "half": bf16(weights), "bias": bias, "step": np.array(2)}, {"epoch": "2"})
    return old, new


@pytest.fixture
def trained(repo: Repo) -> Repo:
    """A model that was trained further and committed."""
    old, new = _versions()
    repo.commit(old)
    repo.commit(new)
    return repo


def _weight(content: bytes) -> np.ndarray:
    return np.frombuffer(tensors_of(content)["weight"][2], np.float32)


@pytest.mark.slow
def test_a_cheap_update(trained: Repo, world: World) -> None:
    """Sparsified, committed on a branch of its own, pushed, cloned; the trained version stays where it was."""
    old, new = _versions()
    trained.git("branch", "whole")
    output = trained.git("theta", "sparsify", M, "--base", "HEAD^")
    assert "2005 of 40100 changes since HEAD^ kept, as signs of one scalar" in output
    assert "lossy" in output
    assert "1 tensors left whole: not of floats" in output
    content = trained.read()
    moved = _weight(content) - _weight(old)
    assert 500 < np.count_nonzero(moved) < 1500
    assert np.allclose(np.abs(moved[moved != 0]), np.abs(moved).max(), rtol=1e-3)
    assert metadata_of(content) == {"epoch": "2"}
    assert tensors_of(content)["step"] == tensors_of(new)["step"]
    sha = trained.commit(content, message="sparse")
    trained.healthy()
    trained.git("remote", "add", "origin", str(world.bare()))
    trained.git("push", "-q", "origin", "main", "whole")
    clone = world.clone(world.root / "hub.git")
    assert clone.sha() == sha
    clone.git("checkout", "-q", "whole")
    assert clone.read() == new


def test_the_relative_error(trained: Repo) -> None:
    old, new = _versions()
    report = json.loads(
        trained.git("theta", "sparsify", M, "--base", "HEAD^", "--method", "topk", "--density", "0.2", "--json")
    )
    assert (report["kept"], report["elements"], report["lossy"], report["scalar"]) == (8020, 40100, True, None)
    assert report["left_whole"] == {"not of floats": 1}
    rows = {row["name"]: row for row in report["tensors"]}
    assert set(rows) == {"weight", "half", "bias"}
    change = _weight(new).astype(float) - _weight(old)
    error = np.linalg.norm(_weight(trained.read()).astype(float) - _weight(new)) / np.linalg.norm(change)
    assert rows["weight"]["relative_error"] == pytest.approx(error)
    assert 0.5 < report["relative_error"] < 0.8
    kept = _weight(trained.read()) != _weight(old)
    assert np.array_equal(_weight(trained.read())[kept], _weight(new)[kept])
    assert np.count_nonzero(kept) == rows["weight"]["kept"]


@pytest.mark.slow
def test_alpha_scales(trained: Repo) -> None:
    words = ("theta", "sparsify", M, "--base", "HEAD^", "--json")
    one = json.loads(trained.git(*words))["scalar"]
    trained.git("checkout", "-q", "--", M)
    assert json.loads(trained.git(*words, "--alpha", "2"))["scalar"] == pytest.approx(2 * one, rel=1e-6)


def test_values_that_were_never_added(trained: Repo) -> None:
    fresh = checkpoint({"weight": normal(9, 200, 100)})
    trained.write(M, fresh)
    message = trained.fails("theta", "sparsify", M, "--base", "HEAD", status=20)
    assert "stored nowhere else" in message
    assert "--force" in message
    assert trained.read() == fresh
    done = trained.run("theta", "sparsify", M, "--base", "HEAD", "--force")
    assert "warning" in done.stderr
    assert "stored nowhere else" in done.stderr
    assert trained.read() != fresh


@pytest.mark.slow
def test_from_a_subdirectory(repo: Repo) -> None:
    old, new = _versions()
    repo.commit(old, "sub/m.safetensors")
    repo.commit(new, "sub/m.safetensors")
    below = Repo(repo.path / "sub", repo.env)
    assert "sub/m.safetensors" in below.git("theta", "sparsify", M, "--base", "HEAD~1")
    assert repo.read("sub/m.safetensors") not in (old, new)


@pytest.mark.slow
def test_a_base_whose_objects_are_on_the_remote_only(trained: Repo, world: World) -> None:
    """They are fetched."""
    trained.git("remote", "add", "origin", str(world.bare()))
    trained.git("push", "-q", "origin", "main")
    trained.git("theta", "sparsify", M, "--base", "HEAD~1")
    clone = world.clone(world.root / "hub.git")
    clone.git("theta", "sparsify", M, "--base", "HEAD~1")
    assert clone.read() == trained.read()


@pytest.mark.slow
def test_command_lines_without_meaning(trained: Repo) -> None:
    before = trained.sha()
    for words, status in (
        ((), 2),
        (("--base", "HEAD", "--method", "magic"), 2),
        (("--base", "HEAD", "--density", "some"), 2),
        (("--base", "HEAD", "--density", "0"), 51),
        (("--base", "HEAD", "--density", "nan"), 51),
        (("--base", "nowhere"), 50),
        (("--base", "HEAD~2"), 12),
    ):
        message = trained.fails("theta", "sparsify", M, *words, status=status)
        assert status == 2 or (message.startswith("gittheta: ") and "\n  " in message)
    assert "no checkpoint" in trained.fails("theta", "sparsify", ".gitattributes", "--base", "HEAD", status=12)
    assert trained.sha() == before
    assert not os.listdir(trained.store / "tmp")


@pytest.mark.slow
def test_a_manifest_that_waits_for_its_file(trained: Repo) -> None:
    text = trained.manifest()
    trained.write(M, text.encode())
    assert "git theta pull" in trained.fails("theta", "sparsify", M, "--base", "HEAD^", status=12)
    assert trained.read() == text.encode()
