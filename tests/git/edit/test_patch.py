"""`git theta patch` and `apply-patch`: between files, without any repository, and between versions of one."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint, model, sha256
from tests.support.world import Place, Repo, World


def large(seed: int) -> bytes:
    """128 tensors of 256 KiB, of which an odd seed changes some elements each."""
    random = np.random.default_rng(1)
    tensors = {f"layer.{at}": random.normal(0, 0.02, (256, 256)).astype(np.float32) for at in range(128)}
    if seed:
        for values in tensors.values():
            values[seed % 256] *= 2
    return checkpoint(tensors)


@pytest.fixture
def place(world: World) -> Place:
    """A folder with two versions and a patch from the one to the other, in no repository."""
    folder = world.root / "files"
    folder.mkdir()
    (folder / "old").write_bytes(large(0))
    (folder / "new").write_bytes(large(1))
    place = Place(folder, world.env)
    place.git("theta", "patch", "old", "new", "-o", "patch")
    return place


def test_files(place: Place) -> None:
    old, new = (place.path / name for name in ("old", "new"))
    assert (place.path / "patch").stat().st_size < 0.02 * len(large(1))
    assert "the new version" in place.git("theta", "apply-patch", "patch", "old", "-o", "result")
    assert (place.path / "result").read_bytes() == new.read_bytes()
    assert "new version already" in place.git("theta", "apply-patch", "patch", "new")
    place.git("theta", "apply-patch", "--in-place", "patch", "old")
    assert old.read_bytes() == new.read_bytes()
    assert "not a patch" in place.fails("theta", "apply-patch", "old", "new", status=11)
    assert "nothing to undo" in place.fails("theta", "apply-patch", "--undo", "old", status=20)
    place.fails("theta", "apply-patch", "patch", status=2)
    assert sorted(path.name for path in place.path.iterdir()) == ["new", "old", "patch", "result"]


def test_versions(repo: Repo, tmp_path: Path) -> None:
    for seed in (1, 2):
        repo.commit(model(seed))
    told = repo.git("theta", "patch", "HEAD~", "HEAD", "m.safetensors", "-o", "../patch")
    assert "tensors changed" in told
    (tmp_path / "copy").write_bytes(model(1))
    Place(tmp_path, repo.env).git("theta", "apply-patch", "patch", "copy")
    assert (tmp_path / "copy").read_bytes() == model(2)
    repo.write("mine.safetensors", model(3))
    repo.git("theta", "patch", "HEAD:m.safetensors", "mine.safetensors", "-o", "../more")
    Place(tmp_path, repo.env).git("theta", "apply-patch", "more", "copy")
    assert (tmp_path / "copy").read_bytes() == model(3)
    repo.git("theta", "patch", "HEAD~:m.safetensors", "HEAD:m.safetensors", "-o", "../flat", "--format", "vllm")
    assert "not a checkpoint that gittheta stores" in repo.fails(
        "theta", "patch", "HEAD:.gitattributes", "HEAD:m.safetensors", "-o", "../x"
    )
    assert "not a file of a commit" in repo.fails("theta", "patch", "HEAD:nothing", "HEAD:m.safetensors", "-o", "../x")


@pytest.mark.parametrize("words", [(), ("--in-place",)])
def test_killed(place: Place, words: tuple[str, ...]) -> None:
    """The file is one version or the other, or the same command completes it, or undo restores it."""
    target = place.path / "target"
    old, new = sha256(large(0)), sha256(large(1))
    for delay in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
        target.write_bytes((place.path / "old").read_bytes())
        process = subprocess.Popen(
            ["git-theta", "apply-patch", *words, "patch", "target"],
            cwd=place.path,
            env=place.env,
            stdout=subprocess.DEVNULL,
        )
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (place.path / ".target.gittheta-journal").exists() and delay * 10 % 2 < 1:
            place.git("theta", "apply-patch", "--undo", "target")
            assert sha256(target.read_bytes()) == old
        elif not words:
            assert sha256(target.read_bytes()) in (old, new)
        place.git("theta", "apply-patch", *words, "patch", "target")
        assert sha256(target.read_bytes()) == new
        assert not os.path.exists(place.path / ".target.gittheta-journal")
