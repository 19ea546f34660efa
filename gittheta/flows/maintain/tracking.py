"""track and untrack: from what a user types to lines of ``.gitattributes``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.errors import ConfigError, GitError
from gittheta.git.attributes import (
    FILE,
    MAX_LINE,
    Line,
    attribute_files,
    escaped,
    matching,
    parsed_lines,
    read_lines,
    write_lines,
)
from gittheta.git.index import untracked_files

if TYPE_CHECKING:
    from gittheta.git.process import Git
    from gittheta.git.repository import Repository

ATTRIBUTES = ("filter=theta", "merge=theta", "diff=theta", "-text")
#: What Git and gittheta read themselves, which stays text whatever matches it. Always the last lines.
PROTECTED = tuple(Line(pattern, ("!filter", "!merge", "!diff")) for pattern in (".git*", "theta.toml"))
_EXAMPLE = "for example: git theta track '*.safetensors'"


@dataclass(frozen=True)
class Tracked:
    """A pattern, and the folder in whose ``.gitattributes`` it stands, seen from the top; or the other file."""

    folder: str
    pattern: str
    file: Path


@dataclass
class Tracking:
    """The patterns of one work tree, as they are and as a user who stands in a folder of it wants them.

    Raises GitError in a bare repository.
    """

    repository: Repository
    current: Path
    top: Path = field(init=False)

    def __post_init__(self) -> None:
        if self.repository.top is None:
            raise GitError("a bare repository has no files to track", hint="run this in a work tree")
        self.top = Path(os.path.realpath(self.repository.top))
        self.current = Path(os.path.realpath(self.current))

    def patterns(self) -> list[Tracked]:
        """Every pattern that is tracked, in the files of all folders."""
        return [
            Tracked(_folder(self.top, file), line.pattern, file)
            for file in attribute_files(self.repository)
            for line in parsed_lines(file)
            if ATTRIBUTES[0] in line.attributes
        ]

    def wanted(self, word: str) -> Tracked:
        """The pattern that a word of the user's means. Raises ConfigError if it can match nothing."""
        reason = _is_nonsense(word, self.current)
        if reason:
            raise ConfigError(reason, hint=_EXAMPLE)
        folder, pattern = self._meaning(re.sub("/{2,}", "/", word))
        check_pattern(word, pattern)
        return Tracked(folder, pattern, self.top / folder / FILE)

    def add(self, wanted: Sequence[Tracked]) -> list[Tracked]:
        """Write patterns down; returns those that are new. Raises ConfigError where Git LFS has the files."""
        known = {(pattern.file, pattern.pattern) for pattern in self.patterns()}
        new = [pattern for pattern in dict.fromkeys(wanted) if (pattern.file, pattern.pattern) not in known]
        for pattern in new:
            self._refuse_lfs(pattern)
        for file, patterns in groupby(sorted(new, key=attrgetter("file")), attrgetter("file")):
            self._rewrite(file, read_lines(file), [Line(pattern.pattern, ATTRIBUTES) for pattern in patterns])
        return new

    def remove(self, word: str) -> Tracked | None:
        """Take the pattern that a word means away, or else the pattern that is spelt like it; None if neither is."""
        spelt = Tracked(_folder(self.top, self.current / FILE), word, self.current / FILE)
        meanings = [self.wanted(word)] if not _is_nonsense(word, self.current) else []
        return next((pattern for pattern in (*meanings, spelt) if self._take_away(pattern)), None)

    def _take_away(self, unwanted: Tracked) -> bool:
        lines = read_lines(unwanted.file)
        kept = [line for line in lines if not _tracks(line, unwanted.pattern)]
        if kept != lines:
            # Written even if it is empty: `git add --renormalize` trips over a tracked file that is gone.
            self._rewrite(unwanted.file, kept, [])
        return kept != lines

    def not_in_force(self, patterns: Sequence[Tracked]) -> dict[str, str]:
        """Files that match the patterns although another line gives them another filter, and that filter."""
        paths = [path for pattern in patterns for path in self._files(pattern)]
        filters = self.repository.attributes(["filter"], paths)
        return {path: value["filter"] for path, value in filters.items() if value["filter"] != "theta"}

    def _meaning(self, word: str) -> tuple[str, str]:
        """Folder and pattern. What begins with a dot or the root is a path; anything else may match at any depth."""
        here = _folder(self.top, self.current / FILE)
        if word.startswith("/"):
            path = self._from_root(word)
        elif word in (".", "..") or re.search(r"(^|/)\.\.?(/|$)", word):
            path = os.path.normpath(os.path.join(self.current, word))
        else:
            path = ""
        folder = word.endswith("/") or os.path.isdir(self.current / word)
        name = word.rstrip("/")
        literal = re.search(r"[\[\\]", name) and os.path.lexists(self.current / name)
        if path:
            return self._anchored(path, literal=bool(literal), folder=folder)
        name = escaped(name) if literal else name
        name = f"/{name}" if name.startswith("!") else name
        return here, f"{name}/**" if folder else name

    def _from_root(self, word: str) -> str:
        """An absolute path in the work tree; nothing if the word is a pattern that begins with a slash."""
        parent, name = os.path.split(word.rstrip("/"))
        path = os.path.join(os.path.realpath(parent), name)
        if Path(path) == self.top or self.top in Path(path).parents:
            return path
        if os.path.lexists(word) or (parent != "/" and os.path.isdir(parent)):
            raise _outside(word)
        return ""

    def _anchored(self, path: str, *, literal: bool, folder: bool) -> tuple[str, str]:
        """Folder and pattern of a path of this work tree, which is meant alone: in the nearest folder above it."""
        target = Path(path)
        if target != self.top and self.top not in target.parents:
            raise _outside(path)
        base = self.current
        while base != target and base not in target.parents:
            base = base.parent
        name = target.relative_to(base).as_posix()
        name = escaped(name) if literal else name
        pattern = "*" if name == "." else f"{name}/**" if folder else name
        return _folder(self.top, base / FILE), pattern if "/" in pattern or name == "." else f"/{pattern}"

    def _refuse_lfs(self, pattern: Tracked) -> None:
        filters = self.repository.attributes(["filter"], self._files(pattern))
        names = [path for path, value in filters.items() if value["filter"] == "lfs"]
        lines = [line.pattern for line in parsed_lines(pattern.file) if "filter=lfs" in line.attributes]
        if names or pattern.pattern in lines:
            raise ConfigError(
                f"'{pattern.pattern}' is tracked by Git LFS" + (f", {names[0]} for example" if names else ""),
                hint="get the files by `git lfs pull`, then take the line away: git lfs untrack PATTERN",
            )

    def _files(self, pattern: Tracked) -> list[str]:
        entries = (entry.path for entry in self.repository.index())
        paths = dict.fromkeys([*entries, *untracked_files(self.repository.git)])
        return matching(self.repository.git, pattern.folder, [pattern.pattern], paths)

    def _rewrite(self, file: Path, lines: list[str], new: list[Line]) -> None:
        protection = [str(line) for line in PROTECTED]
        lines = [line for line in lines if line not in protection] + [str(line) for line in new]
        tracked = [line.pattern for line in map(Line.parse, lines) if line and ATTRIBUTES[0] in line.attributes]
        swallowed = swallows(self.repository.git, _folder(self.top, file), tracked)
        write_lines(file, lines + (protection if swallowed else []))


