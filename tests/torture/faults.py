"""What may happen while a git command runs: a process is killed, the disk is full or fails, a bit flips."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.processes import kill, unlock
from tests.support.world import Done, Repo

#: Folders of a store whose files belong to processes that live, or are scripts: what a script with another bit does,
#: nobody can promise.
_OF_PROCESSES = ("tmp", "claims", "hooks", "hook-events")


@dataclass(frozen=True)
class Faults:
    """Runs git commands, some of them under a fault."""

    random: random.Random
    #: The file system on which everything lies, if it is a small one of its own.
    disk: Path | None
    #: The preloaded library that lets calls fail; None where there is no compiler.
    library: Path | None
    #: What was done, for whoever looks for the reason of a failure.
    told: list[str] = field(default_factory=list)

    def attempt(self, repo: Repo, *words: str) -> Done:
        """One git command under some fault or none. Nothing of ours may crash, whatever happens."""
        kinds = [self._calm] * 6 + [self._killed, self._flipped, self._flipped]
        kinds += [self._full] if self.disk else []
        kinds += [self._failing, self._failing] if self.library else []
        kind = self.random.choice(kinds)
        done = kind(repo, *words)
        self.told.append(
            f"{repo.path.name}{kind.__name__}: git {' '.join(words)}: {done.returncode} {done.stderr[:300]}"
        )
        assert "Traceback" not in done.stderr, f"git {words}: {done.stderr}"
        assert "Segmentation" not in done.stderr, done.stderr
        return done

    def _calm(self, repo: Repo, *words: str) -> Done:
        return repo.attempt("git", *words)

    def _killed(self, repo: Repo, *words: str) -> Done:
        kill(repo, words, self.random.uniform(0.01, 0.6), self.random.choice(("filter", "git", "all")))
        unlock(repo.git_dir)
        return subprocess.CompletedProcess(words, -9, "", "")

    def _full(self, repo: Repo, *words: str) -> Done:
        assert self.disk
        filler = self.disk / "filler"
        left = self.random.choice((0, 4 << 10, 64 << 10))
        try:
            with suppress(OSError), open(filler, "wb", buffering=0) as file:
                while shutil.disk_usage(self.disk).free > left:
                    file.write(bytes(max(4096, min(1 << 20, shutil.disk_usage(self.disk).free - left))))
            return repo.attempt("git", *words)
        finally:
            filler.unlink(missing_ok=True)
            unlock(repo.git_dir)

    def _failing(self, repo: Repo, *words: str) -> Done:
        fault = {
            "LD_PRELOAD": str(self.library),
            "FAILING_IO": str(self.random.choice((20, 100, 400))),
            "FAILING_IO_SEED": str(self.random.randrange(1 << 20)),
            "FAILING_IO_ERRNO": str(self.random.choice((errno.EIO, errno.EIO, errno.ENOSPC))),
        }
        return repo.attempt("git", *words, env=fault)

    def _flipped(self, repo: Repo, *words: str) -> Done:
        with self._one_bit_else(repo.store):
            return repo.attempt("git", *words)

    @contextmanager
    def _one_bit_else(self, store: Path) -> Iterator[None]:
        """One bit of one file of a store is another; caches stay so, objects are mended afterwards."""
        files = sorted(
            path for path in store.rglob("*") if path.is_file() and path.parent.name not in ("tmp", "claims")
        )
        file = self.random.choice(files) if files else None
        before = file.read_bytes() if file else b""
        if not file or not before:
            yield
            return
        at = self.random.randrange(len(before))
        self.told.append(f"a bit flips in {file.relative_to(store)} at {at}")
        _replace(file, before[:at] + bytes([before[at] ^ 1 << self.random.randrange(8)]) + before[at + 1 :])
        try:
            yield
        finally:
            if "objects" in file.parts:
                _replace(file, before)


def _replace(file: Path, content: bytes) -> None:
    """Other bytes in the same file, as a failing disk would have them: its time and its mode stay."""
    with suppress(FileNotFoundError):
        status = file.stat()
        file.chmod(0o600)
        with open(file, "r+b") as writer:
            writer.write(content)
        file.chmod(status.st_mode & 0o777)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
