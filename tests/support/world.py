"""A user's machine: a home of its own, and repositories in which real git runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from gittheta.cli.verbs.setup.install import COMMANDS
from tests.support.checkpoints import sha256
from tests.support.stores import object_files

ATTRIBUTES = "*.safetensors filter=theta merge=theta diff=theta -text\n"


IDENTITY = """\
[user]
	name = Tester
	email = tester@example.com
[init]
	defaultBranch = main
[advice]
	detachedHead = false
[maintenance]
	auto = false
"""


#: A folder with another `git` than that on PATH, for the tests that drive Git.
OTHER_GIT = os.environ.get("GITTHETA_TEST_GIT", "")

Done = subprocess.CompletedProcess[str]


@cache
def git_version() -> tuple[int, int]:
    """The version of the Git that the tests drive."""
    text = subprocess.run(["git", "version"], env={"PATH": search_path()}, capture_output=True, check=True).stdout
    numbers = re.search(rb"(\d+)\.(\d+)", text)
    assert numbers
    return int(numbers[1]), int(numbers[2])


def search_path() -> str:
    """PATH: the other Git if there is one, then the programs of this environment."""
    folders = [OTHER_GIT, str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return os.pathsep.join(folder for folder in folders if folder)


def environment(home: Path, **more: str) -> dict[str, str]:
    """What the test's own environment must not leak into."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GIT", "XDG_", "PYTEST", "COV"))}
    fixed = {
        "HOME": str(home),
        "PATH": search_path(),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C.UTF-8",
    }
    return kept | fixed | {"GIT_EDITOR": "true", "TZ": "UTC"} | more


@dataclass
class Place:
    """A directory in which commands run."""

    path: Path
    env: dict[str, str]

    def attempt(self, *words: str, stdin: str | bytes = b"", env: Mapping[str, str] | None = None) -> Done:
        """Run a program, whatever it answers."""
        given = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            words,
            cwd=self.path,
            env=self.env | dict(env or {}),
            input=given,
            capture_output=True,
            check=False,
            timeout=120,
        )
        out, err = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def run(self, *words: str, stdin: str | bytes = b"", env: Mapping[str, str] | None = None) -> Done:
        """Run git; it must succeed, and nothing of ours may have crashed."""
        done = self.attempt("git", *words, stdin=stdin, env=env)
        assert done.returncode == 0, f"git {words} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def git(self, *words: str, stdin: str | bytes = b"", env: Mapping[str, str] | None = None) -> str:
        """What a git command that must succeed prints."""
        return self.run(*words, stdin=stdin, env=env).stdout

    def fails(self, *words: str, status: int | None = None, stdin: str | bytes = b"") -> str:
        """What a git command that must fail, but not crash, says on stderr."""
        done = self.attempt("git", *words, stdin=stdin)
        assert done.returncode != 0, f"git {words} succeeded:\n{done.stdout}\n{done.stderr}"
        assert status is None or done.returncode == status, f"{done.returncode}, not {status}:\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done.stderr


@dataclass
class Repo(Place):
    """A repository with a work tree."""

    def write(self, name: str, content: bytes) -> str:
        """Write a file of the work tree; returns its SHA-256."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return sha256(content)

    def read(self, name: str = "m.safetensors") -> bytes:
        """The bytes of a file of the work tree."""
        return (self.path / name).read_bytes()

    def sha(self, name: str = "m.safetensors") -> str:
        """The SHA-256 of a file of the work tree."""
        return sha256(self.read(name))

    def commit(self, content: bytes, name: str = "m.safetensors", message: str = "change") -> str:
        """Commit one file; returns its SHA-256."""
        result = self.write(name, content)
        self.git("add", "--", name)
        self.git("commit", "-q", "-m", message)
        return result

    def branch(self, name: str, content: bytes, start: str = "main", file: str = "m.safetensors") -> str:
        """Commit a file on a new branch; returns its SHA-256."""
        self.git("checkout", "-q", "-b", name, start)
        return self.commit(content, file, f"on {name}")

    def manifest(self, name: str = "m.safetensors", revision: str = "") -> str:
        """What Git itself stores for a file."""
        return self.git("cat-file", "blob", f"{revision}:{name}")

    def status(self) -> str:
        """Nothing, if all is as it was committed."""
        return self.git("status", "--porcelain")

    @property
    def git_dir(self) -> Path:
        """This work tree's own."""
        return Path(self.git("rev-parse", "--path-format=absolute", "--git-dir").strip())

    @property
    def store(self) -> Path:
        """Where this repository keeps its objects."""
        return Path(self.git("rev-parse", "--path-format=absolute", "--git-common-dir").strip()) / "theta"

    def objects(self) -> list[Path]:
        """The files of all objects."""
        return objects_in(self.store)

    def healthy(self) -> None:
        """Status is quiet, nothing waits for a hook, every object is whole and every tensor can be rebuilt."""
        assert self.status() == ""
        assert not (self.git_dir / "theta-pending").exists()
        self.git("theta", "fsck", "--deep")


def objects_in(store: Path) -> list[Path]:
    """The files of all objects of a store."""
    return object_files(store)


@dataclass
class World:
    """A user's machine."""

    root: Path
    home: Path
    env: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.env = environment(self.home)

    def heed_python_path(self, folder: str) -> None:
        """Let the filter and the merge driver import from a folder, which what `git theta install` sets forbids."""
        self.env["PYTHONPATH"] = folder
        for key, words in COMMANDS.items():
            self.place().git("config", "--global", key, f"'{sys.executable}' -P -m gittheta {words}")

    def place(self, name: str = ".") -> Place:
        """A directory."""
        return Place(self.root / name, self.env)

    def repo(self, name: str = "repo", attributes: str = ATTRIBUTES) -> Repo:
        """A new repository that tracks safetensors files."""
        path = self.root / name
        self.place().git("init", "-q", str(path))
        repo = Repo(path, self.env)
        if attributes:
            repo.write(".gitattributes", attributes.encode())
            repo.git("add", ".gitattributes")
            repo.git("commit", "-q", "-m", "track")
        return repo

    def bare(self, name: str = "hub.git") -> Path:
        """A new bare repository to push to."""
        self.place().git("init", "-q", "--bare", name)
        return self.root / name

    def clone(self, source: str | Path, name: str = "clone", *options: str) -> Repo:
        """A clone, by an URL or path."""
        self.place().git("clone", "-q", *options, str(source), name)
        return Repo(self.root / name, self.env)


@dataclass(frozen=True)
class Template:
    """A world that was built once, to be copied by many tests; and the SHA-256 of each version in it."""

    root: Path
    shas: dict[str, str]

    def copy_to(self, world: World) -> Repo:
        """Everything in it; returns the repository named `repo`."""
        shutil.copytree(self.root, world.root, symlinks=True, dirs_exist_ok=True)
        return Repo(world.root / "repo", world.env)


def two_branches(root: Path, home: Path, base: bytes, ours: bytes, theirs: bytes) -> Template:
    """A model that main and side have changed, each in its own way; main is checked out."""
    world = World(root, home)
    repo = world.repo()
    repo.commit(base)
    repo.branch("side", theirs)
    repo.git("checkout", "-q", "main")
    repo.commit(ours)
    return Template(root, {})
