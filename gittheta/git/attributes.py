"""Files of attributes: their lines, and which paths a pattern in them matches."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gittheta.git.process import Git
    from gittheta.git.repository import Repository

FILE = ".gitattributes"
#: Git passes over longer lines, in bytes.
MAX_LINE = 2048
_MACRO = "[attr]"
_LETTERS = {"a": "\a", "b": "\b", "t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r", '"': '"', "\\": "\\"}
_ESCAPES = {character: letter for letter, character in _LETTERS.items()}
_PROBE = "gittheta-probe"


@dataclass(frozen=True)
class Line:
    """One line that gives attributes to a pattern."""

    pattern: str
    attributes: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Line | None:
        """The line of that text; None for comments, macros and what Git does not understand."""
        text = text.strip(" \t\r\n")
        if not text or text.startswith(("#", _MACRO)):
            return None
        if not text.startswith('"'):
            pattern, *attributes = text.split()
            return cls(pattern, tuple(attributes))
        quoted = re.match(r'"((?:[^"\\]|\\.)*)"', text)
        return cls(_unquote(quoted[1]), tuple(text[quoted.end() :].split())) if quoted else None

    def __str__(self) -> str:
        return " ".join([_quote(self.pattern), *self.attributes])


def _quote(pattern: str) -> str:
    if not re.search(r'[\s"\x00-\x1f]', pattern) and not pattern.startswith("#"):
        return pattern
    return '"' + "".join(f"\\{_ESCAPES[c]}" if c in _ESCAPES else c for c in pattern) + '"'


def _unquote(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        return chr(int(match[1], 8)) if match[1][0].isdigit() else _LETTERS.get(match[1], match[1])

    return re.sub(r"\\([0-3][0-7]{2}|.)", character, text)


def read_lines(file: Path) -> list[str]:
    """The lines of a file of attributes; none if there is none."""
    try:
        return os.fsdecode(file.read_bytes()).splitlines()
    except FileNotFoundError:
        return []


def write_lines(file: Path, lines: Iterable[str]) -> None:
    """Replace a file of attributes. Raises OSError."""
    file.write_bytes(os.fsencode("".join(f"{line}\n" for line in lines)))


def attribute_files(repository: Repository) -> list[Path]:
    """Every file of attributes of the work tree and of the repository that exists."""
    if repository.top is None:
        return []
    listed = repository.git.run("ls-files", "-z", "--cached", "--others", "--", f":(glob)**/{FILE}")
    names = dict.fromkeys(os.fsdecode(listed).split("\0")[:-1])
    files = [*(repository.top / name for name in names), repository.common_dir / "info/attributes"]
    return [file for file in files if file.is_file()]


def parsed_lines(file: Path) -> Iterator[Line]:
    """The lines of a file that Git understands."""
    return (line for line in map(Line.parse, read_lines(file)) if line)


def matching(git: Git, folder: str, patterns: Sequence[str], paths: Iterable[str]) -> list[str]:
    """Those of some paths that a pattern of the attributes of a folder matches. All are seen from the top."""
    stdin = b"".join(os.fsencode(path) + b"\0" for path in paths)
    if not stdin or not patterns:
        return []
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary, "attributes")
        write_lines(file, (str(Line(_from_top(folder, pattern), (_PROBE,))) for pattern in patterns))
        asked = ("-c", f"core.attributesFile={file}", "check-attr", "-z", "--stdin", _PROBE)
        words = os.fsdecode(git.run(*asked, stdin=stdin)).split("\0")
    return [path for path, value in zip(words[0::3], words[2::3], strict=False) if value == "set"]


def _from_top(folder: str, pattern: str) -> str:
    """A pattern of a folder's attributes as one of the top's; relative ones match at any depth."""
    if not folder:
        return pattern
    within = pattern.removeprefix("/") if "/" in pattern else f"**/{pattern}"
    return f"{escaped(folder)}/{within}"


def escaped(path: str) -> str:
    """A pattern that matches this path alone."""
    return re.sub(r"([*?\[\\])", r"\\\1", path)