def swallows(git: Git, folder: str, patterns: Sequence[str]) -> bool:
    """Whether patterns of a folder's attributes match files that Git or gittheta read themselves."""
    within = {pattern.rpartition("/")[0].strip("/") for pattern in patterns}
    probes = [
        "/".join(part for part in (folder, above, name) if part)
        for above in within
        for name in (FILE, ".gitignore", ".gitmodules", "theta.toml")
    ]
    return bool(matching(git, folder, patterns, probes))


def _folder(top: Path, file: Path) -> str:
    """The folder of a file of attributes, seen from the top; empty for the top, and for files outside."""
    return "" if top not in file.parents else file.parent.relative_to(top).as_posix().removeprefix(".")


def _tracks(text: str, pattern: str) -> bool:
    line = Line.parse(text)
    return line is not None and line.pattern == pattern and ATTRIBUTES[0] in line.attributes


def _outside(path: str) -> ConfigError:
    return ConfigError(f"outside of this work tree: '{path}'", hint="run this in the repository that has the file")


def _is_nonsense(word: str, current: Path) -> str:
    """Why a word means nothing, unless there is a file of that very name."""
    if word and os.path.lexists(current / word):
        return ""
    if not word.strip():
        return "an empty pattern matches nothing"
    return f"git has no negative patterns in attributes: '{word}'" if word.startswith("!") else ""


def check_pattern(word: str, pattern: str) -> None:
    """Raise ConfigError if Git would never match anything with a pattern."""
    reason = next(_flaws(pattern), None)
    if reason:
        raise ConfigError(f"'{word}' can match nothing: {reason}", hint=_EXAMPLE)


def _flaws(pattern: str) -> Iterator[str]:
    name = pattern.rpartition("/")[2]
    if name.startswith(".git") or name == "theta.toml":
        yield "Git and gittheta read such files themselves, so they stay text"
    if ".git" in pattern.split("/"):
        yield "Git adds nothing from its own folder"
    if pattern.startswith("[attr]"):
        yield "git takes it for a macro; write ./ before it"
    if re.search(r"(?<!\\)(?:\\\\)*\\$", pattern):
        yield "it ends in a backslash"
    if _has_open_bracket(pattern):
        yield "a bracket is not closed; write \\[ for the character"
    if len(os.fsencode(str(Line(pattern, ATTRIBUTES)))) >= MAX_LINE:
        yield f"git passes over lines of {MAX_LINE} bytes"


def _has_open_bracket(pattern: str) -> bool:
    rest = re.sub(r"\\.", "", pattern)
    return "[" in re.sub(r"\[[!^]?\]?[^\]/]*\]", "", rest)
