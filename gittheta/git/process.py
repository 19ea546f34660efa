"""One Git command, or one long-running reader of blobs: argv lists, NUL-separated output, a known environment."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from gittheta.errors import GitError

#: Variables that Git sets, or passes on, for the command at work. `git stash` and the like point at a temporary index,
#: but what is asked here is about the real one. Inner ones, such as the prefix of a superproject, change what Git
#: prints and not what it reads. Ways to read a path (`git --literal-pathspecs`) are meant for the user's own words.
_FOR_GIT_ALONE = re.compile(r"GIT_INDEX_FILE|GIT_INTERNAL_\w+|GIT_PREFIX|GIT_(?:LITERAL|GLOB|NOGLOB|ICASE)_PATHSPECS")
#: What Git sets for one repository; `git rev-parse --local-env-vars` lists the same, and settings of the command.
_OF_ONE_REPOSITORY = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_QUARANTINE_PATH",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
)
_FOUND = re.compile(rb"([0-9a-f]{40,64}) ([a-z]+) ([0-9]+)\n")


class Git:
    """Git commands in one directory. Safe to use from several threads."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        #: What Git commands see, and what was given to this one by Git.
        self.environment = {
            **{name: value for name, value in os.environ.items() if not _FOR_GIT_ALONE.fullmatch(name)},
            "LC_ALL": "C",
        }

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

    def begin(self, name: str, size: int) -> bytes | None:
        """The first ``size`` bytes of a blob, or all if it is shorter; None if the name resolves to no blob."""
        with self._lock:
            return None if "\0" in name else self._read(name, None, size)

    def resolve(self, name: str) -> str | None:
        """The id of the object that a name stands for; None if there is none."""
        if "\0" in name:
            return None
        with self._lock:
            answer = self._ask(name)
            if answer is None:
                return None
            self._skip(int(answer[3]) + 1)
            return answer[1].decode()

    def _read(self, name: str, limit: int | None, most: int | None = None) -> bytes | None:
        answer = self._ask(name)
        if answer is None:
            return None
        size = int(answer[3])
        if answer[2] != b"blob" or (limit is not None and size > limit):
            self._skip(size + 1)
            return None
        assert self.process.stdout  # noqa: S101 - it was asked for as a pipe
        part = size if most is None else min(size, most)
        data = self.process.stdout.read(part)
        if len(data) < part:
            raise GitError("git cat-file has died", hint="run `git fsck`; the repository may be damaged")
        self._skip(size - part + 1)
        return data

    def _ask(self, name: str) -> re.Match[bytes] | None:
        """Id, kind and size of the object that a name stands for; its content, and a byte more, follow in the pipe."""
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
        return answer

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


@dataclass
class AttributeReader:
    """Reads one attribute of paths, from one process. Close it in the end. Safe to use from several threads."""

    process: subprocess.Popen[bytes]
    _lock: Lock = field(default_factory=Lock, repr=False)

    @classmethod
    def open(cls, git: Git, attribute: str) -> AttributeReader:
        """A reader of an attribute as it is in the work tree."""
        process = subprocess.Popen(
            ["git", "check-attr", "-z", "--stdin", attribute],
            cwd=git.directory,
            env=git.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return cls(process)

    def read(self, path: str) -> str:
        """The value of the attribute of a path, or ``set``, ``unset``, ``unspecified``. Raises GitError."""
        assert self.process.stdin  # noqa: S101 - both were asked for as pipes
        assert self.process.stdout  # noqa: S101
        with self._lock:
            self.process.stdin.write(os.fsencode(path) + b"\0")
            self.process.stdin.flush()
            answer = bytearray()
            while answer.count(b"\0") < 3:  # path, attribute, value
                piece = os.read(self.process.stdout.fileno(), 1 << 16)
                if not piece:
                    raise GitError("git check-attr has died", hint="look at .gitattributes")
                answer += piece
        return os.fsdecode(bytes(answer).split(b"\0")[2])

    def close(self) -> None:
        """End the process."""
        self.process.communicate()
