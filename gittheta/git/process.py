"""One Git command, or one long-running reader of blobs: argv lists, NUL-separated output, a known environment."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from gittheta.errors import GitError

_FOUND = re.compile(rb"[0-9a-f]{40,64} ([a-z]+) ([0-9]+)\n")


class Git:
    """Git commands in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        #: What Git commands see, and what was given to this one by Git.
        self.environment = {**os.environ, "LC_ALL": "C"}
        # `git stash` and the like point at a temporary index; what is asked here is about the real one.
        self.environment.pop("GIT_INDEX_FILE", None)

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

    def line(self, *words: str) -> str:
        """The one line that a command prints."""
        return os.fsdecode(self.run(*words)).rstrip("\n")

    def batch(self) -> BlobReader:
        """A long-running reader of blobs."""
        process = subprocess.Popen(
            ["git", "cat-file", "--batch", "-z"],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return BlobReader(process)


@dataclass
class BlobReader:
    """Reads blobs by any name that Git resolves. Use as a context, or close it."""

    process: subprocess.Popen[bytes]

    def read(self, name: str, limit: int | None = None) -> bytes | None:
        """The content of a blob; None if the name resolves to no blob, or to one larger than ``limit`` bytes."""
        assert self.process.stdin  # noqa: S101 - both were asked for as pipes
        assert self.process.stdout  # noqa: S101
        if "\0" in name:  # no object has such a name, and Git would take it for two
            return None
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
