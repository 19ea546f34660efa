"""One Git command, or one long-running reader of blobs: argv lists, NUL-separated output, a known environment."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from gittheta.errors import GitError

#: `git stash` and the like point at a temporary index, but what is asked here is about the real one. The prefix of
#: a superproject goes before every path that Git prints, and before none that it reads.
_FOR_GIT_ALONE = ("GIT_INDEX_FILE", "GIT_INTERNAL_SUPER_PREFIX")
#: What Git sets for one repository; `git rev-parse --local-env-vars` lists the same, and settings of the command.
_OF_ONE_REPOSITORY = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_QUARANTINE_PATH",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
)
_FOUND = re.compile(rb"[0-9a-f]{40,64} ([a-z]+) ([0-9]+)\n")


class Git:
    """Git commands in one directory. Safe to use from several threads."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        #: What Git commands see, and what was given to this one by Git.
        self.environment = {**os.environ, "LC_ALL": "C"}
        for name in _FOR_GIT_ALONE:
            self.environment.pop(name, None)

    def run(self, *words: str, stdin: bytes | None = None) -> bytes:
        """Standard output of one command. Raises GitError, with what Git said, on another exit status."""
        done = self.attempt(*words, stdin=stdin)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            raise GitError(f"git {words[0]} failed with status {done.returncode}: {said}")
        return done.stdout

    def attempt(self, *words: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run one command, whatever it answers."""
        return subprocess.run(
            ["git", *words],
            cwd=self.directory,
            env=self.environment,
            input=stdin if stdin is not None else b"",
            capture_output=True,
            check=False,
        )

    def show(self, *words: str) -> int:
        """Run one command whose output, and that of filters and hooks that it starts, is for the user."""
        return subprocess.run(["git", *words], cwd=self.directory, env=self.environment, check=False).returncode

    @classmethod
    def elsewhere(cls, directory: Path) -> Git:
        """Git commands in another repository or work tree than the one for which Git called us."""
        other = cls(directory)
        for name in _OF_ONE_REPOSITORY:
            other.environment.pop(name, None)
        return other

    def with_environment(self, **variables: str) -> Git:
        """The same with other variables."""
        other = Git(self.directory)
        other.environment = {**self.environment, **variables}
        return other

    def within(self, directory: Path) -> Git:
        """The same in another directory."""
        other = Git(directory)
        other.environment = self.environment
        return other

    def as_stored(self) -> Git:
        """The same without `git replace`: for what is sent, kept or deleted, since Git itself sends what is stored."""
        return self.with_environment(GIT_NO_REPLACE_OBJECTS="1")

    def write_blob(self, content: bytes) -> str:
        """The object id of a blob, which is stored."""
        return self.line("hash-object", "-w", "--stdin", "--no-filters", stdin=content)

    def line(self, *words: str, stdin: bytes | None = None) -> str:
        """The one line that a command prints."""
        return os.fsdecode(self.run(*words, stdin=stdin)).rstrip("\n")


@dataclass
class BlobReader:
    """Reads blobs by any name that Git resolves. Use as a context, or close it. Safe to use from several threads."""

    process: subprocess.Popen[bytes]
    _lock: Lock = field(default_factory=Lock, repr=False)

    @classmethod
    def open(cls, git: Git) -> BlobReader:
        """A reader of the blobs of a repository."""
        process = subprocess.Popen(
            ["git", "cat-file", "--batch", "-z"],
            cwd=git.directory,
            env=git.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return cls(process)

    def read(self, name: str, limit: int | None = None) -> bytes | None:
        """The content of a blob; None if the name resolves to no blob, or to one larger than ``limit`` bytes."""
        if "\0" in name:  # no object has such a name, and Git would take it for two
            return None
        with self._lock:
            return self._read(name, limit)

    def _read(self, name: str, limit: int | None) -> bytes | None:
        assert self.process.stdin  # noqa: S101 - both were asked for as pipes
        assert self.process.stdout  # noqa: S101
        self.process.stdin.write(os.fsencode(name) + b"\0")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        answer = _FOUND.fullmatch(line)
        if not line:
            raise GitError("git cat-file has died", hint="run `git fsck`; the repository may be damaged")
        if not answer:
            for _ in range(name.count("\n")):  # "NAME missing" repeats the name, line ends and all
                self.process.stdout.readline()
            return None
        size = int(answer[2])
        wanted = answer[1] == b"blob" and (limit is None or size <= limit)
        data = None
        if wanted:
            data = self.process.stdout.read(size)
            if len(data) < size:
                raise GitError("git cat-file has died", hint="run `git fsck`; the repository may be damaged")
        else:
            self._skip(size)
        self.process.stdout.read(1)
        return data

    def _skip(self, size: int) -> None:
        assert self.process.stdout  # noqa: S101
        while size and (read := self.process.stdout.read(min(size, 1 << 20))):
            size -= len(read)

    def close(self) -> None:
        """End the process."""
        self.process.communicate()

    def __enter__(self) -> BlobReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
