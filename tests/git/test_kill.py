"""kill -9, a full disk, two processes at once: the next command works, and nothing is lost."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.checkpoints import checkpoint, noise, sha256
from tests.support.parameters import first_often
from tests.support.processes import kill, limited, unlock
from tests.support.world import Place, Repo, World, objects_in

M = "m.safetensors"
SIZE = 40 << 20


@cache
def _large(seed: int) -> bytes:
    """Ten tensors that do not compress, so that all of it is written."""
    return checkpoint({f"layer.{at}": ("U8", (SIZE // 10,), noise(seed * 100 + at, SIZE // 10)) for at in range(10)})


def _rounds(count: int) -> Iterator[tuple[float, str]]:
    """When to strike, and whom."""
    rng = random.Random(count)
    for at in range(count):
        yield rng.uniform(0.1, 0.9), ("filter", "git", "all")[at % 3]


def _kill_add(repo: Repo, count: int) -> None:
    repo.write(M, _large(1))
    for delay, victim in _rounds(count):
        kill(repo, ("add", "."), delay, victim)
        unlock(repo.git_dir)
        repo.git("theta", "fsck")
        for file in repo.objects():
            assert sha256(file.read_bytes()) == file.name
    repo.git("add", ".")
    repo.git("commit", "-q", "-m", "first")
    (repo.path / M).unlink()
    repo.git("checkout", "--", M)
    assert repo.read() == _large(1)
    repo.healthy()


def _kill_checkout(repo: Repo, count: int) -> None:
    for seed in (1, 2):
        repo.commit(_large(seed))
    for delay, victim in _rounds(count):
        kill(repo, ("checkout", "-f", "main~1"), delay, victim)
        unlock(repo.git_dir)
        repo.git("checkout", "-q", "-f", "main")
        assert repo.read() == _large(2)
        repo.healthy()
    repo.git("checkout", "-q", "main~1")
    assert repo.read() == _large(1)


def _kill_push(world: World, repo: Repo, count: int) -> None:
    hub = Place(world.bare(), world.env)
    repo.git("remote", "add", "origin", str(hub.path))
    repo.commit(_large(1))
    for delay, victim in _rounds(count):
        kill(repo, ("push", "origin", "main"), delay * 0.7, victim)
        unlock(hub.path)
        for file in objects_in(hub.path / "theta"):
            assert sha256(file.read_bytes()) == file.name
        if hub.git("for-each-ref"):
            hub.git("theta", "fsck", "--deep")
    repo.git("push", "-q", "origin", "main")
    hub.git("theta", "fsck", "--deep")
    assert world.clone(hub.path).read() == _large(1)


def test_kill_add(repo: Repo) -> None:
    _kill_add(repo, 3)


def test_kill_checkout(repo: Repo) -> None:
    _kill_checkout(repo, 3)


def test_kill_push(world: World, repo: Repo) -> None:
    _kill_push(world, repo, 3)


@pytest.mark.slow
@pytest.mark.parametrize("victim", first_often(1, ["filter", "git", "all"]))
def test_kill_materialise(world: World, repo: Repo, victim: str) -> None:
    """A large file that the hook was writing: one command puts it in its place."""
    for seed in (1, 2):
        repo.commit(_large(seed))
    repo.git("config", "theta.smudgeLimit", "1k")
    kill(repo, ("checkout", "-q", "main~1"), 0.55, victim)
    unlock(repo.git_dir)
    repo.git("checkout", "-q", "-f", "main~1")
    repo.git("theta", "pull")
    assert repo.read() == _large(1)
    assert repo.status() == ""
    assert list(repo.path.glob(".*.gittheta")) == []


@pytest.mark.slow
def test_kill_often(world: World) -> None:
    _kill_add(world.repo("one"), 30)
    _kill_checkout(world.repo("two"), 30)
    _kill_push(world, world.repo("three"), 30)


@pytest.mark.slow
def test_two_adds_at_once_in_two_worktrees(repo: Repo, world: World) -> None:
    repo.git("worktree", "add", "-q", "../linked", "-b", "linked")
    linked = Repo(world.root / "linked", world.env)
    places = [repo, linked]
    for at, place in enumerate(places):
        for number in range(3):
            place.write(
                f"{number}.safetensors",
                checkpoint({"shared": ("U8", (9,), noise(7, 9)), "x": ("U8", (4 << 20,), noise(at + number, 4 << 20))}),
            )
    adding = [
        subprocess.Popen(["git", "add", "."], cwd=place.path, env=place.env, stderr=subprocess.PIPE) for place in places
    ]
    for add in adding:
        message = add.communicate()[1]
        assert add.returncode == 0, message
    for place in places:
        shas = [place.sha(f"{number}.safetensors") for number in range(3)]
        place.git("commit", "-q", "-m", "at once")
        for number in range(3):
            (place.path / f"{number}.safetensors").unlink()
        place.git("checkout", "--", ".")
        assert [place.sha(f"{number}.safetensors") for number in range(3)] == shas
        place.healthy()


@pytest.mark.slow
def test_no_space_for_an_add(repo: Repo) -> None:
    repo.write(M, _large(1))
    done = limited(repo, "add .", 8 << 10)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr, done.stderr
    assert f"gittheta: {M}: " in done.stderr
    assert "cannot read or write" in done.stderr
    assert repo.objects() == []
    assert list((repo.store / "tmp").iterdir()) == []
    assert repo.status() == f"?? {M}\n"
    repo.git("add", ".")
    repo.git("commit", "-q", "-m", "first")
    repo.healthy()


@pytest.mark.slow
def test_no_space_for_a_push(world: World, repo: Repo) -> None:
    hub = Place(world.bare(), world.env)
    repo.git("remote", "add", "origin", str(hub.path))
    repo.commit(_large(1))
    done = limited(repo, "push origin main", 8 << 10)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr, done.stderr
    assert "cannot read or write" in done.stderr
    assert hub.git("for-each-ref") == ""
    assert objects_in(hub.path / "theta") == []
    repo.git("push", "-q", "origin", "main")
    hub.git("theta", "fsck", "--deep")


@pytest.mark.slow
def test_no_space_for_a_materialised_file(repo: Repo) -> None:
    repo.commit(_large(1))
    repo.git("config", "theta.smudgeLimit", "1k")
    (repo.path / M).unlink()
    done = limited(repo, f"checkout -- {M}", 8 << 10)
    assert "Traceback" not in done.stderr, done.stderr
    assert "cannot read or write" in done.stderr
    assert repo.read().startswith(b"gittheta manifest")
    assert list((repo.store / "tmp").iterdir()) == []
    repo.git("theta", "pull")
    assert repo.read() == _large(1)
    repo.healthy()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB; without the right to mount one, the limit on file sizes above has to do."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk(world: World, small_disk: Path) -> None:
    repo = world.repo("disk/repo")
    small, big = (checkpoint({"x": ("U8", (size << 20,), noise(size, size << 20))}) for size in (4, 9))
    repo.commit(small, "small.safetensors")
    repo.write(M, big)
    message = repo.fails("add", M)
    assert f"gittheta: {M}: " in message
    assert "No space left on device" in message
    (repo.path / M).unlink()
    repo.healthy()
    second = checkpoint({"x": ("U8", (2 << 20,), noise(3, 2 << 20))})
    repo.commit(second, "second.safetensors")
    repo.healthy()
