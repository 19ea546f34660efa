"""What a migration makes of files of attributes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gittheta.flows.maintain.tracking import ATTRIBUTES, PROTECTED, swallows
from gittheta.git.attributes import Line

if TYPE_CHECKING:
    from gittheta.git.process import Git

_THETA, _LFS = ATTRIBUTES[0], "filter=lfs"
_NONE = ("!filter", "!merge", "!diff", "!text")


def with_filter(git: Git, folder: str, content: bytes | None, patterns: Sequence[str], *, from_lfs: bool) -> bytes:
    """A file of attributes in which the filter is in force for some patterns; ``None``: there is no file yet.

    With ``from_lfs``, lines that give the very same patterns to Git LFS go. A file below the top only gets lines if
    some of its own give files to Git LFS: otherwise those of the top are in force.
    """
    lines = _lines(content)
    parsed = [(line, Line.parse(line)) for line in lines]
    if from_lfs:
        parsed = [
            (text, line) for text, line in parsed if not (line and _LFS in line.attributes and _is(line, patterns))
        ]
    others_lfs = any(line and _LFS in line.attributes for _, line in parsed)
    kept = [text for text, _ in parsed]
    if folder and not (from_lfs and (others_lfs or len(kept) < len(lines))):
        return content or b""
    here = [pattern for pattern in patterns if not folder or "/" not in pattern]
    known = {line.pattern for _, line in parsed if line and _THETA in line.attributes}
    # A line of Git LFS that stands behind ours would win.
    added = [str(Line(pattern, ATTRIBUTES)) for pattern in here if others_lfs or pattern not in known]
    protection = [str(line) for line in PROTECTED]
    if added and swallows(git, folder, here):
        kept = [text for text in kept if text not in protection]
        added += protection
    return _joined(kept + added) if kept + added != lines or content is None else content


def without_filter(content: bytes, patterns: Sequence[str], *, at_top: bool) -> bytes | None:
    """A file of attributes in which nothing is ours, or not these patterns if there are any; None if it is empty."""
    kept: list[str] = []
    for text in _lines(content):
        line = Line.parse(text)
        if line and _THETA in line.attributes and (not patterns or line.pattern in patterns):
            left = tuple(word for word in line.attributes if word not in ATTRIBUTES)
            kept += [str(Line(line.pattern, left))] if left else []
        else:
            kept.append(text)
    parsed = [line for line in map(Line.parse, kept) if line]
    ours = any(_THETA in line.attributes for line in parsed)
    if ours and at_top:
        gone = {line.pattern for text in _lines(content) if (line := Line.parse(text)) and _THETA in line.attributes}
        kept += [str(Line(pattern, _NONE)) for pattern in patterns if pattern not in gone]
    if not ours:
        protection = [str(line) for line in PROTECTED]
        kept = [text for text in kept if text not in protection]
    if kept == _lines(content):
        return content
    return _joined(kept) if kept else None


def _is(line: Line, patterns: Sequence[str]) -> bool:
    return line.pattern in patterns


def _lines(content: bytes | None) -> list[str]:
    return os.fsdecode(content or b"").split("\n")[: None if content and not content.endswith(b"\n") else -1]


def _joined(lines: list[str]) -> bytes:
    return os.fsencode("".join(f"{line}\n" for line in lines))
