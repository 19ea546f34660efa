"""Merging when things go wrong: kill -9, Ctrl-C, a full disk, lost or damaged objects.

The next command works, nothing is lost, and whatever is wrong is said in words.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.checkpoints import bf16, checkpoint, noise, normal, tensors_of
from tests.support.parameters import first_often
from tests.support.processes import kill, limited, processes_below, unlock
from tests.support.world import Repo, Template, World

M = "m.safetensors"
SHAPE = (200, 600)
BASE = {"still": normal(1, *SHAPE)} | {f"w{at}": bf16(normal(at, *SHAPE)) for at in range(4)}
SIDES = {
    name: BASE | {f"w{at}": bf16(normal(seed + at, *SHAPE)) for at in range(3)}
    for name, seed in {"main": 10, "a": 20, "b": 30}.items()
}
MERGE = ("merge", "--no-edit", "a")
OCTOPUS = ("merge", "--no-edit", "-s", "theta", "a", "b")
PICK = ("cherry-pick", "a")
REBASE = ("rebase", "a")
RESOLVE = ("theta", "resolve", M, "linear")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, installed_home: Path) -> Template:
    """Three branches that changed the same tensors; main is checked out."""
    world = World(tmp_path_factory.mktemp("built"), installed_home)
    repo = world.repo()
    repo.commit(checkpoint(BASE))
    for name in ("a", "b"):
        repo.branch(name, checkpoint(SIDES[name]))
    repo.git("checkout", "-q", "main")
    repo.commit(checkpoint(SIDES["main"]))
    repo.git("branch", "before")
    return Template(world.root, {})


@pytest.fixture
def sides(world: World, built: Template) -> Repo:
    """The repository of the three."""
    return built.copy_to(world)


OURS = checkpoint(SIDES["main"])


def restart(repo: Repo) -> None:
    """Give up whatever is going on, by git's own means, and look whether all is as it was."""
    unlock(repo.git_dir)
    for file in repo.path.glob(".merge_file_??????"):  # git's own, which it would have removed
        file.unlink()
    for verb in ("merge", "rebase", "cherry-pick"):
        repo.attempt("git", verb, "--abort")
    repo.git("checkout", "-q", "-f", "main")
    repo.git("reset", "-q", "--hard", "before")
    assert repo.read() == OURS
    repo.healthy()


def conflict(repo: Repo) -> None:
    """A merge in which the user wants to be asked."""
    repo.attempt("git", "-c", "theta.merge.method=conflict", *MERGE)
    assert repo.status() == f"UU {M}\n"


def strike(repo: Repo, words: tuple[str, ...], count: int) -> None:
    """Kill a command at some moments of its life, and see that nothing of it stays and that it can be run again."""
    began = time.monotonic()
    if words == RESOLVE:
        conflict(repo)
        began = time.monotonic()
    repo.git(*words)
    lasts = time.monotonic() - began
    result = repo.read()
    assert result != OURS
    restart(repo)
    rng = random.Random(f"{words}{count}")
    for at in range(count):
        if words == RESOLVE:
            conflict(repo)
        kill(repo, words, rng.uniform(0.1, 1.0) * lasts, ("filter", "git", "all")[at % 3])
        unlock(repo.git_dir)
        repo.git("status")
        repo.git("theta", "conflicts")
        repo.git("theta", "fsck", "--deep")
        if words == RESOLVE:
            assert repo.read() in (OURS, result), "torn"
            if repo.read() == OURS:
                repo.git(*words)
            assert repo.read() == result
        restart(repo)
    for file in (repo.store / "tmp").iterdir():
        os.utime(file, (0, 0))
    if words == RESOLVE:
        conflict(repo)
    repo.git(*words)
    assert repo.read() == result
    if words == RESOLVE:
        repo.git("commit", "-q", "-a", "--no-edit")
    repo.healthy()
    assert list((repo.store / "tmp").iterdir()) == []
    assert not [file for file in repo.path.iterdir() if file.name.endswith((".new", ".gittheta"))]


@pytest.mark.slow
@pytest.mark.parametrize("words", [MERGE, OCTOPUS], ids=["driver", "strategy"])
def test_killed(sides: Repo, words: tuple[str, ...]) -> None:
    strike(sides, words, 1)


@pytest.mark.slow
@pytest.mark.parametrize("words", [MERGE, OCTOPUS, PICK, REBASE, RESOLVE], ids=lambda words: "-".join(words[:2]))
def test_killed_often(sides: Repo, words: tuple[str, ...]) -> None:
    strike(sides, words, 6)


