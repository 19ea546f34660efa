"""A world: a home folder of its own, a repository in it, and one tool that stores the large file."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

FILE = "model.safetensors"


@dataclass(frozen=True)
class Tool:
    """What stores large files. ``head`` is how the small file begins that Git gets in their place."""

    name: str
    verb: str
    head: bytes


THETA = Tool("gittheta", "theta", b"gittheta manifest ")
LFS = Tool("git-lfs", "lfs", b"version https://git-lfs.github.com/spec/v1\n")


def works(tool: Tool) -> bool:
    """Whether the tool is installed."""
    done = subprocess.run(
        ["git", tool.verb, "--version"], capture_output=True, check=False, env=_environment(Path("/"))
    )
    return done.returncode == 0


@dataclass(frozen=True)
class World:
    """``folder/home`` and ``folder/repo``. Without a tool it is plain Git."""

    folder: Path
    tool: Tool | None

    @property
    def repository(self) -> Path:
        """The work tree."""
        return self.folder / "repo"

    @property
    def file(self) -> Path:
        """The checkpoint in the work tree."""
        return self.repository / FILE

    @property
    def environment(self) -> dict[str, str]:
        """What every command here is run with."""
        return _environment(self.folder / "home")

    def renew(self) -> None:
        """An empty repository that tracks checkpoints; files in the work tree stay."""
        shutil.rmtree(self.repository / ".git", ignore_errors=True)
        self.repository.mkdir(parents=True, exist_ok=True)
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        (home / ".gitconfig").write_text(
            "[user]\nname = Bench\nemail = bench@example.org\n[init]\ndefaultBranch = main\n"
        )
        self.git("init", "--quiet")
        if self.tool is not None:
            self.git(self.tool.verb, "install")
            (self.repository / ".gitattributes").unlink(missing_ok=True)
            self.git(self.tool.verb, "track", "*.safetensors")
            self.expect_filter()
            self.git("add", ".gitattributes")
            self.git("commit", "--quiet", "-m", "track checkpoints")

    def expect_filter(self) -> None:
        """Refuse to go on where Git would swallow the file whole."""
        assert self.tool is not None
        if not self.filter_command() or f": {self.tool.verb}\n" not in self.git("check-attr", "filter", FILE).decode():
            raise SystemExit(f"{self.tool.name}: the filter is not set up in {self.repository}")

    def filter_command(self) -> str:
        """How Git starts the tool's long-running filter."""
        assert self.tool is not None
        return self.git("config", f"filter.{self.tool.verb}.process").decode().strip()

    def expect_stored(self) -> None:
        """Refuse to go on if Git holds the file itself."""
        assert self.tool is not None
        if not self.git("cat-file", "blob", f":{FILE}").startswith(self.tool.head):
            raise SystemExit(f"{self.tool.name}: git holds the file whole")

    def expect_file(self, digest: str) -> None:
        """Refuse to go on if the checkpoint is not what was added, or Git takes it for changed."""
        if sha256(self.file) != digest:
            raise SystemExit(f"{self.tool}: the file came back with another SHA-256")
        self.expect_quiet()

    def expect_quiet(self) -> None:
        """Refuse to go on if Git takes anything for changed."""
        changes = self.git("status", "--porcelain")
        if changes:
            raise SystemExit(f"{self.tool}: git status is not quiet:\n{changes.decode()}")

    def commit(self, message: str) -> None:
        """Commit what is staged."""
        self.git("commit", "--quiet", "-m", message)

    def git(self, *words: str, cwd: Path | None = None) -> bytes:
        """Standard output of a git command that must succeed."""
        done = subprocess.run(
            ["git", *words], cwd=cwd or self.repository, env=self.environment, capture_output=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"git {' '.join(words)}: status {done.returncode}\n{done.stderr.decode(errors='replace')}")
        return done.stdout

    def seconds(self, *words: str, cwd: Path | None = None) -> float:
        """How long a git command takes, from nothing pending on the disk."""
        os.sync()  # nobody pays for what another left unwritten
        began = time.perf_counter()
        self.git(*words, cwd=cwd)
        return time.perf_counter() - began


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _environment(home: Path) -> dict[str, str]:
    """No settings but our own, and the programs of this Python's environment first."""
    dropped = ("GIT_", "GITTHETA_", "XDG_", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**kept, "HOME": str(home), "PATH": programs, "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
