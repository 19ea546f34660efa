"""A work repository that two users of a group share. Needs to be root, to be both of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint
from tests.support.world import IDENTITY, environment

pytestmark = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can be two users")
GROUP = 54321
#: The Python of the tests may lie in a home that others cannot enter. What they may write is not changed by this.
MAY_READ = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that others than root can reach, which pytest's own folders are not."""
    folder = Path(tempfile.mkdtemp(prefix="gittheta-shared-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def model(seed: int) -> bytes:
    return checkpoint({"w": np.random.default_rng(seed).normal(0, 0.02, (64, 64)).astype(np.float32)})


class User:
    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self.home = folder / f"home-{number}"
        self.home.mkdir()
        (self.home / ".gitconfig").write_text(IDENTITY + "[safe]\n\tdirectory = *\n")
        for path in (self.home, self.home / ".gitconfig"):
            os.chown(path, number, GROUP)

    def attempt(self, words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
        identity = ["setpriv", f"--reuid={self.number}", f"--regid={GROUP}", "--clear-groups"]
        return subprocess.run(
            [*identity, *MAY_READ, *words],
            cwd=folder,
            env=environment(self.home),
            umask=0o022,
            capture_output=True,
            text=True,
            check=False,
        )

    def git(self, *words: str, folder: Path) -> str:
        done = self.attempt(["git", *words], folder)
        assert done.returncode == 0, done.stderr
        assert "warning" not in done.stderr, done.stderr
        return done.stdout


@pytest.mark.slow
def test_two_users_add_to_a_shared_repository_in_turn(shared: Path) -> None:
    first, second = User(shared, 54321), User(shared, 54322)
    if not shutil.which("setpriv") or first.attempt([sys.executable, "-c", "import gittheta"], shared).returncode:
        pytest.skip("other users cannot run this Python")
    for user in (first, second):
        user.git("theta", "install", "--global", folder=user.home)
    repo = shared / "repo"
    repo.mkdir()
    os.chown(repo, first.number, GROUP)
    repo.chmod(0o2775)
    first.git("init", "-q", "--shared=group", folder=repo)
    first.git("theta", "track", "*.safetensors", folder=repo)
    for number, user in enumerate((first, second, first, second)):
        path = repo / "m.safetensors"
        path.unlink(missing_ok=True)
        path.write_bytes(model(number))
        os.chown(path, user.number, GROUP)
        user.git("add", "-A", folder=repo)
        user.git("commit", "-q", "-m", f"version {number}", folder=repo)
        (repo / ".git" / "COMMIT_EDITMSG").unlink()  # which Git itself creates for one user alone
        user.git("theta", "gc", folder=repo)
    second.git("checkout", "-q", "-f", "HEAD~3", folder=repo)
    assert (repo / "m.safetensors").read_bytes() == model(0)
    second.git("theta", "fsck", "--deep", folder=repo)