@pytest.mark.slow
@pytest.mark.parametrize("words", [MERGE, OCTOPUS, RESOLVE], ids=["driver", "strategy", "resolve"])
def test_interrupted(sides: Repo, words: tuple[str, ...]) -> None:
    """Ctrl-C goes to git and to all that it has started."""
    rng = random.Random(5)
    for _ in range(4):
        if words == RESOLVE:
            conflict(sides)
        merging = subprocess.Popen(
            ["git", *words],
            cwd=sides.path,
            env=sides.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        time.sleep(rng.uniform(0.2, 2.0))
        if merging.poll() is None:
            os.killpg(merging.pid, signal.SIGINT)
        message = merging.communicate()[1].decode()
        assert "Traceback" not in message, message
        while processes_below(merging.pid):
            time.sleep(0.02)
        sides.git("status")
        sides.git("theta", "conflicts")
        restart(sides)
    assert list((sides.store / "tmp").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("words", first_often(1, [MERGE, OCTOPUS]), ids=["driver", "strategy"])
def test_no_space(sides: Repo, words: tuple[str, ...]) -> None:
    done = limited(sides, " ".join(words), 100)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr, done.stderr
    assert M in done.stderr
    assert "cannot read or write" in done.stderr
    assert sides.read() == OURS
    assert list((sides.store / "tmp").iterdir()) == []
    restart(sides)
    sides.git(*words)
    sides.healthy()


@pytest.mark.slow
def test_no_space_to_resolve_a_conflict(sides: Repo) -> None:
    conflict(sides)
    done = limited(sides, " ".join(RESOLVE), 100)
    assert done.returncode == 20, done.stderr
    assert "ulimit -f" in done.stderr
    assert sides.read() == OURS
    sides.git(*RESOLVE)
    assert sides.read() != OURS
    sides.git("commit", "-q", "-a", "--no-edit")
    sides.healthy()


@pytest.mark.slow
def test_no_space_for_the_merged_manifest(repo: Repo) -> None:
    """Each version fits, both together do not: Git must not get half a manifest."""
    base = {"x": normal(1, 2)}
    versions = [base | {f"{name}{at}": normal(at, 2) for at in range(400)} for name in "ab"]
    repo.commit(checkpoint(base))
    repo.branch("a", checkpoint(versions[0]))
    repo.git("checkout", "-q", "main")
    repo.commit(checkpoint(versions[1]))
    done = limited(repo, " ".join(MERGE), 100)
    assert done.returncode == 1, done.stderr
    assert repo.read() == checkpoint(versions[1])
    assert sorted(file.name for file in repo.path.iterdir()) == [".git", ".gitattributes", M]
    repo.git("theta", "resolve", M, "linear")
    assert tensors_of(repo.read()) == tensors_of(checkpoint(versions[0] | versions[1]))


@pytest.mark.slow
def test_lost_objects(world: World, sides: Repo) -> None:
    """They are fetched; without a remote that has them it is said what is missing, and nothing has changed."""
    hub = world.bare()
    sides.git("push", "-q", str(hub), "--all")
    shutil.rmtree(sides.store / "objects")
    message = sides.fails(*MERGE)
    assert "tensor 'w0': object " in message
    assert sides.read() == OURS
    sides.git("remote", "add", "origin", str(hub))
    sides.git("merge", "--abort")
    assert sides.read() == OURS
    sides.git(*OCTOPUS)
    sides.git("theta", "fetch", "--all")
    sides.healthy()


@pytest.mark.slow
def test_a_damaged_object(sides: Repo) -> None:
    text = sides.manifest(revision="a")
    result = re.search(r"\[w1\]\n.*\n(?:.* )?(\w{64}):(\d+)\+", text)
    assert result
    (file,) = [file for file in sides.objects() if file.name == result[1]]
    data = bytearray(file.read_bytes())
    data[int(result[2]) + 2000] ^= 16
    file.chmod(0o644)
    file.write_bytes(data)
    for words in (MERGE, OCTOPUS):
        message = sides.fails(*words)
        assert "tensor 'w1': " in message
        assert "git theta fsck" in message
        assert sides.read() == OURS
        sides.attempt("git", "merge", "--abort")
        assert sides.status() == ""


@pytest.mark.slow
def test_merges_at_once_in_two_worktrees(world: World, sides: Repo) -> None:
    sides.git("worktree", "add", "-q", "../linked", "-b", "linked", "before")
    linked = Repo(world.root / "linked", world.env)
    linked.write("new.safetensors", checkpoint({"x": ("U8", (1 << 20,), noise(1, 1 << 20))}))
    commands = [(sides, OCTOPUS), (linked, MERGE), (linked, ("theta", "fsck", "--deep"))]
    going = [
        subprocess.Popen(["git", *words], cwd=place.path, env=place.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for place, words in commands
    ]
    for each in going:
        message = each.communicate()[1]
        assert each.returncode == 0, message.decode()
    linked.commit(linked.read("new.safetensors"), "new.safetensors")
    for place in (sides, linked):
        sha = place.sha()
        (place.path / M).unlink()
        place.git("checkout", "--", M)
        assert place.sha() == sha
        place.healthy()
