"""Commit messages: adding trailers to one that is being written, and reading those of a commit.

Git's own command for trailers follows the user's settings: they can name other separators, forbid a trailer that is not
there yet, or run a program. What gittheta writes and reads does not depend on any of that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gittheta.git.process import Git
    from gittheta.git.repository import Repository

#: A line of which Git takes what follows out of the message; before the hyphens stands what begins a comment.
_SCISSORS = re.compile(rb".{1,64}? -{24} >8 -{24}\r?\n?")
_TRAILER = re.compile(rb"[A-Za-z0-9][A-Za-z0-9-]*[ \t]*:|[ \t]+\S|\(cherry picked from commit ")
#: What `core.commentChar=auto` chooses from.
_MARKS = b"#;@!$%^&|:"


def comment_mark(repository: Repository) -> bytes | None:
    """What begins a comment in messages; None if Git chooses it for each message."""
    mark = repository.setting("core.commentstring") or repository.setting("core.commentchar") or "#"
    return None if mark.lower() == "auto" else os.fsencode(mark)


def with_trailers(message: bytes, trailers: Sequence[str], mark: bytes | None) -> bytes:
    """A message with trailers at its end, before what Git takes out of it; those that are there are not repeated.

    ``mark`` is what begins a comment; None: what the last lines have in common, if that may be a comment.
    """
    lines = message.splitlines(keepends=True)
    end = _end(lines, mark)
    body, rest = lines[:end], lines[end:]
    if body and not body[-1].endswith(b"\n"):
        body[-1] += b"\n"
    there = {line.rstrip(b"\r\n") for line in body}
    fresh = [os.fsencode(line) for line in trailers if os.fsencode(line) not in there]
    apart = [] if _ends_with_trailers(body) else [b"\n"]
    return b"".join([*body, *apart, *(line + b"\n" for line in fresh), *rest]) if fresh else message


def _end(lines: Sequence[bytes], mark: bytes | None) -> int:
    """How many of the lines are the message itself."""
    end = next((at for at, line in enumerate(lines) if _SCISSORS.fullmatch(line)), len(lines))
    mark = mark or _common_mark(lines[:end])
    while end and (not lines[end - 1].strip() or (mark and lines[end - 1].startswith(mark))):
        end -= 1
    return end


def _common_mark(lines: Sequence[bytes]) -> bytes | None:
    """What the last two lines that are not empty begin with, if that may be a comment."""
    last = [line[:1] for line in lines if line.strip()][-2:]
    return last[0] if len(last) == 2 and last[0] == last[1] and last[0] in _MARKS else None


def _ends_with_trailers(body: Sequence[bytes]) -> bool:
    """Whether the last paragraph consists of trailers. The first one is the message's title."""
    begin = len(body)
    while begin and body[begin - 1].strip():
        begin -= 1
    return begin > 0 and begin < len(body) and all(map(_TRAILER.match, body[begin:]))


def trailer_lines(git: Git, commit: str, keys: Iterable[str]) -> list[str]:
    """The trailers of a commit that have one of these keys: those of the last paragraph in which there are any.

    Nothing but trailers and comments may follow it: a message that tells of another one's trailers has none.
    """
    message = git.run("cat-file", "commit", commit).partition(b"\n\n")[2]
    ours = tuple(os.fsencode(f"{key}:") for key in keys)
    for paragraph in reversed(re.split(rb"\n[ \t\r]*(?=\n)", message)):
        lines = paragraph.strip(b"\n").split(b"\n")
        if any(line.startswith(ours) for line in lines):
            return [os.fsdecode(line) for line in _unfolded(lines) if line.startswith(ours)]
        if not all(_TRAILER.match(line) or line[:1] in _MARKS for line in lines if line.strip()):
            return []
    return []


def _unfolded(lines: Iterable[bytes]) -> list[bytes]:
    """Lines that begin with a space go on with the line before them."""
    whole: list[bytes] = []
    for line in lines:
        if whole and line[:1] in (b" ", b"\t"):
            whole[-1] += b" " + line.strip()
        else:
            whole.append(line.rstrip(b"\r"))
    return whole
