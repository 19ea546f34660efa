"""Commits with other files in them, by ``git fast-export`` and ``git fast-import``. No ref of the user's moves here."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from gittheta.errors import GitError

if TYPE_CHECKING:
    from gittheta.git.process import Git

#: What fast-import moves while it writes commits; deleted in the end.
SCRATCH = "refs/theta/rewriting"
_OCTAL = re.compile(rb"\\([0-3][0-7]{2}|.)")
_LETTERS = {b"a": b"\a", b"b": b"\b", b"t": b"\t", b"n": b"\n", b"v": b"\v", b"f": b"\f", b"r": b"\r"}


@dataclass(frozen=True, slots=True)
class Change:
    """A file that a commit writes over its first parent; without mode and oid, one that it deletes."""

    path: str
    mode: str = ""
    oid: str = ""


@dataclass(frozen=True)
class ExportedCommit:
    """A commit as it is, and what it changes over its first parent. A commit without parents changes all its files."""

    oid: str
    parents: tuple[str, ...]
    changes: tuple[Change, ...]


Edit = Callable[[ExportedCommit], Iterable[Change]]


def rewrite(git: Git, tips: Iterable[str], edit: Edit, marks: Path) -> dict[str, str]:
    """Write all commits that some commits reach anew, parents first, each with the changes that ``edit`` answers.

    Returns the new commit of each old one. ``marks`` is a free path for a list of fast-import's. Raises GitError, and
    whatever ``edit`` raises.
    """
    with tempfile.TemporaryFile() as names:
        names.write("".join(f"{tip}\n" for tip in dict.fromkeys(tips)).encode())
        names.seek(0)
        reading = _started(git, "fast-export", *_EXPORT, stdin=names, stdout=subprocess.PIPE)
    writing = _started(git, "fast-import", *_IMPORT, f"--export-marks={marks}", stdin=subprocess.PIPE, stdout=None)
    try:
        old = _pass_on(reading.stdout, writing.stdin, edit)  # type: ignore[arg-type]
    except BaseException as error:
        for process in (reading, writing):
            process.kill()
            process.communicate()
        if isinstance(error, BrokenPipeError):
            raise GitError("git fast-import has ended early", hint="run `git fsck`, then the command again") from error
        raise
    _end(reading, "fast-export")
    _end(writing, "fast-import")
    git.run("update-ref", "-d", SCRATCH)
    return {old[mark]: new for mark, new in _read_marks(marks)}


_EXPORT = ("--no-data", "--show-original-ids", "--reencode=no", "--stdin")
_IMPORT = ("--quiet", "--force", "--done")


def _started(git: Git, *words: str, stdin: int | IO[bytes], stdout: int | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["git", *words], cwd=git.directory, env=git.environment, stdin=stdin, stdout=stdout)


def _end(process: subprocess.Popen[bytes], name: str) -> None:
    process.communicate()
    if process.returncode:
        raise GitError(f"git {name} failed with status {process.returncode}", hint="run `git fsck`")


def _read_marks(marks: Path) -> Iterator[tuple[bytes, str]]:
    if marks.exists():
        for line in marks.read_bytes().splitlines():
            mark, _, oid = line.partition(b" ")
            yield mark, oid.decode()


def _pass_on(stream: IO[bytes], target: IO[bytes], edit: Edit) -> dict[bytes, str]:
    """Hand commits over, with other changes; returns the old commit of each mark."""
    old: dict[bytes, str] = {}
    for block in _blocks(stream):
        old[block.mark] = block.oid
        parents = tuple(old[mark] for mark in block.parents)
        changes = edit(ExportedCommit(block.oid, parents, tuple(map(_change, block.changes))))
        # Without a parent, fast-import would take what it wrote last for one.
        begin = b"" if parents else b"reset " + SCRATCH.encode() + b"\n\n"
        target.write(begin + b"commit " + SCRATCH.encode() + b"\nmark " + block.mark + b"\n" + block.head)
        target.write(b"".join(map(_line, changes)) + b"\n")
    target.write(b"done\n")
    return old


@dataclass
class _Block:
    """One commit of the stream."""

    mark: bytes = b""
    oid: str = ""
    #: Author, committer, encoding, message and parents: what stays as it is.
    head: bytes = b""
    parents: tuple[bytes, ...] = ()
    changes: tuple[bytes, ...] = ()


def _blocks(stream: IO[bytes]) -> Iterator[_Block]:
    block = _Block()
    for line in stream:
        if line.startswith(b"commit "):
            if block.mark:
                yield block
            block = _Block()
        else:
            _read_line(block, line, stream)
    if block.mark:
        yield block


def _read_line(block: _Block, line: bytes, stream: IO[bytes]) -> None:
    word, _, rest = line.rstrip(b"\n").partition(b" ")
    if word == b"mark":
        block.mark = rest
    elif word == b"original-oid":
        block.oid = rest.decode()
    elif word in (b"author", b"committer", b"encoding"):
        block.head += line
    elif word == b"data":
        block.head += line + _exactly(stream, int(rest)) + b"\n"
    elif word in (b"from", b"merge"):
        block.head += line
        block.parents += (rest,)
    elif word in (b"M", b"D"):
        block.changes += (line.rstrip(b"\n"),)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise GitError("git fast-export has ended early", hint="run `git fsck`")
    return data


def _change(line: bytes) -> Change:
    """``M MODE OID PATH`` or ``D PATH``."""
    if line.startswith(b"D "):
        return Change(_path(line[2:]))
    _, mode, oid, path = line.split(b" ", 3)
    return Change(_path(path), mode.decode(), oid.decode())


def _path(text: bytes) -> str:
    if text.startswith(b'"'):
        text = _OCTAL.sub(_character, text[1:-1])
    return os.fsdecode(text)


def _character(match: re.Match[bytes]) -> bytes:
    digits = match[1]
    return bytes([int(digits, 8)]) if digits[:1].isdigit() else _LETTERS.get(digits, digits)


def _line(change: Change) -> bytes:
    path = os.fsencode(change.path)
    quoted = b'"' + path.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n") + b'"'
    return b"M %s %s %s\n" % (change.mode.encode(), change.oid.encode(), quoted) if change.mode else b"D %s\n" % quoted
