"""Two adds at once, and an add that is killed: nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.changes import SIDE, M, at_origin, few, fine_tuned, names, shown, weights
from tests.support.checkpoints import bf16, checkpoint, sha256
from tests.support.world import Repo, World


@pytest.mark.slow
def test_two_processes_at_once_over_the_same_base(world: World, repo: Repo) -> None:
    base = weights(1, 400, 400)
    repo.commit(checkpoint({"w": bf16(base)}), "base.safetensors")
    contents = {f"{at}.safetensors": checkpoint({"w": bf16(few(base, at))}) for at in range(2)}
    for name, content in contents.items():
        repo.write(name, content)
    # Two `git add` would wait for one another's lock of the index; hash-object runs the same filter and takes none.
    running = [
        subprocess.Popen(
            ["git", "hash-object", "-w", "--path", name, name],
            cwd=repo.path,
            env=repo.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in contents
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=60) for process in running]
    assert all(process.returncode == 0 for process in running), answers
    assert all("Traceback" not in message for _, message in answers)
    repo.git("add", ".")
    repo.git("commit", "-q", "-m", "both")
    assert all(shown(repo, name)["w"] == ["sparse", "dense"] for name in contents)
    at_origin(world, repo)
    clone = world.clone(world.root / "hub.git")
    assert all(clone.read(name) == content for name, content in contents.items())
    repo.healthy()


@pytest.mark.everywhere
def test_two_adds_at_once(repo: Repo) -> None:
    base = weights(1, 200, 200)
    repo.commit(checkpoint({"w": bf16(base)}), "base.safetensors")
    for at in range(2):
        repo.write(f"{at}.safetensors", checkpoint({"w": bf16(few(base, at))}))
    running = [
        subprocess.Popen(["git", "add", f"{at}.safetensors"], cwd=repo.path, env=repo.env, stderr=subprocess.PIPE)
        for at in range(2)
    ]
    messages = [process.communicate(timeout=60)[1].decode() for process in running]
    for process, words in zip(running, messages, strict=True):
        assert process.returncode == 0 or "index.lock" in words, words
    repo.git("add", ".")
    repo.git("commit", "-q", "-m", "both")
    repo.healthy()


@pytest.mark.slow
def test_kill_while_a_change_is_added(repo: Repo) -> None:
    """What is left of it is a temporary file at most, which a later add removes."""
    values = weights(1, 2048, SIDE)
    repo.commit(checkpoint({"w": bf16(values)}))
    content = checkpoint({"w": bf16(fine_tuned(values))})
    repo.write(M, content)
    before = names(repo)
    for delay in (0.15, 0.3, 0.45):
        process = subprocess.Popen(["git", "add", M], cwd=repo.path, env=repo.env, stderr=subprocess.DEVNULL)
        time.sleep(delay)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        below = map(int, children.read_text().split()) if children.exists() else ()
        for victim in (*below, process.pid):
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()
        (repo.git_dir / "index.lock").unlink(missing_ok=True)
    repo.git("theta", "fsck")
    for path in repo.objects():
        assert path.name in before or sha256(path.read_bytes()) == path.name
    left = list((repo.store / "tmp").iterdir())
    for path in left:
        os.utime(path, (1, 1))
    assert repo.commit(content) == sha256(content)
    assert not list((repo.store / "tmp").iterdir())
    (repo.path / M).unlink()
    repo.git("checkout", "--", M)
    assert repo.read() == content
    repo.healthy()
