"""Attributes as the files of attributes of one tree give them, whatever the work tree holds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.git.attributes import Line, write_lines

if TYPE_CHECKING:
    from gittheta.git.process import Git

_PROBE = "gittheta-probe"


@dataclass(frozen=True, slots=True)
class PathAttributes:
    """The filter of a path, and whether one of the patterns that were asked about matches it."""

    filter: str
    matched: bool


@dataclass
class TreeAttributes:
    """Answers for any set of files of attributes. For one thread."""

    git: Git
    #: A folder for an index and a list of patterns.
    scratch: Path
    patterns: Sequence[str]
    _known: dict[frozenset[tuple[str, str]], dict[str, PathAttributes]] = field(default_factory=dict)
    _current: frozenset[tuple[str, str]] | None = None

    def of(self, files: Mapping[str, str], paths: Iterable[str]) -> dict[str, PathAttributes]:
        """The attributes of some paths; ``files``: the blobs of all files of attributes, by their paths."""
        key = frozenset(files.items())
        known = self._known.setdefault(key, {})
        paths = list(paths)
        unknown = [path for path in paths if path not in known]
        if unknown:
            known |= self._asked(key, unknown)
        return {path: known[path] for path in paths}

    def _asked(self, key: frozenset[tuple[str, str]], paths: list[str]) -> dict[str, PathAttributes]:
        index, probes = self.scratch / "index", self.scratch / "attributes"
        apart = self.git.with_environment(GIT_INDEX_FILE=str(index))
        if self._current != key:
            index.unlink(missing_ok=True)
            lines = "".join(f"100644 {oid} 0\t{path}\0" for path, oid in sorted(key))
            apart.run("update-index", "-z", "--index-info", stdin=os.fsencode(lines))
            write_lines(probes, (str(Line(pattern, (_PROBE,))) for pattern in self.patterns))
            self._current = key
        stdin = b"".join(os.fsencode(path) + b"\0" for path in paths)
        words = ("check-attr", "--cached", "-z", "--stdin", "filter", _PROBE)
        answer = os.fsdecode(apart.run("-c", f"core.attributesFile={probes}", *words, stdin=stdin)).split("\0")
        values = iter(answer[2::3])
        return {
            path: PathAttributes(value, next(values) == "set")
            for path, value in zip(answer[0::6], values, strict=False)
        }
